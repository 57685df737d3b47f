from __future__ import annotations

import csv
import io
import json
import math
import signal
import subprocess
import sys
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from sparsense.cli import app
from sparsense.cli.inputs import batches
from sparsense.runtime import ExportedDetector
from sparsense.scoring.writing import Format, text_writer
from tiny_detectors import CARD, card, write_detector


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a detector of 4 x 5 colour images, dark images (normal) and bright ones (anomalous)."""
    monkeypatch.chdir(tmp_path)
    write_detector(Path("d.onnx"))
    for name, grey in {"images/a.png": 10, "images/b.png": 200, "images/deep/c.PNG": 30, "images/.x.png": 0}.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), (grey, grey, grey)).save(name)
    Path("images/notes.txt").write_text("no image")
    return tmp_path


def score(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["score", *arguments], input=stdin)


def rows(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


# Formats


def test_jsonl(folder: Path) -> None:
    assert rows(score("d.onnx", "images/a.png", "images/b.png", "--format", "jsonl")) == [
        {"input": "images/a.png", "score": 10.0, "p_value": pytest.approx(0.91), "is_anomaly": False},
        {"input": "images/b.png", "score": 200.0, "p_value": pytest.approx(0.01), "is_anomaly": True},
    ]


def test_csv(folder: Path) -> None:
    found = list(csv.DictReader(score("d.onnx", "images", "--format", "csv").stdout.splitlines()))
    assert [row["input"] for row in found] == ["images/a.png", "images/b.png", "images/deep/c.PNG"]
    assert [float(row["score"]) for row in found] == [10, 200, 30]
    assert [row["is_anomaly"] for row in found] == ["False", "True", "False"]


def test_table_and_summary(folder: Path) -> None:
    result = score("d.onnx", "images/a.png", "images/b.png")
    assert result.stdout == (
        "       score   p_value  anomaly  input\n"
        "          10    0.9100  no       images/a.png\n"
        "         200    0.0100  yes      images/b.png\n"
    )
    assert result.stderr == "2 scored, 1 anomalous (score above 95)\n"
    assert score("d.onnx", "images/a.png", "--quiet").stderr == ""


def test_a_score_that_json_cannot_write_is_null(folder: Path) -> None:
    write_detector(Path("rows.onnx"), shape=("N", 2), card=card(layout="ND", dtype="float32"))
    np.save("x.npy", np.full((1, 2), 3e38, np.float32))  # finite, but their sum is not
    assert rows(score("rows.onnx", "x.npy", "--format", "jsonl"))[0]["score"] is None


def test_parts_that_json_cannot_write_are_null() -> None:
    stream = io.StringIO()
    text_writer(stream, Format.JSONL, explain=True)({"input": "a", "parts": {"b": math.nan, "c": -math.inf, "d": 1.5}})
    assert stream.getvalue() == '{"input": "a", "parts": {"b": null, "c": null, "d": 1.5}}\n'


def test_names_do_not_command_the_terminal() -> None:
    stream = io.StringIO()
    row = {"input": "a\x1b[2J.png", "score": 1.0, "p_value": 0.5, "is_anomaly": False, "parts": {"b\x9bH": 1.0}}
    text_writer(stream, Format.TABLE, explain=True)(row)
    assert stream.getvalue().splitlines()[1].endswith(r"a\x1b[2J.png  b\x9bH 1")


# Inputs


def test_folders_are_searched_and_hidden_files_left_out(folder: Path) -> None:
    found = rows(score("d.onnx", "images", "--format", "jsonl"))
    assert [row["input"] for row in found] == ["images/a.png", "images/b.png", "images/deep/c.PNG"]


def test_paths_from_standard_input(folder: Path) -> None:
    found = rows(score("d.onnx", "-", "--format", "jsonl", stdin="images/b.png\r\n\nimages/deep\n"))
    assert [row["input"] for row in found] == ["images/b.png", "images/deep/c.PNG"]


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "other.npz"])
def test_arrays_row_by_row(folder: Path, name: str) -> None:
    x = np.random.default_rng(0).integers(0, 256, (150, 4, 5, 3), np.uint8)
    if name == "x.npy":
        np.save(name, x)
    elif name == "x.npz":
        np.savez(name, images=x, labels=np.zeros(150))
    else:
        np.savez(name, anything=x)
    found = rows(score("d.onnx", name, "--format", "jsonl"))
    assert [row["input"] for row in found] == [f"{name}:{i}" for i in range(150)]
    np.testing.assert_allclose([row["score"] for row in found], x.reshape(150, -1).mean(axis=1), rtol=1e-6)


def test_images_and_arrays_keep_their_order(folder: Path) -> None:
    np.save("x.npy", np.zeros((2, 4, 5, 3), np.uint8))
    found = rows(score("d.onnx", "images/b.png", "x.npy", "images/a.png", "--format", "jsonl"))
    assert [row["input"] for row in found] == ["images/b.png", "x.npy:0", "x.npy:1", "images/a.png"]


def test_images_take_size_and_channels_of_the_detector(folder: Path) -> None:
    Image.new("L", (50, 40), 77).save("grey.png")
    assert rows(score("d.onnx", "grey.png", "--format", "jsonl"))[0]["score"] == 77


def test_a_detector_with_channels_first(folder: Path) -> None:
    write_detector(Path("nchw.onnx"), shape=("N", 3, 4, 5), card=card(layout="NCHW"))
    assert rows(score("nchw.onnx", "images/b.png", "--format", "jsonl"))[0]["score"] == 200


def test_a_detector_of_free_size_takes_images_as_they_are(folder: Path) -> None:
    write_detector(Path("free.onnx"), shape=("N", "H", "W", 3))
    half = Image.new("RGB", (8, 2))
    half.paste((100, 100, 100), (0, 0, 4, 2))
    half.save("half.png")
    found = rows(score("free.onnx", "half.png", "images/a.png", "--format", "jsonl"))
    assert [row["score"] for row in found] == [50, 10]


def test_memory_does_not_grow_with_the_number_of_inputs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch is larger than the micro-batch, and each is scored before the next is read."""
    from sparsense import runtime
    from sparsense.data import images

    log: list[str] = []
    run, read = runtime.ExportedDetector._run, images.read_image

    def logged_run(self: runtime.ExportedDetector, inputs: np.ndarray, *rest: object) -> object:
        log.append(f"run {len(inputs)}")
        return run(self, inputs, *rest)  # type: ignore[arg-type]

    def logged_read(*arguments: object) -> object:
        log.append("read")
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(runtime.ExportedDetector, "_run", logged_run)
    monkeypatch.setattr(images, "read_image", logged_read)
    assert len(rows(score("d.onnx", *["images/a.png"] * 130, "--format", "jsonl"))) == 130
    assert log == [*["read"] * 64, "run 64", *["read"] * 64, "run 64", *["read"] * 2, "run 2"]


def test_no_more_names_are_taken_than_a_batch_needs(folder: Path) -> None:
    """Names may come from a pipe that never ends."""
    endless = repeat("images/a.png")
    stream = batches(ExportedDetector("d.onnx"), endless, size=3)
    assert [len(names) for names, _ in islice(stream, 4)] == [3, 3, 3, 3]


# Decisions


def test_fail_on_anomaly(folder: Path) -> None:
    assert score("d.onnx", "images/b.png").exit_code == 0
    assert score("d.onnx", "images/a.png", "--fail-on-anomaly").exit_code == 0
    failed = score("d.onnx", "images/a.png", "images/b.png", "--fail-on-anomaly", "--format", "jsonl")
    assert failed.exit_code == 1
    assert len(failed.stdout.splitlines()) == 2


def test_another_threshold(folder: Path) -> None:
    result = score("d.onnx", "images/a.png", "images/b.png", "--threshold", "9")
    assert result.stderr == "2 scored, 2 anomalous (score above 9)\n"
    assert rows(score("d.onnx", "images/b.png", "--threshold", "200", "--format", "jsonl"))[0]["is_anomaly"] is False


# Output files


def test_an_output_file_is_complete_or_absent(folder: Path) -> None:
    result = score("d.onnx", "images", "--format", "csv", "--output", "out/scores.csv")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert len(Path("out/scores.csv").read_text().splitlines()) == 4
    failed = score("d.onnx", "images/a.png", "missing.png", "--format", "csv", "--output", "out/other.csv")
    assert failed.exit_code == 2
    assert [path.name for path in Path("out").iterdir()] == ["scores.csv"]


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.onnx", "images"], "detector file no.onnx does not exist"),
        (["d.onnx", "no.png"], "there is no image file no.png"),
        (["d.onnx", "no.npy"], "there is no file no.npy"),
        (["d.onnx", "no.npz"], "there is no file no.npz"),
        (["d.onnx", "images/notes.txt"], "images/notes.txt is not an image in one of the formats"),
        (["d.onnx", "empty"], "the folder empty holds no image (.bmp, .gif"),
        (["d.onnx", "links"], "reading the folder links: lost.png is a link to gone.png, which is not there"),
        (["d.onnx", "bad.npy"], "bad.npy is damaged, or not in NumPy"),
        (["d.onnx", "objects.npy"], "objects.npy holds pickled Python objects"),
        (["d.onnx", "number.npy"], "number.npy holds a single number"),
        (["d.onnx", "two.npz"], "two.npz: expected one of the arrays images, inputs, X, or a single array"),
        (["d.onnx", "wide.npy"], "d.onnx takes uint8 of shape [N, 4, 5, 3]; got uint8 of shape [2, 4, 6, 3]"),
        (["rows.onnx", "images"], "rows.onnx does not take image files such as images/a.png, but float32"),
        (["rows.onnx", "images"], "give .csv, .parquet, .npy or .npz files"),
        (["floats.onnx", "images"], "[N, 4, 5, 3]: give .npy or .npz files"),
        (["d.onnx", "images", "--threshold", "nan"], "the threshold is NaN"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_and_code_2(folder: Path, arguments: list[str], message: str) -> None:
    Path("empty").mkdir()
    Path("links").mkdir()
    Path("links/lost.png").symlink_to("gone.png")
    Path("bad.npy").write_bytes(b"no array")
    np.save("objects.npy", np.array([{}], dtype=object))
    np.save("number.npy", np.float32(3))
    np.save("wide.npy", np.zeros((2, 4, 6, 3), np.uint8))
    np.savez("two.npz", a=np.zeros(1), b=np.zeros(1))
    write_detector(Path("rows.onnx"), shape=("N", 6), card=card(layout="ND", dtype="float32"))
    write_detector(Path("floats.onnx"), shape=("N", 4, 5, 3), card=card(dtype="float32"))
    result = score(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_options_that_do_not_exist_are_code_2(folder: Path) -> None:
    assert score("d.onnx", "images", "--treshold", "3").exit_code == 2
    assert score("d.onnx").exit_code == 2


# The process: signals, pipes, imports


def sparsense(*arguments: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sparsense", *arguments]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload, no-any-return]


def heed_interrupts() -> None:
    """A process started in the background ignores them, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted_leaves_130_and_no_file(folder: Path) -> None:
    process = sparsense(
        "score", "d.onnx", "-", "--output", "scores.txt", stdin=subprocess.PIPE, preexec_fn=heed_interrupts
    )
    assert process.stdin is not None
    process.stdin.write("images/a.png\n" * 1000)
    process.stdin.flush()
    while not list(folder.glob(".scores.*")):
        assert process.poll() is None, process.communicate()
    process.send_signal(2)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert sorted(path.name for path in folder.iterdir()) == ["d.onnx", "images"]


def test_a_reader_that_goes_away_is_no_anomaly(folder: Path) -> None:
    np.save("x.npy", np.zeros((20_000, 4, 5, 3), np.uint8))
    with sparsense("score", "d.onnx", "x.npy") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "score" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_scoring_loads_neither_torch_nor_onnx(folder: Path) -> None:
    code = (
        "import sys; from sparsense.cli import app; app(['score', 'd.onnx', 'images'], standalone_mode=False);"
        "print([m for m in ('torch', 'onnx', 'onnx_ir', 'sklearn', 'pydantic_settings') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_fault_of_the_program_keeps_its_traceback_and_is_no_anomaly(folder: Path) -> None:
    code = (
        "import sparsense.runtime as r, sparsense.cli as c, sys\n"
        "def fault(*a, **k): raise ZeroDivisionError('a fault')\n"
        "r.ExportedDetector._run = fault\n"
        "sys.argv = ['sparsense', 'score', 'd.onnx', 'images']\n"
        "c.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: a fault" in done.stderr


def test_the_card_of_the_fixture_is_what_the_tests_assume() -> None:
    assert CARD["calibration"]["threshold"] == 95
