"""What `sparsense attach` makes of its options; the attaching itself is tested with the detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner, Result

from sparsense import detector
from sparsense.cli import app
from sparsense.data import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import AttachSettings
from sparsense.heads import Head, make_head

CARD: dict[str, Any] = {"calibration": {"threshold": 1.5, "rate": 0.05, "n": 99, "interval": [0.017, 0.1]}}


def write_model(path: str, *shape: int | str, inputs: int = 1) -> None:
    values = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, ["N", *shape]) for i in range(inputs)]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Identity", ["x0"], ["y"])], "g", values, [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)


@pytest.fixture
def attached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `attach_to_file` was called with, in a folder with models and data."""
    monkeypatch.chdir(tmp_path)
    write_model("colour.onnx", 3, 4, 5)
    write_model("last.onnx", 4, 5, 3)
    write_model("rows.onnx", 6)
    write_model("free.onnx", 3, "H", "W")
    Path("images").mkdir()
    for grey in range(30):
        Image.new("RGB", (10, 8), (grey, grey, grey)).save(f"images/{grey:02}.png")
    seen: dict[str, Any] = {}

    def attach_to_file(model: Path, head: Head, output: Path, **rest: Any) -> dict[str, Any]:
        seen.update(model=model, head=head.name, options=head.options(), output=output, **rest)
        rest["progress"]("fitting", 1, 1)
        return CARD

    monkeypatch.setattr(detector, "attach_to_file", attach_to_file, raising=False)
    return seen


def attach(*arguments: str, model: str = "colour.onnx", data: str = "images") -> Result:
    command = ["attach", model, "--head", "energy", "--data", data, "--output", "d.onnx", *arguments]
    return CliRunner().invoke(app, command)


def greys(dataset: Dataset) -> set[int]:
    return set(dataset.inputs[:, 0, 0, 0].tolist())


def test_a_folder_is_divided_into_fitting_and_calibration(attached: dict[str, Any]) -> None:
    result = attach()
    assert result.exit_code == 0, result.output
    fit, calibration = attached["fit"], attached["calibration"]
    assert fit.inputs.shape == (20, 4, 5, 3)
    assert calibration.inputs.shape == (10, 4, 5, 3)
    assert greys(fit) | greys(calibration) == set(range(30))
    assert attached["preprocessing"] == Preprocessing()
    assert (attached["model"], attached["head"], attached["options"]) == (
        Path("colour.onnx"), "energy", {"temperature": 1.0}
    )  # fmt: skip
    assert (attached["settings"], attached["output"]) == (AttachSettings(0.05), Path("d.onnx"))


def test_stdout_is_the_file_and_stderr_the_promise(attached: dict[str, Any]) -> None:
    result = attach()
    assert result.stdout == "d.onnx\n"
    assert result.stderr == (
        "energy fitted on 20, calibrated on 99: threshold 1.5 for 5.00% false alarms "
        "(95 % of such thresholds realise 1.70% to 10.00%)\n"
    )
    assert attach("--quiet").stderr == ""


@pytest.mark.usefixtures("attached")
def test_what_was_left_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CARD, "data", {"calibration": {"left_out": 4}})
    assert "\n4 calibration inputs left out: the head was fitted on equal ones\n" in attach().stderr


def test_calibration_data_of_its_own(attached: dict[str, Any]) -> None:
    np.savez("held-out.npz", images=np.zeros((7, 4, 5, 3), np.uint8))
    assert attach("--calibration", "held-out.npz").exit_code == 0
    assert (len(attached["fit"]), len(attached["calibration"])) == (30, 7)


def test_all_options_arrive(attached: dict[str, Any]) -> None:
    result = attach(
        "--option", "temperature=2.5", "--mean", "0.1,0.2,0.3", "--std", "0.5",
        "--scale", "1", "--layout", "NCHW", "--false-alarm-rate", "0.01", "--limit", "12",
        "--per-class", "pool", "--explain", "--detail", "channels", "--cache", "kept",
        "--tolerance", "1e-4", "--private",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert attached["options"] == {"temperature": 2.5}
    assert attached["preprocessing"] == Preprocessing("NCHW", "uint8", 1.0, (0.1, 0.2, 0.3), (0.5,))
    assert attached["settings"] == AttachSettings(
        0.01, "pool", "channels", cache=Path("kept"), tolerance=1e-4, private=True
    )
    assert len(attached["fit"]) == 12


def test_rows_with_labels(attached: dict[str, Any]) -> None:
    np.savez("rows.npz", X=np.arange(180, dtype=np.float32).reshape(30, 6), kind=np.arange(30) % 2)
    result = attach("--labels", "kind", model="rows.onnx", data="rows.npz")
    assert result.exit_code == 0, result.output
    assert attached["preprocessing"] == Preprocessing("ND", "float32", 1.0)
    fit = attached["fit"]
    assert fit.inputs.shape == (20, 6)
    np.testing.assert_array_equal(fit.labels, fit.inputs[:, 0] / 6 % 2)


def test_a_model_with_channels_last(attached: dict[str, Any]) -> None:
    result = attach("--mean", "0.1,0.2,0.3", model="last.onnx")
    assert result.exit_code == 0, result.output
    assert attached["fit"].inputs.shape == (20, 4, 5, 3)
    assert attached["preprocessing"] == Preprocessing("NHWC", "uint8", 1 / 255, (0.1, 0.2, 0.3))


def test_a_model_of_free_size(attached: dict[str, Any]) -> None:
    assert attach("--size", "6,7", model="free.onnx").exit_code == 0
    assert attached["fit"].inputs.shape == (20, 6, 7, 3)


@pytest.mark.parametrize(
    ("arguments", "model", "data", "message"),
    [
        ([], "free.onnx", "images", "attaching to free.onnx: its input [3, 'H', 'W'] has free sizes; give --size H,W"),
        (["--mean", "1,2"], "colour.onnx", "images", "--mean has 2 numbers; expected 1, or 3 for inputs [3, 4, 5]"),
        (["--std", "a"], "colour.onnx", "images",
         "--std: expected numbers with commas between, such as 0.5,0.5; got 'a'"),
        ([], "rows.onnx", "images", "the model takes rows of 6 numbers: give an .npz or .npy file instead of images"),
        ([], "two.onnx", "images",
         ("attaching to two.onnx: expected one input [N, C, H, W], [N, H, W, C] or [N, D]; "
          "found x0 ['N', 6], x1 ['N', 6]")),
        ([], "no.onnx", "images", "inspecting no.onnx: there is no such file"),
        ([], "colour.onnx", "nowhere", "there is no folder nowhere"),
        (["--option", "x"], "colour.onnx", "images",
         "expected key=value with a dotted key, such as prune.sparsity=0.7; got 'x'"),
        (["--option", "x=2"], "colour.onnx", "images",
         "attaching head 'energy': unknown option of head 'energy' 'x'. Known: temperature."),
        (["--option", "temperature=-2"], "colour.onnx", "images",
         "attaching head 'energy': temperature must be a positive number; got -2"),
        (["--std", "0"], "colour.onnx", "images", "--std must be positive; got 0"),
    ],
)  # fmt: skip
def test_mistakes(attached: dict[str, Any], arguments: list[str], model: str, data: str, message: str) -> None:
    write_model("two.onnx", 6, inputs=2)
    result = attach(*arguments, model=model, data=data)
    assert result.exit_code == 2
    assert result.stderr == f"error: {message}\n"
    assert attached == {}


@pytest.mark.parametrize(
    ("head", "option", "message"),
    [
        ("react", "percentile=most", "percentile must be a number; got 'most'"),
        ("react", "percentile=true", "percentile must be a number; got True"),
        ("msp", "temperature=[1]", "temperature must be a number; got [1]"),
        ("knn", "k=many", "k must be a number; got 'many'"),
        ("knn", "k=inf", "k must be a whole number, at least 1; got inf"),
        ("sensnorm", "p=large", "the order p of a norm must be a number; got 'large'"),
        ("sensnorm_profile", "p=[]", "p must hold at least one order of a norm; got none"),
        ("gram", "powers=[]", "powers must hold at least one whole number; got none"),
    ],
)
def test_an_option_that_is_no_number(attached: dict[str, Any], head: str, option: str, message: str) -> None:
    result = attach("--head", head, "--option", option)
    assert result.exit_code == 2, result.output
    assert result.stderr == f"error: attaching head {head!r}: {message}\n"


@pytest.mark.parametrize("written", ["inf", ".inf"])
def test_the_largest_of_all_sensitivities(attached: dict[str, Any], written: str) -> None:
    """Infinity is a word in the card, which is JSON."""
    assert attach("--head", "sensnorm_profile", "--option", f"p=[1, {written}]").exit_code == 0
    assert attached["options"]["p"] == (1.0, "inf")
    assert make_head("sensnorm_profile", attached["options"]).p == (1.0, np.inf)  # type: ignore[attr-defined]
