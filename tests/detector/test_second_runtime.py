"""Detector files in other runtimes: ONNX's reference implementation and OpenVINO give ONNX Runtime's scores."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from sparsense.data.dataset import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import AttachSettings, attach_to_file
from sparsense.graph.build import Builder
from sparsense.heads import HEADS
from sparsense.runtime import OUTPUTS, ExportedDetector

TOLERANCE = 1e-4
Weights = Callable[..., NDArray[np.float32]]


def residual(op: Builder, x: ir.Value, w: Weights) -> ir.Value:
    """A ResNet: stem, an identity block, a strided block with a projection."""
    x = op.Relu(op.Conv(x, w(8, 3, 3, 3), w(8), pads=[1] * 4))
    y = op.Conv(op.Relu(op.Conv(x, w(8, 8, 3, 3), w(8), pads=[1] * 4)), w(8, 8, 3, 3), w(8), pads=[1] * 4)
    x = op.Relu(op.Add(x, y))
    y = op.Relu(op.Conv(x, w(16, 8, 3, 3), w(16), pads=[1] * 4, strides=[2, 2]))
    y = op.Conv(y, w(16, 16, 3, 3), w(16), pads=[1] * 4)
    return op.Relu(op.Add(op.Conv(x, w(16, 8, 1, 1), w(16), strides=[2, 2]), y))


def mobile(op: Builder, x: ir.Value, w: Weights) -> ir.Value:
    """Inverted residuals: 1x1, depthwise and 1x1 convolutions with ReLU6, and a squeeze-and-excitation."""
    zero, six = np.float32(0), np.float32(6)
    x = op.Clip(op.Conv(x, w(8, 3, 3, 3), w(8), pads=[1] * 4, strides=[2, 2]), zero, six)
    y = op.Clip(op.Conv(x, w(16, 8, 1, 1), w(16)), zero, six)
    y = op.Clip(op.Conv(y, w(16, 1, 3, 3), w(16), pads=[1] * 4, group=16), zero, six)
    share = op.Sigmoid(op.Conv(op.GlobalAveragePool(y), w(16, 16, 1, 1), w(16)))
    return op.Add(x, op.Conv(op.Mul(y, share), w(8, 16, 1, 1), w(8)))


def transformer(op: Builder, x: ir.Value, w: Weights) -> ir.Value:
    """A ViT: patches, one attention of two heads, one MLP with GELU, layer norms."""
    x = op.Reshape(op.Conv(x, w(8, 3, 4, 4), w(8), strides=[4, 4]), [0, 8, 4])
    x = op.Add(op.Transpose(x, perm=[0, 2, 1]), w(1, 4, 8))
    y = op.LayerNormalization(x, 1 + w(8), w(8))
    parts = op.call("Split", op.MatMul(y, w(8, 24)), [8, 8, 8], axis=2, outputs=3)
    q, k, v = (op.Transpose(op.Reshape(part, [0, 4, 2, 4]), perm=[0, 2, 1, 3]) for part in parts)
    share = op.Softmax(op.Mul(op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2])), 0.5), axis=-1)
    y = op.Reshape(op.Transpose(op.MatMul(share, v), perm=[0, 2, 1, 3]), [0, 4, 8])
    x = op.Add(x, op.MatMul(y, w(8, 8)))
    y = op.Gelu(op.Add(op.MatMul(op.LayerNormalization(x, 1 + w(8), w(8)), w(8, 16)), w(16)))
    x = op.Add(x, op.MatMul(y, w(16, 8)))
    return op.Unsqueeze(op.Transpose(x, perm=[0, 2, 1]), [3])


FAMILIES = {"residual": residual, "mobile": mobile, "transformer": transformer}


def write_network(path: Path, family: str) -> Preprocessing:
    """A small network of the family with random weights; its logits lie around 4."""
    random = np.random.default_rng(len(family))

    def w(*shape: int) -> NDArray[np.float32]:
        fan_in = max(int(np.prod(shape[1:])), 4)
        return random.normal(0, 1.4 / np.sqrt(fan_in), shape).astype(np.float32)

    rows = family == "mlp"
    x = ir.val("x", ir.DataType.FLOAT, ["N", 6] if rows else ["N", 3, 8, 8])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name=family)
    op = Builder(graph)
    if rows:
        hidden = op.Tanh(op.Gemm(op.Tanh(op.Gemm(x, w(6, 8), w(8))), w(8, 8), w(8)))
        features: ir.Value = op.Relu(op.Gemm(hidden, w(8, 8), w(8), transB=1))
    else:
        features = op.Flatten(op.GlobalAveragePool(FAMILIES[family](op, x, w)))
    width = 8 if rows else int(str(features.shape[1]) if features.shape else 0)
    graph.outputs.append(op.Gemm(features, w(width, 4), 4 + w(4)))
    onnx.save(ir.to_proto(ir.Model(graph, ir_version=9)), path)
    return Preprocessing("ND", "float32", 1.0) if rows else Preprocessing(mean=(0.5,), std=(0.25,))


@pytest.fixture(scope="module", params=[*FAMILIES, "mlp"])
def detector(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, NDArray[np.generic]]:
    """A detector file with gradients in it, and new inputs."""
    folder = tmp_path_factory.mktemp(request.param)
    preprocessing = write_network(folder / "model.onnx", request.param)
    random = np.random.default_rng(1)
    inputs: NDArray[np.generic] = random.normal(size=(110, 6)).astype(np.float32)
    if request.param != "mlp":  # of many colours and contrasts: images that differ
        colour, contrast = random.uniform(-80, 80, (110, 1, 1, 3)), random.uniform(5, 60, (110, 1, 1, 1))
        pixels = 128 + colour + contrast * random.standard_normal((110, 8, 8, 3))
        inputs = pixels.clip(0, 255).astype(np.uint8)
    attach_to_file(
        folder / "model.onnx",
        HEADS["sensnorm_profile"](p=2, by_class=False, shrinkage=0.5),
        folder / "detector.onnx",
        fit=Dataset("fit", inputs[:60]),
        calibration=Dataset("calibration", inputs[60:100]),
        preprocessing=preprocessing,
        settings=AttachSettings(tolerance=1e-3),
    )
    return folder / "detector.onnx", inputs[100:]


def agrees(path: Path, inputs: NDArray[np.generic], found: dict[str, NDArray[np.generic]]) -> None:
    expected = ExportedDetector(path, threads=1)(inputs)
    for name in ("score", "p_value", "output"):
        wanted = getattr(expected, name)
        error = np.abs(found[name].astype(np.float64) - wanted).max() / np.abs(wanted).max()
        assert error <= TOLERANCE, f"{name}: {error:.1e}"
    np.testing.assert_array_equal(found["is_anomaly"], expected.is_anomaly)


def test_the_reference_implementation_agrees(detector: tuple[Path, NDArray[np.generic]]) -> None:
    path, inputs = detector
    with np.errstate(over="ignore"):  # a steep ramp that ends at 1
        found = ReferenceEvaluator(str(path)).run(OUTPUTS, {"input": inputs, "threshold": np.float32(threshold(path))})
    agrees(path, inputs, dict(zip(OUTPUTS, found, strict=True)))


def test_openvino_agrees(detector: tuple[Path, NDArray[np.generic]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
        path, inputs = detector
        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        )
        given = {"input": inputs}
        if any("threshold" in port.names for port in compiled.inputs):
            given["threshold"] = np.float32(threshold(path))
        found = compiled(given)
    agrees(path, inputs, {name: found[name] for name in OUTPUTS})


def threshold(path: Path) -> float:
    return ExportedDetector(path).threshold
