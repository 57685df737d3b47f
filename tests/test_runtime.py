from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparsense.errors import InputError
from sparsense.runtime import OUTPUTS, Detection, ExportedDetector
from tiny_detectors import CALIBRATION, CARD, card, write_detector


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("detector") / "tiny.onnx")


@pytest.fixture(scope="module")
def detector(file: Path) -> ExportedDetector:
    return ExportedDetector(file, threads=1)


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 5, 3), np.uint8)


# What it computes


def test_scores_are_those_of_the_graph(detector: ExportedDetector) -> None:
    x = images(5)
    found = detector(x)
    mean = x.reshape(5, -1).mean(axis=1)
    np.testing.assert_allclose(found.score, mean, rtol=1e-6)
    np.testing.assert_allclose(found.p_value, [(1 + np.sum(m <= CALIBRATION)) / 100 for m in mean], rtol=1e-6)
    np.testing.assert_array_equal(found.is_anomaly, mean > 95)
    np.testing.assert_allclose(found.output, np.stack([mean, -mean], axis=1), rtol=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 7, 64])
def test_rows_do_not_depend_on_the_micro_batch(file: Path, micro_batch: int) -> None:
    x = images(7)
    found = ExportedDetector(file, threads=1, micro_batch=micro_batch)(x)
    one_by_one = [ExportedDetector(file, threads=1)(x[i : i + 1]) for i in range(7)]
    np.testing.assert_array_equal(found.score, np.concatenate([d.score for d in one_by_one]))
    np.testing.assert_array_equal(found.output, np.concatenate([d.output for d in one_by_one]))


def test_the_session_never_sees_more_than_a_micro_batch(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = ExportedDetector(file, threads=1, micro_batch=4)
    run, sizes = detector._session.run, []

    class Spy:
        def run(self, outputs: object, feed: dict[str, np.ndarray]) -> object:
            sizes.append(len(feed["input"]))
            return run(outputs, feed)

    monkeypatch.setattr(detector, "_session", Spy())
    assert len(detector(images(10))) == 10
    assert sizes == [4, 4, 2]


def test_a_memory_mapped_array_is_scored(detector: ExportedDetector, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", images(9))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r", allow_pickle=False)
    np.testing.assert_array_equal(detector(mapped).score, detector(images(9)).score)


def test_a_view_with_odd_strides_is_scored(detector: ExportedDetector) -> None:
    x = images(8)
    np.testing.assert_array_equal(detector(x[::-2]).score, detector(x[::-2].copy()).score)


def test_no_inputs_give_no_rows(detector: ExportedDetector) -> None:
    nothing = detector(images(0))
    assert len(nothing) == 0
    assert nothing.output.shape == (0, 2)
    for name in OUTPUTS:
        assert getattr(nothing, name).dtype == getattr(detector(images(1)), name).dtype


@given(threshold=st.floats(-300, 300, width=32))
@example(threshold=0.0)
def test_a_threshold_of_the_call_replaces_the_calibrated_one(detector: ExportedDetector, threshold: float) -> None:
    x = np.repeat(np.arange(0, 256, 51, np.uint8), 60).reshape(6, 4, 5, 3)
    found = detector(x, threshold=threshold)
    np.testing.assert_array_equal(found.is_anomaly, found.score > np.float32(threshold))
    np.testing.assert_array_equal(found.score, detector(x).score)


def test_an_infinite_threshold_never_alarms(detector: ExportedDetector) -> None:
    assert not detector(images(3), threshold=float("inf")).is_anomaly.any()


def test_what_the_file_says_about_itself(detector: ExportedDetector) -> None:
    assert detector.card == CARD
    assert detector.threshold == 95.0
    assert detector.input_shape == (4, 5, 3)
    assert detector.dtype == "uint8"
    assert detector.preprocessing["layout"] == "NHWC"


def test_a_detection_cannot_be_changed(detector: ExportedDetector) -> None:
    with pytest.raises(AttributeError):
        detector(images(1)).score = np.zeros(1)  # type: ignore[misc]


def test_free_sizes_take_any_image(tmp_path: Path) -> None:
    detector = ExportedDetector(write_detector(tmp_path / "free.onnx", shape=("N", "H", "W", 3)))
    assert detector.input_shape == (None, None, 3)
    assert len(detector(np.zeros((2, 9, 8, 3), np.uint8))) == 2
    with pytest.raises(InputError, match=r"takes uint8 of shape \[N, \?, \?, 3\]; got uint8 of shape \[2, 9, 8, 1\]"):
        detector(np.zeros((2, 9, 8, 1), np.uint8))


# What it refuses: inputs


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([1, 2], "got list: pass a numpy array"),
        (np.zeros((2, 4, 5, 3), np.float32), "got float32 of shape [2, 4, 5, 3]: the preprocessing is inside"),
        (np.zeros((4, 5, 3), np.uint8), "got uint8 of shape [4, 5, 3]: for a single input add the batch"),
        (np.zeros((2, 3, 4, 5), np.uint8), "these are channels first (NCHW), use inputs.transpose(0, 2, 3, 1)"),
        (np.zeros((2, 4, 4, 3), np.uint8), "takes uint8 of shape [N, 4, 5, 3]; got uint8 of shape [2, 4, 4, 3]"),
        (np.zeros((), np.uint8), "got uint8 of shape []"),
    ],
)
def test_unfit_inputs_are_refused(detector: ExportedDetector, inputs: object, message: str) -> None:
    with pytest.raises(InputError) as refused:
        detector(inputs)  # type: ignore[arg-type]
    assert message in str(refused.value)


def test_channels_last_is_recognised_by_a_channels_first_detector(tmp_path: Path) -> None:
    file = write_detector(tmp_path / "nchw.onnx", shape=("N", 3, 4, 5), card=card(layout="NCHW"))
    with pytest.raises(InputError, match=r"channels last \(NHWC\), use inputs.transpose\(0, 3, 1, 2\)"):
        ExportedDetector(file)(images(2))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_with_the_number_of_the_row(tmp_path: Path, bad: float) -> None:
    file = write_detector(tmp_path / "rows.onnx", shape=("N", 6), card=card(layout="ND", dtype="float32"))
    rows = np.zeros((10, 6), np.float32)
    detector = ExportedDetector(file, micro_batch=3)
    assert len(detector(rows)) == 10
    rows[7, 2] = bad
    with pytest.raises(InputError, match=r"^input 7 holds NaN or infinity"):
        detector(rows)
    with pytest.raises(InputError, match=r"got float64 of shape \[1, 6\]: use inputs.astype\(numpy.float32\)"):
        detector(np.zeros((1, 6)))


def test_a_threshold_that_is_no_number_is_refused(detector: ExportedDetector) -> None:
    with pytest.raises(InputError, match="threshold is NaN"):
        detector(images(1), threshold=float("nan"))


# What it refuses: files


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no.onnx does not exist"):
        ExportedDetector(tmp_path / "no.onnx")
    with pytest.raises(InputError, match=r"is not a file"):
        ExportedDetector(tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x07" * 100])
def test_something_else_than_onnx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as an ONNX model"):
        ExportedDetector(tmp_path / "x.onnx")


def test_a_model_without_a_card(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a sparsense detector: it carries no card\. Attach a head first"):
        ExportedDetector(write_detector(tmp_path / "x.onnx", card=None))


@pytest.mark.parametrize(
    "text", ["{", "[]", '"x"', "{}", '{"format": 1}', '{"format": 1, "preprocessing": {}, "calibration": {}}']
)
def test_a_damaged_card(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="has a card that cannot be read"):
        ExportedDetector(write_detector(tmp_path / "x.onnx", card=text))


def test_a_card_of_another_format(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a card of format 2; this sparsense reads format 1"):
        ExportedDetector(write_detector(tmp_path / "x.onnx", card=CARD | {"format": 2}))


def test_a_graph_that_lacks_an_output(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found the inputs \['input'\] and the outputs \['output', 'score'\]"):
        ExportedDetector(write_detector(tmp_path / "x.onnx", outputs=("score", "output")))


def test_a_threshold_that_no_call_can_replace(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the input 'input', a 'threshold' with a default"):
        ExportedDetector(write_detector(tmp_path / "x.onnx", fixed_threshold=True))


def test_an_input_of_another_type(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"input of type tensor\(int64\)"):
        ExportedDetector(write_detector(tmp_path / "x.onnx", card=card(dtype="int64")))


def test_a_provider_that_is_not_there(file: Path) -> None:
    with pytest.raises(InputError, match=r"cannot run on \['NoSuchProvider'\]: this ONNX Runtime offers \["):
        ExportedDetector(file, providers=["NoSuchProvider"])


@pytest.mark.parametrize(("stored", "used"), [(16, 16), (0, 1), (10**9, 1024)])
def test_the_micro_batch_is_the_cards_unless_given(tmp_path: Path, stored: int, used: int) -> None:
    path = write_detector(tmp_path / "d.onnx", card=CARD | {"micro_batch": stored})
    assert ExportedDetector(path).micro_batch == used
    assert ExportedDetector(path, micro_batch=5).micro_batch == 5


@pytest.mark.parametrize("stored", ["many", float("inf"), float("nan")])
def test_a_micro_batch_that_is_no_number(tmp_path: Path, stored: object) -> None:
    with pytest.raises(InputError, match="has a card that cannot be read"):
        ExportedDetector(write_detector(tmp_path / "d.onnx", card=CARD | {"micro_batch": stored}))


def test_a_micro_batch_of_nothing(file: Path) -> None:
    with pytest.raises(ValueError, match="micro_batch must be at least 1; got 0"):
        ExportedDetector(file, micro_batch=0)


# What it needs: numpy and onnxruntime, nothing else

GUARD = """
import sys
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {banned}:
            raise ImportError("must not be imported: " + name)
sys.meta_path.insert(0, Guard())
"""
BANNED = {
    "torch", "torch_pruning", "onnx", "onnx_ir", "onnxscript", "safetensors", "pydantic", "yaml", "typer", "rich",
    "PIL", "sklearn", "scipy", "plotly", "jinja2",
}  # fmt: skip
SCORE = """
import sparsense, numpy
from sparsense.runtime import OUTPUTS, ExportedDetector
print(ExportedDetector(sys.argv[1], threads=1)(numpy.full((1, 4, 5, 3), 7, numpy.uint8)).score[0])
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", GUARD.format(banned=BANNED) + code, *arguments], capture_output=True, text=True
    )


def test_scoring_imports_numpy_and_onnxruntime_alone(file: Path) -> None:
    done = python(SCORE, str(file))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "7.0"


@pytest.mark.parametrize("module", ["onnx", "pydantic", "torch"])
def test_the_test_above_can_fail(file: Path, module: str) -> None:
    done = python(f"import {module}\n{SCORE}", str(file))
    assert done.returncode != 0
    assert f"must not be imported: {module}" in done.stderr


def test_importing_the_package_loads_no_third_party_module() -> None:
    done = python("import sparsense; print([m for m in ('numpy', 'onnxruntime') if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_a_detection_counts_its_rows() -> None:
    assert len(Detection(*(np.zeros(3, t) for t in (np.float32, np.float32, np.bool_, np.float32)))) == 3
