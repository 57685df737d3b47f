"""What users read when something is wrong, word by word: what was done, expected, found, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from sparsense import errors
from sparsense.autodiff.rule import unsupported
from sparsense.calibrate import calibrate
from sparsense.data import SOURCES, Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import (
    CalibrationError,
    ExportError,
    GraphError,
    InputError,
    MissingExtraError,
    NotFittedError,
    RecipeError,
    SparsenseError,
    TrainingError,
    UnknownNameError,
    UnsafeFileError,
    UnsupportedLayerError,
    UnsupportedOperatorError,
)
from sparsense.extras import need
from sparsense.heads import HEADS
from sparsense.inspect import inspect_file
from sparsense.recipe.load import parse_override, read_recipe
from sparsense.registry import Registry
from sparsense.runtime import ExportedDetector
from tiny_detectors import card, write_detector


def message(call: Callable[[], object]) -> str:
    with pytest.raises(SparsenseError) as error:
        call()
    return str(error.value)


# The tree


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (RecipeError, ValueError), (UnknownNameError, LookupError), (InputError, ValueError), (GraphError, ValueError),
        (UnsupportedLayerError, ValueError), (NotFittedError, RuntimeError), (CalibrationError, ValueError),
        (ExportError, RuntimeError), (TrainingError, RuntimeError), (MissingExtraError, ImportError),
    ],
)  # fmt: skip
def test_every_error_is_ours_and_the_one_a_caller_would_expect(kind: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(kind, SparsenseError)
    assert issubclass(kind, builtin)


def test_no_error_is_left_out_of_the_tree_in_the_documentation_of_the_module() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SparsenseError)]
    assert len(kinds) == 13
    assert [kind.__name__ for kind in kinds if kind.__name__ not in (errors.__doc__ or "")] == []


def test_what_errors_carry() -> None:
    assert (RecipeError("x", file="f", key="k").file, RecipeError("x", file="f", key="k").key) == ("f", "k")
    assert UnknownNameError("head", "enrgy", ["msp", "energy"]).nearest == ["energy"]
    assert CalibrationError("x", needed=19).needed == 19
    assert ExportError("x", worst=0.5).worst == 0.5
    assert UnsupportedOperatorError("x", node="n", op_type="Einsum").op_type == "Einsum"
    assert UnsupportedLayerError("fc", "LSTM", "r").layer == "fc"
    assert MissingExtraError("x", "sklearn", "data").extra == "data"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RecipeError("must be text", file="r.yaml", key="name"), "r.yaml: name: must be text"),
        (RecipeError("is empty", file="r.yaml"), "r.yaml: is empty"),
        (RecipeError("is empty"), "is empty"),
        (UnknownNameError("head", "enrgy", ["msp", "energy"]),
         "unknown head 'enrgy'. Did you mean 'energy'? Known: energy, msp."),
        (UnknownNameError("head", "zzz", ["msp"]), "unknown head 'zzz'. Known: msp."),
        (UnknownNameError("head", "zzz", []), "unknown head 'zzz'. Known: (none)."),
        (UnsupportedLayerError("rnn", "LSTM", "it has no channels"),
         "layer 'rnn' (LSTM) cannot be pruned: it has no channels"),
        (MissingExtraError("reading an image", "PIL", "data"),
         "reading an image needs PIL, which is not installed: pip install 'sparsense[data]'"),
    ],
)  # fmt: skip
def test_errors_that_build_their_own_message(error: SparsenseError, text: str) -> None:
    assert str(error) == text


# What a user meets first


def test_an_optional_package_that_is_missing() -> None:
    text = message(lambda: need("no_such_package.part", doing="drawing", extra="report"))
    assert text == "drawing needs no_such_package, which is not installed: pip install 'sparsense[report]'"


def test_a_fault_inside_an_optional_package_is_not_blamed_on_its_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_dependency'") as error:
        need("broken_package", doing="drawing", extra="report")
    assert not isinstance(error.value, MissingExtraError)


def test_a_name_that_is_not_registered() -> None:
    registry: Registry[int] = Registry("colour")
    registry.add("red", 1)
    assert message(lambda: registry["rad"]) == "unknown colour 'rad'. Did you mean 'red'? Known: red."
    with pytest.raises(ValueError, match="colour 'red' is registered twice"):
        registry.add("red", 2)


def test_names_in_the_registries_of_the_project() -> None:
    assert message(lambda: HEADS["enrgy"]).startswith("unknown head 'enrgy'. Did you mean 'energy'")
    assert message(lambda: SOURCES["digit"]).startswith("unknown data source 'digit'. Did you mean 'digits'")


def test_recipes() -> None:
    assert message(lambda: read_recipe("", file="r.yaml")) == (
        "r.yaml: the recipe is empty; the least it needs is name, network and data"
    )
    assert message(lambda: parse_override("sparsity")) == (
        "expected key=value with a dotted key, such as prune.sparsity=0.7; got 'sparsity'"
    )


def test_calibration() -> None:
    assert message(lambda: calibrate(range(10), 0.05)) == (
        "a false-alarm rate of 0.05 needs at least 19 calibration samples; got 10: "
        "give more, or allow a rate of at least 0.091"
    )
    assert message(lambda: calibrate([1.0, float("nan")], 0.5)) == (
        "calibration needs finite scores: 1 of 2 are NaN or infinite; look for inputs that overflow the network"
    )
    assert message(lambda: calibrate([1.0], 5)) == "the false-alarm rate must lie between 0 and 1; got 5"


def test_inputs_of_a_detector(tmp_path: Path) -> None:
    images = ExportedDetector(write_detector(tmp_path / "d.onnx"))
    rows = ExportedDetector(
        write_detector(tmp_path / "r.onnx", shape=("N", 6), card=card(layout="ND", dtype="float32"))
    )
    takes = "d.onnx takes uint8 of shape [N, 4, 5, 3]; got "
    assert message(lambda: images(np.zeros((2, 3, 4, 5), np.uint8))) == (
        f"{takes}uint8 of shape [2, 3, 4, 5]: these are channels first (NCHW), use inputs.transpose(0, 2, 3, 1)"
    )
    assert message(lambda: images(np.zeros((2, 4, 5, 3), np.float32))) == (
        f"{takes}float32 of shape [2, 4, 5, 3]: the preprocessing is inside the file, so pass the raw bytes 0..255"
    )
    assert message(lambda: images(np.zeros((4, 5, 3), np.uint8))) == (
        f"{takes}uint8 of shape [4, 5, 3]: for a single input add the batch axis, inputs[None]"
    )
    assert message(lambda: rows(np.full((1, 6), np.nan, np.float32))) == (
        "input 0 holds NaN or infinity: clean or drop it first"
    )


def test_files_that_are_no_detector(tmp_path: Path) -> None:
    path = write_detector(tmp_path / "d.onnx", card=None)
    assert message(lambda: ExportedDetector(path)) == (
        f"{path} is an ONNX model but not a sparsense detector: it carries no card. "
        f"Attach a head first: sparsense attach {path} --head ..."
    )
    assert message(lambda: inspect_file("no.onnx")) == "inspecting no.onnx: there is no such file"


def test_data_sets() -> None:
    assert message(lambda: Dataset("x", np.zeros((2, 3), np.float64))) == (
        "dataset 'x': expected uint8 images [N, H, W, 1 or 3] or float32 rows [N, D]; found float64 [2, 3]"
    )


def test_an_operator_without_a_rule() -> None:
    node = ir.Node("", "Einsum", [], name="Einsum_12")
    text = str(unsupported(node, "has no differentiation rule"))
    assert text.startswith(
        "differentiating the graph: node 'Einsum_12' (Einsum) has no differentiation rule. Operators with a rule: "
    )
    assert text.endswith(
        ". Restrict the head to later layers with layers=..., export the network with other operators, "
        "or use a head without gradients"
    )


def test_unsafe_files_are_input_errors() -> None:
    assert issubclass(UnsafeFileError, InputError)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"layout": "CHW"}, "layout must be NHWC, NCHW or ND; got 'CHW'"),
        ({"dtype": "int8"}, "dtype must be uint8 or float32; got 'int8'"),
        ({"std": (0.0,)}, "std must be positive; got (0.0,)"),
    ],
)
def test_preprocessing(fields: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        Preprocessing(**fields)  # type: ignore[arg-type]
    assert str(error.value) == text
