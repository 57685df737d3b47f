from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import sparsense
from sparsense.cli import app
from sparsense.cli.progress import progress
from sparsense.cli.tables import table
from sparsense.recipe import Recipe
from tiny_detectors import CARD, write_detector

RECIPE = """
name: tiny
network: {source: digits_resnet}
data:
  train: {source: digits, split: train}
  calibration: {source: digits, split: calibration}
  test: {source: digits, split: test}
heads: [energy]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def lines(*arguments: str) -> list[str]:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


# The application


def test_version() -> None:
    assert lines("--version") == [sparsense.__version__]


def test_without_a_command_the_help_is_shown() -> None:
    assert "Commands:" in call().output


def test_commands_and_help_load_nothing_heavy() -> None:
    heavy = "('torch', 'onnx', 'onnxruntime', 'numpy', 'sklearn', 'pydantic.main', 'PIL')"
    code = (
        "import sys; from typer.testing import CliRunner; from sparsense.cli import app;"
        "[CliRunner().invoke(app, [c, '--help']) for c in ('run', 'score', 'attach', 'list')];"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = set(eval(done.stdout))
    assert found <= {"pydantic.main"}  # typer's own


def test_a_file_of_the_user_that_cannot_be_written_is_one_message(folder: Path) -> None:
    write_detector(Path("d.onnx"))
    Path("out").write_text("a file, no folder")
    import numpy as np

    np.save("x.npy", np.zeros((1, 4, 5, 3), np.uint8))
    result = call("score", "d.onnx", "x.npy", "--output", "out/scores.csv")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: File exists: ")
    assert result.stderr.endswith("out\n")


# inspect


def test_inspect_a_detector() -> None:
    write_detector(Path("d.onnx"))
    found = lines("inspect", "d.onnx")
    assert found[0].startswith("d.onnx: ")
    assert found[0].endswith("bytes, opset 18, 99 parameters")
    assert found[1] == "input      input: uint8 [N, 4, 5, 3]"
    assert "output     is_anomaly: bool [N]" in found
    assert found[-5:] == [
        "  calibration:",
        "    rate: 0.05",
        "    threshold: 95.0",
        "    n: 99",
        "    interval: [0.017, 0.1]",
    ]


def test_inspect_shows_names_and_obeys_none_of_them() -> None:
    write_detector(Path("d.onnx"), shape=("N\x1b[2J", 4, 5, 3), card=CARD | {"na\x07me": "a\x1b]0;title\x07 b"})
    shown = call("inspect", "d.onnx").stdout
    assert r"input: uint8 [N\x1b[2J, 4, 5, 3]" in shown
    assert r"na\x07me: a\x1b]0;title\x07 b" in shown
    assert shown.replace("\n", "").isprintable()
    refused = call("inspect", "no\x1b[2J.onnx").stderr
    assert r"inspecting no\x1b[2J.onnx: there is no such file" in refused


def test_inspect_keeps_a_long_card_short() -> None:
    rows = {"recipe": "a: 1\nb: 2\n", "rows": [{"x": 1}, {"x": 2}], "none": None, "empty": {}, "flag": True}
    write_detector(Path("d.onnx"), card={**CARD, **rows})
    assert lines("inspect", "d.onnx")[-5:] == [
        "  recipe: (2 lines)", "  rows: (2 entries)", "  none: null", "  empty: {}", "  flag: true",
    ]  # fmt: skip


def test_inspect_as_json() -> None:
    write_detector(Path("d.onnx"))
    (text,) = lines("inspect", "d.onnx", "--json", "--cost")
    document = json.loads(text)
    assert document["card"]["name"] == "tiny"
    assert document["operators"]["Cast"] == 2
    assert document["layers"] == []
    assert "found none" in document["problem"]


def test_inspect_the_cost() -> None:
    from test_inspect import write_network

    write_network(Path("n.onnx"))
    found = lines("inspect", "n.onnx", "--cost")
    assert "no card: this is not a detector; sparsense attach makes one of it" in found
    assert [line.split() for line in found[-10:-3]] == [
        ["layer", "operator", "weights", "forward", "+", "gates", "+", "weights"],
        ["w1", "Conv", "216", "3,456", "128", "3,672"],
        ["w2", "ConvTranspose", "128", "2,048", "2,304", "4,224"],
        ["w3", "Conv", "36", "2,304", "2,560", "4,644"],
        ["w4", "Gemm", "1,280", "1,280", "1,285", "3,840"],
        ["w5", "MatMul", "10", "10", "12", "30"],
        ["total", "1,670", "9,098", "6,289", "16,410"],
    ]
    assert found[-3:] == ["this file: 9,098 multiply-adds for one sample", "what gradients cannot cross", "  none"]


def test_inspect_something_else() -> None:
    result = call("inspect", "x.onnx")
    assert result.exit_code == 2
    assert result.stderr == "error: inspecting x.onnx: there is no such file\n"


# list


@pytest.mark.parametrize(
    ("kind", "name"),
    [("criteria", "magnitude"), ("heads", "energy"), ("networks", "digits_resnet"), ("sources", "digits")],
)
def test_list_gives_a_sentence_to_every_name(kind: str, name: str) -> None:
    rows = dict(line.split(None, 1) for line in lines("list", kind)[1:])
    assert name in rows
    assert all(sentence.endswith((".", "`]")) or len(sentence) > 10 for sentence in rows.values())


def test_list_recipes(folder: Path) -> None:
    Path("recipes").mkdir()
    Path("recipes/good.yaml").write_text(RECIPE)
    Path("recipes/bad.yaml").write_text("name: [")
    rows = dict(line.split(None, 1) for line in lines("list", "recipes")[1:])
    assert rows["recipes/good.yaml"] == "tiny"
    assert rows["recipes/bad.yaml"].startswith("cannot be read: not valid YAML")


def test_list_everything() -> None:
    found = lines("list")
    assert [line for line in found if line in ("criteria", "heads", "networks", "recipes", "sources")] == [
        "criteria", "heads", "networks", "recipes", "sources",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["criteria", "networks"])
def test_list_without_torch(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    from sparsense.cli import listing

    monkeypatch.setattr(listing, "find_spec", lambda _: None)
    assert lines("list", kind)[1] == "-     needs torch: pip install 'sparsense[prune]'"


# bench


def test_bench_compares_files() -> None:
    write_detector(Path("a.onnx"))
    write_detector(Path("b.onnx"))
    rows = [json.loads(line) for line in lines("bench", "a.onnx", "b.onnx", "--rounds", "6", "--batch", "2", "--json")]
    assert [(row["file"], row["batch"], row["rounds"]) for row in rows] == [("a.onnx", 2, 6), ("b.onnx", 2, 6)]
    assert rows[0]["verdict"] == "baseline"
    assert rows[0]["bytes"] == Path("a.onnx").stat().st_size
    assert rows[1]["ratio_interval"][0] <= rows[1]["ratio"] <= rows[1]["ratio_interval"][1]


def test_bench_of_a_recipe_takes_what_its_run_left(folder: Path) -> None:
    Path("r.yaml").write_text(RECIPE)
    result = call("bench", "r.yaml")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: recipe r.yaml has left no ONNX file in exported/tiny: run it first, sparsense run r.yaml\n"
    )
    Path("exported/tiny").mkdir(parents=True)
    write_detector(Path("exported/tiny/detector.onnx"))
    found = lines("bench", "r.yaml", "--rounds", "6", "--batch", "1")
    assert found[0].split("  ")[0] == "file"
    assert found[1].startswith("exported/tiny/detector.onnx")


def test_bench_of_a_missing_file() -> None:
    assert call("bench", "x.onnx").stderr == "error: there is no ONNX file x.onnx\n"


# run


def test_run_refuses_a_recipe_before_anything_is_loaded() -> None:
    Path("r.yaml").write_text(RECIPE)
    result = call("run", "r.yaml", "--set", "prune.sparsity=70")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: r.yaml: prune.sparsity: must be at least 0 and less than 1; got 70 (write 0.7 for 70 %)\n"
    )
    assert call("run", "no.yaml").stderr == "error: no.yaml: there is no such file\n"
    assert call("run", "r.yaml", "--set", "x").stderr.startswith("error: expected key=value")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the pipeline was asked to do; it does nothing."""
    calls: list[tuple[Any, ...]] = []

    def do(recipe: Recipe, *, output: Path, data_root: str | None, progress: Any) -> Path:
        calls.append((recipe, output, data_root))
        progress("working", 1, 1)
        return output / "made"

    monkeypatch.setitem(sys.modules, "sparsense.pipeline", SimpleNamespace(run_recipe=do, train_recipe=do))
    Path("r.yaml").write_text(RECIPE)
    return calls


@pytest.mark.parametrize("command", ["run", "train"])
def test_run_and_train_hand_the_recipe_on(asked: list[tuple[Any, ...]], command: str) -> None:
    options = ["--set", "seed=7", "--set", "prune=null", "--data-root", "root", "--quiet"]
    assert lines(command, "r.yaml", *options) == ["exported/tiny/made"]
    ((recipe, output, data_root),) = asked
    assert (recipe.seed, recipe.prune, output, data_root) == (7, None, Path("exported/tiny"), "root")
    assert lines(command, "r.yaml", "--output", "elsewhere", "--quiet") == ["elsewhere/made"]


# verify


@pytest.mark.parametrize(("agrees", "code"), [(True, 0), (False, 1)])
def test_verify_shows_the_comparison_and_fails_when_one_disagrees(
    monkeypatch: pytest.MonkeyPatch, agrees: bool, code: int
) -> None:
    from sparsense import detector

    def verify(path: Path, *, providers: Sequence[str]) -> list[dict[str, Any]]:
        assert list(providers) == ["CPUExecutionProvider"]
        good = {"batch": 1, "inputs": 32, "error": 3e-7, "tolerance": 1e-5, "agrees": True}
        return [good, good | {"batch": 7, "agrees": agrees or path.name == "a.onnx"}]

    monkeypatch.setattr(detector, "verify", verify)
    result = call("verify", "a.onnx", "b.onnx")
    assert result.exit_code == code
    assert [line.split() for line in result.stdout.splitlines()][:3] == [
        ["detector", "batch", "inputs", "error", "tolerance", "agrees"],
        ["a.onnx", "1", "32", "3e-07", "1e-05", "yes"],
        ["a.onnx", "7", "32", "3e-07", "1e-05", "yes"],
    ]


def test_verify_something_else() -> None:
    assert call("verify", "x.onnx").stderr == "error: detector file x.onnx does not exist\n"


# Pieces


def test_a_table_of_nothing_has_a_header() -> None:
    assert list(table(["a", "b"], [])) == ["a  b"]


def test_a_table_aligns_numbers_to_the_right() -> None:
    rows: list[tuple[object, ...]] = [("x", 1234567, 0.12345, True, None), ("long", 5, 10.0, False, 3)]
    assert list(table(["name", "count", "share", "ok", "n"], rows)) == [
        "name      count   share  ok   n",
        "x     1,234,567  0.1235  yes  -",
        "long          5      10  no   3",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_is_drawn_on_a_terminal_unless_silenced(monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", terminal)
    with progress(quiet=quiet) as report:
        report("fitting", 1, 4)
        report("fitting", 4, 4)
    assert ("fitting" in terminal.getvalue()) is not quiet
    assert ("4/4" in terminal.getvalue()) is not quiet


def test_no_progress_into_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(quiet=False) as report:
        report("fitting", 1, 4)
    assert capsys.readouterr() == ("", "")
