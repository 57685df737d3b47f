"""Many files, tables and arrays in pieces: the same scores however they are cut, and no half files."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from sparsense.cli import app
from sparsense.data import array_rows as data_rows
from sparsense.data.array_rows import array_rows, array_shape
from sparsense.data.table_rows import csv_marks, csv_rows, parquet_rows
from sparsense.errors import InputError, UnsafeFileError
from sparsense.runtime import ExportedDetector
from sparsense.scoring import reading
from sparsense.scoring.pieces import Piece, pieces
from tiny_detectors import card, write_detector

parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
import pyarrow as pa  # noqa: E402

ROWS = 57


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A detector whose score is the mean of a row, and the same rows in every kind of file."""
    monkeypatch.chdir(tmp_path)
    write_detector(Path("d.onnx"), shape=("N", 3), card=card(layout="ND", dtype="float32"))
    write_detector(Path("pixels.onnx"))
    values = table()
    np.save("x.npy", values)
    np.save("fortran.npy", np.asfortranarray(values))
    np.savez("x.npz", X=values, y=np.zeros(ROWS))
    np.savez_compressed("packed.npz", values)
    with Path("x.csv").open("w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream).writerows([['a "quoted"\nname', "b", "c"], *values.tolist()])
    columns = dict(zip("abc", values.T, strict=True))
    parquet.write_table(pa.table(columns), "x.parquet", row_group_size=10)
    parquet.write_table(pa.table({"row": list(values)}), "lists.parquet", row_group_size=10)
    return tmp_path


def table() -> np.ndarray:
    return np.random.default_rng(0).normal(90, 10, (ROWS, 3)).round(2).astype(np.float32)


FILES = ["x.npy", "fortran.npy", "x.npz", "packed.npz", "x.csv", "x.parquet", "lists.parquet"]


def score(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["score", *arguments])


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def scores(folder: Path) -> list[tuple[str, float]]:
    rows = [row for part in parts(folder) for row in parquet.read_table(part).to_pylist()]
    return [(row["input"], row["score"]) for row in rows]


@pytest.mark.parametrize("file", FILES)
def test_any_file_gives_the_means_of_its_rows(folder: Path, file: str) -> None:
    result = score("d.onnx", file, "--format", "jsonl")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["input"] for row in rows] == [f"{file}:{i}" for i in range(ROWS)]
    np.testing.assert_allclose([row["score"] for row in rows], table().mean(1), rtol=1e-6)


@pytest.mark.parametrize("size", [1, 10, 13, ROWS, 1000])
def test_however_files_are_cut_the_rows_are_the_same(folder: Path, size: int) -> None:
    assert (
        score("d.onnx", *FILES, "--format", "parquet", "--output", "out", "--rows-per-file", str(size)).exit_code == 0
    )
    found = scores(folder / "out")
    assert [name for name, _ in found] == [f"{file}:{i}" for file in FILES for i in range(ROWS)]
    np.testing.assert_allclose([value for _, value in found], np.tile(table().mean(1), len(FILES)), rtol=1e-6)
    assert len(parts(folder / "out")) == len(FILES) * -(-ROWS // size)
    anomalies = int((table().mean(1) > 95).sum())
    assert json.loads((folder / "out/done.json").read_text()) == {"rows": ROWS * 7, "anomalies": anomalies * 7}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_text_parts_are_counted_when_they_are_there_already(folder: Path, kind: str) -> None:
    asked = ["d.onnx", "x.npy", "--format", kind, "--output", "out", "--rows-per-file", "20"]
    first, again = score(*asked), score(*asked)
    assert first.stderr == again.stderr
    assert first.stderr.startswith(f"{ROWS} scored, {int((table().mean(1) > 95).sum())} anomalous")


def test_images_in_parquet_and_in_a_folder(folder: Path) -> None:
    (folder / "images").mkdir()
    contents = []
    for grey in range(0, 250, 50):
        file = io.BytesIO()
        Image.new("L", (50, 40), grey).save(file, "PNG")
        contents.append(file.getvalue())
        (folder / f"images/{grey:03}.png").write_bytes(file.getvalue())
    parquet.write_table(pa.table({"id": range(5), "image": contents}), "bare.parquet")
    published = [{"bytes": content, "path": None} for content in contents]
    parquet.write_table(pa.table({"image": published, "label": range(5)}), "published.parquet")
    asked = ["bare.parquet", "images", "published.parquet"]
    result = score("pixels.onnx", *asked, "--format", "parquet", "--output", "o", "--rows-per-file", "3")
    assert result.exit_code == 0, result.output
    assert [value for _, value in scores(folder / "o")] == [0, 50, 100, 150, 200] * 3


# Going on, and refusing


def test_what_is_there_is_not_made_again_and_what_is_missing_is(folder: Path) -> None:
    asked = ["d.onnx", "x.npy", "x.csv", "--format", "parquet", "--output", "out", "--rows-per-file", "10"]
    score(*asked)
    whole = scores(folder / "out")
    kept, gone = parts(folder / "out")[0], parts(folder / "out")[7]
    before = kept.stat().st_mtime_ns
    gone.unlink()
    (folder / "out/.part-000007.12345678.parquet").write_bytes(b"half a file of a process that was killed")
    assert score(*asked).exit_code == 0
    assert scores(folder / "out") == whole
    assert kept.stat().st_mtime_ns == before
    assert not list((folder / "out").glob(".part-*"))


@pytest.mark.parametrize(
    ("change", "named"),
    [(["--threshold", "3"], "threshold"), (["--rows-per-file", "30"], "inputs, parts"), (["x.csv"], "inputs")],
)
def test_scores_of_another_job_are_not_mixed_in(folder: Path, change: list[str], named: str) -> None:
    asked = ["d.onnx", "x.npy", "--format", "parquet", "--output", "out", "--rows-per-file", "10"]
    score(*asked)
    result = score(*asked, *change)
    assert result.exit_code == 2
    assert f"scores of another job ({named}" in result.stderr


def test_a_strangers_folder_is_refused(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out/thesis.txt").write_text("mine")
    result = score("d.onnx", "x.npy", "--format", "parquet", "--output", "out", "--rows-per-file", "10")
    assert result.exit_code == 2
    assert "holds other things" in result.stderr
    assert [file.name for file in (folder / "out").iterdir()] == ["thesis.txt"]


def test_a_bad_row_ends_the_job_and_leaves_whole_parts_only(folder: Path) -> None:
    values = table()
    values[33] = np.nan
    np.save("bad.npy", values)
    result = score("d.onnx", "bad.npy", "--format", "parquet", "--output", "out", "--rows-per-file", "10")
    assert result.exit_code == 2
    assert len(scores(folder / "out")) == 30  # rows 30 to 39 are a part
    assert not list((folder / "out").glob(".part-*"))
    assert not (folder / "out/done.json").exists()


def test_a_killed_job_goes_on_and_ends_as_if_it_had_not_been(folder: Path) -> None:
    np.save("long.npy", np.random.default_rng(1).normal(size=(60_000, 3)).astype(np.float32))
    asked = ["score", "d.onnx", "long.npy", "--format", "parquet", "--rows-per-file", "2000", "--threads", "1", "-q"]
    command = [sys.executable, "-m", "sparsense", *asked, "--output"]
    process = subprocess.Popen([*command, "killed"], cwd=folder)
    while len(parts(folder / "killed")) < 3:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = parts(folder / "killed")
    assert 3 <= len(there) < 30
    assert all(parquet.read_metadata(part).num_rows == 2000 for part in there)
    subprocess.run([*command, "killed"], cwd=folder, check=True)
    subprocess.run([*command, "whole"], cwd=folder, check=True)
    assert [p.read_bytes() for p in parts(folder / "killed")] == [p.read_bytes() for p in parts(folder / "whole")]


# Files of strangers


def test_damaged_and_hostile_arrays_are_refused(folder: Path) -> None:
    content = Path("x.npy").read_bytes()
    Path("cut.npy").write_bytes(content[:-4])
    with pytest.raises(InputError, match="cut off"):
        list(array_rows(Path("cut.npy"), 8))
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UnsafeFileError, match="pickled"):
        array_shape(Path("objects.npy"))
    np.save("number.npy", np.float32(3))
    with pytest.raises(InputError, match="single number"):
        array_shape(Path("number.npy"))


@pytest.mark.usefixtures("folder")
def test_rows_of_another_shape_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed("bomb.npz", X=np.zeros((1, 5_000_000), np.float32))
    monkeypatch.setattr(reading, "array_rows", lambda *_args, **_options: pytest.fail("it was read"))
    with pytest.raises(InputError, match=r"takes float32 of shape \[N, 3\]; got float32 of shape \[1, 5000000\]"):
        list(reading.read(Piece(("bomb.npz",)), ExportedDetector("d.onnx"), 64))


@pytest.mark.usefixtures("folder")
def test_rows_are_read_in_bounded_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_rows, "BATCH_BYTES", 30)  # of rows of 12 bytes
    for file in (Path("x.npy"), Path("packed.npz"), Path("fortran.npy")):
        found = list(array_rows(file, 64))
        assert {len(part) for part in found} == {1, 2}
        np.testing.assert_array_equal(np.concatenate(found), table())
    monkeypatch.setattr(data_rows, "ROW_BYTES", 11)
    with pytest.raises(UnsafeFileError, match=r"x.npy is refused: one row has 12 bytes; the limit is 11"):
        list(array_rows(Path("x.npy"), 64))


def test_a_short_row_of_a_table_is_named(folder: Path) -> None:
    Path("short.csv").write_text("a,b\n1,2\n3\n")
    with pytest.raises(InputError, match="row 2: expected 2 values, found 1"):
        list(csv_rows(Path("short.csv"), 10))


def test_marks_lie_where_rows_begin_also_with_line_breaks_in_words(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text('a,b\r\n1,"one\r\nline, two"\r\n\r\n2,x\r\n3,"ü"\r\n4,y', newline="")
    marks = list(csv_marks(file, 2))
    assert [mark.row for mark in marks] == [0, 2, 4]
    found = [list(csv_rows(file, 9, start=m.row, stop=m.row + 2, byte=m.byte)) for m in marks[:-1]]
    assert found == [[{"a": ("1", "2"), "b": ("one\r\nline, two", "x")}], [{"a": ("3", "4"), "b": ("ü", "y")}]]


def test_parquet_rows_begin_within_a_row_group(folder: Path) -> None:
    found = [row for part in parquet_rows(Path("x.parquet"), 4, start=7, stop=23) for row in part["a"]]
    np.testing.assert_array_equal(np.float32(found), table()[7:23, 0])


def test_words_where_numbers_are_expected(folder: Path) -> None:
    Path("words.csv").write_text("a,b,c\n1,2,many\n")
    result = score("d.onnx", "words.csv")
    assert result.exit_code == 2
    assert "expected numbers in every column" in result.stderr


def test_pieces_are_taken_as_they_are_needed() -> None:
    def endless():
        yield Path("a.npy")
        while True:
            yield Path("b.png")

    taken = pieces(endless(), 2)
    assert [next(taken).files for _ in range(2)] == [("a.npy",), ("b.png", "b.png")]


# memory that is freed is given back, so that a peak is what was in use
STEADY = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536",
          "MALLOC_MMAP_THRESHOLD_": "65536"}  # fmt: skip
PEAK = r"""
import re, sys
from typer.testing import CliRunner
from sparsense.cli import app
result = CliRunner().invoke(app, ["score", *sys.argv[1:], "--format", "parquet", "--threads", "1", "-q"])
assert result.exit_code == 0, result.output
print(int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell how much memory was used")
@pytest.mark.parametrize("kind", ["npy", "npz", "parquet"])
def test_six_times_as_many_rows_take_no_more_memory(folder: Path, kind: str) -> None:
    write_detector(Path("wide.onnx"), shape=("N", 256), card=card(layout="ND", dtype="float32"))
    peaks = []
    for count in (6000, 36_000):
        values, file = np.ones((count, 256), np.float32), f"{count}.{kind}"
        if kind == "npy":
            np.save(file, values)
        elif kind == "npz":
            np.savez_compressed(file, X=values)
        else:
            parquet.write_table(pa.table({"row": list(values)}), file, row_group_size=500)
        done = subprocess.run(
            [sys.executable, "-c", PEAK, "wide.onnx", file, "--output", f"{file}.parquet"],
            capture_output=True, text=True, check=False, env=os.environ | STEADY,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
        assert parquet.read_metadata(f"{file}.parquet").num_rows == count
    assert peaks[1] - peaks[0] < 0.1 * 30_000 * 256 * 4


@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")
@pytest.mark.filterwarnings("default")  # of ray itself
def test_ray_data_writes_the_same_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    asked = ["d.onnx", *FILES, "--format", "parquet", "--rows-per-file", "20", "-q", "--output"]
    alone, together = score(*asked, "alone"), score(*asked, "together", "--engine", "ray", "--jobs", "2")
    assert alone.exit_code == together.exit_code == 0, together.output
    assert scores(folder / "alone") == scores(folder / "together")
    for one, other in zip(parts(folder / "alone"), parts(folder / "together"), strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert (folder / "alone/done.json").read_text() == (folder / "together/done.json").read_text()
