"""ONNX files that torch did not write, through the real commands: attach, score, verify; against torch in float64."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from typer.testing import CliRunner

from sparsense.cli import app
from sparsense.runtime import ExportedDetector

Array = NDArray[np.float64]
RANDOM = np.random.default_rng(0)
ORDERS, SHRINKAGE = (1, 2), 0.1
node = helper.make_node


@dataclass(frozen=True)
class Stranger:
    """A file, the options it needs, raw inputs, and the same network in torch.

    Attributes:
        proto: The file.
        inputs: Raw.
        weights: Of the layers, float64.
        logits: (prepared inputs, weights) -> logits.
        arguments: For `sparsense attach`.
        prepare: Raw inputs -> the network's.
    """

    proto: onnx.ModelProto
    inputs: NDArray[np.generic]
    weights: list[Tensor]
    logits: Callable[[Tensor, list[Tensor]], Tensor]
    arguments: tuple[str, ...] = ()
    prepare: Callable[[Tensor], Tensor] = lambda x: x


def array(*shape: int, scale: float = 0.5) -> NDArray[np.float32]:
    return RANDOM.normal(0, scale, shape).astype(np.float32)


def file(
    nodes: list[onnx.NodeProto],
    shape: list[int | str | None],
    outputs: int,
    opset: int,
    constants: dict[str, NDArray[np.generic]],
) -> onnx.ModelProto:
    """A model from the image or row `x` to `logits`; below opset 10 its weights are inputs, too, as was the custom."""
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    if opset < 10:
        given += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]
    answer = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shape[0], outputs])
    graph = helper.make_graph(nodes, "g", given, [answer], tensors)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=3 if opset < 10 else 9)


IMAGES = np.random.default_rng(5).integers(0, 256, (160, 6, 6, 3)).astype(np.uint8)
MEAN, STD = 0.4, 0.3


def prepared(x: Tensor) -> Tensor:
    return (x.movedim(-1, 1) / 255 - MEAN) / STD


def by_hand() -> Stranger:
    """Conv, Relu, one filter used twice, average, Gemm: written with onnx.helper."""
    constants: dict[str, NDArray[np.generic]] = {
        "edges": array(4, 3, 3, 3), "mix": array(4, 4, 1, 1), "v": array(3, 4), "c": array(3) + 5,
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "edges"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "mix"], ["d"]),
        node("Tanh", ["d"], ["e"]),
        node("Conv", ["e", "mix"], ["f"]),
        node("Tanh", ["f"], ["g"]),
        node("GlobalAveragePool", ["g"], ["h"]),
        node("Flatten", ["h"], ["i"]),
        node("Gemm", ["i", "v", "c"], ["logits"], transB=1),
    ]
    edges, mix, v, c = (torch.tensor(values, dtype=torch.float64) for values in constants.values())

    def logits(x: Tensor, w: list[Tensor]) -> Tensor:
        x = torch.tanh(F.conv2d(F.relu(F.conv2d(x, w[0], padding=1)), w[1]))
        return F.linear(torch.tanh(F.conv2d(x, w[1])).mean((2, 3)), w[2], c)

    arguments = ("--mean", str(MEAN), "--std", str(STD))
    return Stranger(file(nodes, ["N", 3, 6, 6], 3, 18, constants), IMAGES, [edges, mix, v], logits, arguments, prepared)


def old() -> Stranger:
    """Opset 9: a batch of one baked in twice, weights among the inputs, limits and axes as attributes."""
    constants: dict[str, NDArray[np.generic]] = {
        "w": array(4, 3, 3, 3), "s": np.abs(array(4)) + 0.5, "b": array(4), "m": array(4), "r": np.abs(array(4)) + 0.5,
        "shape": np.asarray([1, 4, 9]), "rows": np.asarray([1, 4]), "v": array(4, 3), "c": array(3) + 5,
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", ["a", "s", "b", "m", "r"], ["n"]),
        node("Clip", ["n"], ["q"], min=0.0, max=6.0),
        node("Reshape", ["q", "shape"], ["t"]),
        node("ReduceMean", ["t"], ["u"], axes=[2], keepdims=1),
        node("Squeeze", ["u"], ["z"], axes=[2]),
        node("Unsqueeze", ["z"], ["k"], axes=[2]),
        node("Reshape", ["k", "rows"], ["f"]),
        node("Dropout", ["f"], ["p"]),
        node("MatMul", ["p", "v"], ["l"]),
        node("Add", ["l", "c"], ["logits"]),
    ]
    w, s, b, m, r, _, _, v, c = (torch.tensor(values, dtype=torch.float64) for values in constants.values())

    def logits(x: Tensor, weights: list[Tensor]) -> Tensor:
        x = F.conv2d(x, weights[0], padding=1, stride=2)
        x = F.batch_norm(x, m, r, s, b, eps=1e-5).clamp(0, 6)
        return x.mean((2, 3)) @ weights[1] + c

    arguments = ("--mean", str(MEAN), "--std", str(STD))
    return Stranger(file(nodes, [1, 3, 6, 6], 3, 9, constants), IMAGES, [w, v], logits, arguments, prepared)


def learner() -> Stranger:
    """Scaler and perceptron of scikit-learn: the file's outputs are labels and a table; its logits lie inside."""
    skl2onnx = pytest.importorskip("skl2onnx", reason="the converter of scikit-learn is not installed")
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = np.random.default_rng(6).normal(1, 2, (160, 5)).astype(np.float32)
    labels = (rows[:, 0] > 1).astype(int) + (rows[:, 1] > 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = make_pipeline(StandardScaler(), MLPClassifier((8, 6), max_iter=40, random_state=0)).fit(rows, labels)
        proto = skl2onnx.to_onnx(fitted, rows[:1])
    scaler, net = fitted[0], fitted[1]
    net_weights = [torch.tensor(w.astype(np.float32), dtype=torch.float64) for w in net.coefs_]
    biases = [torch.tensor(b.astype(np.float32), dtype=torch.float64) for b in net.intercepts_]

    def logits(x: Tensor, w: list[Tensor]) -> Tensor:
        x = (x - torch.tensor(scaler.mean_)) / torch.tensor(scaler.scale_)
        for weight, bias in zip(w[:-1], biases[:-1], strict=True):
            x = F.relu(x @ weight + bias)
        return x @ w[-1] + biases[-1]

    inner = next(n.input[0] for n in proto.graph.node if n.op_type == "Softmax")
    return Stranger(proto, rows, net_weights, logits, ("--output-name", inner))


STRANGERS = {"by_hand": by_hand, "old": old, "scikit-learn": learner}


@pytest.fixture(params=STRANGERS)
def stranger(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stranger:
    """A file and its data in the current folder: 90 inputs to fit, 40 to calibrate, 30 to score."""
    monkeypatch.chdir(tmp_path)
    found = STRANGERS[request.param]()
    onnx.save(found.proto, "model.onnx")
    key = "images" if found.inputs.dtype == np.uint8 else "X"
    for name, part in (("fit", slice(90)), ("held_out", slice(90, 130)), ("new", slice(130, None))):
        np.savez(f"{name}.npz", **{key: found.inputs[part]})
    return found


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def scores(stranger: Stranger, head: str, *options: str) -> Array:
    """Attach, verify, score the new inputs."""
    data = ("--data", "fit.npz", "--calibration", "held_out.npz")
    call("attach", "model.onnx", "--head", head, *data, "--output", "detector.onnx", *stranger.arguments, *options)
    rows = call("verify", "detector.onnx").splitlines()[1:]
    assert {row.split()[-1] for row in rows} == {"yes"}
    lines = call("score", "detector.onnx", "new.npz", "--format", "jsonl").splitlines()
    return np.asarray([json.loads(line)["score"] for line in lines])


def ready(stranger: Stranger, part: slice) -> Tensor:
    return stranger.prepare(torch.tensor(stranger.inputs[part], dtype=torch.float64))


def profiles(stranger: Stranger, part: slice) -> Array:
    """Log norms of w * d log f / dw of the largest logit f, by autograd, sample by sample."""
    found = []
    for sample in ready(stranger, part):
        weights = [w.clone().requires_grad_() for w in stranger.weights]
        logit = stranger.logits(sample[None], weights).max()
        gradients = torch.autograd.grad(logit, weights)
        elastic = [(w * g / (logit - 1e-8)).detach().flatten() for w, g in zip(weights, gradients, strict=True)]
        found.append([float(torch.linalg.vector_norm(e, p).clamp(min=1e-30).log()) for e in elastic for p in ORDERS])
    return np.asarray(found)


def distances(usual: Array, new: Array) -> Array:
    """Squared Mahalanobis distances, the correlations shrunk towards none."""
    spread = usual.std(0, ddof=1)
    correlation = (1 - SHRINKAGE) * np.corrcoef(usual.T) + SHRINKAGE * np.eye(usual.shape[1])
    z = (new - usual.mean(0)) / spread
    return np.asarray(np.einsum("ni,ij,nj->n", z, np.linalg.inv(correlation), z))


def test_energy(stranger: Stranger) -> None:
    logits = stranger.logits(ready(stranger, slice(130, None)), stranger.weights)
    np.testing.assert_allclose(scores(stranger, "energy"), -torch.logsumexp(logits, 1).numpy(), rtol=1e-5)


def test_sensitivity_profile(stranger: Stranger) -> None:
    usual, new = profiles(stranger, slice(90)), profiles(stranger, slice(130, None))
    options = ("--option", "by_class=false", "--option", f"shrinkage={SHRINKAGE}", "--option", f"p={list(ORDERS)}")
    found = scores(stranger, "sensnorm_profile", *options)
    expected = distances(usual, new)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4 * expected.std())


def test_probabilities_are_pointed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name the labels come first: refused, with the choices.

    Probabilities that are asked for are refused by a head that takes them for logits; others take them with a note.
    """
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(1).normal(size=(120, 4)).astype(np.float32)
    nodes = [
        node("MatMul", ["x", "w"], ["raw"]),
        node("Softmax", ["raw"], ["shares"]),
        node("ArgMax", ["shares"], ["label"], axis=1, keepdims=0),
    ]
    proto = file(nodes, ["N", 4], 3, 18, {"w": array(4, 3)})
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]))
    proto.graph.output.append(helper.make_tensor_value_info("shares", TensorProto.FLOAT, ["N", 3]))
    onnx.save(proto, "model.onnx")
    np.savez("rows.npz", X=rows)
    command = ["attach", "model.onnx", "--head", "energy", "--data", "rows.npz", "--output", "d.onnx"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert refused.stderr.endswith("name one of: 'shares' (an output), 'raw' (what goes into Softmax)\n")
    refused = CliRunner().invoke(app, [*command, "--output-name", "shares"])
    assert refused.exit_code == 2
    assert "fitting head 'energy': expected logits, found probabilities" in refused.stderr
    assert refused.stderr.endswith("'shares' holds probabilities; the logits before them are 'raw': name that output\n")
    command[3] = "sensnorm_profile"
    noted = CliRunner().invoke(app, [*command, "--output-name", "shares"])
    assert noted.exit_code == 0, noted.output
    assert noted.stderr.splitlines()[-1] == (
        "note: 'shares' holds probabilities; heads expect the logits before them: --output-name raw"
    )
    quiet = CliRunner().invoke(app, [*command, "--output-name", "raw"])
    assert "note:" not in quiet.stderr


@pytest.mark.parametrize("squashing", ["LogSoftmax", "Sigmoid", "Softmax"])
def test_the_logits_in_front_of_probabilities_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squashing: str
) -> None:
    """A file that answers with probabilities gives the detector of the file that answers with logits, and a note."""
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(1).normal(size=(120, 4)).astype(np.float32)
    nodes, weights = [node("MatMul", ["x", "w"], ["raw"]), node(squashing, ["raw"], ["squashed"])], {"w": array(4, 3)}
    for name, output in (("squashed.onnx", "squashed"), ("raw.onnx", "raw")):
        proto = file(nodes, ["N", 4], 3, 18, weights)
        proto.graph.output[0].CopyFrom(helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 3]))
        onnx.save(proto, name)
    np.savez("rows.npz", X=rows)
    found = {}
    for name in ("squashed.onnx", "raw.onnx"):
        command = ["attach", name, "--head", "energy", "--data", "rows.npz", "--output", f"{name}.d.onnx"]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        found[name] = ExportedDetector(f"{name}.d.onnx")(rows[:9])
        if name == "raw.onnx":
            assert "note:" not in result.stderr
        else:
            assert result.stderr.splitlines()[-1] == (
                "note: 'squashed' holds probabilities; the logits before them, 'raw', were taken instead "
                "(--output-name squashed keeps them)"
            )
    np.testing.assert_array_equal(found["squashed.onnx"].score, found["raw.onnx"].score)
    np.testing.assert_allclose(found["squashed.onnx"].output, rows[:9] @ weights["w"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("squashing", ["LogSoftmax", "Sigmoid"])
def test_a_refusal_of_probabilities_names_the_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squashing: str
) -> None:
    """Heads on features look for a fully connected layer, and find what is behind it."""
    monkeypatch.chdir(tmp_path)
    nodes = [node("MatMul", ["x", "w"], ["raw"]), node(squashing, ["raw"], ["squashed"])]
    proto = file(nodes, ["N", 4], 3, 18, {"w": array(4, 3)})
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("squashed", TensorProto.FLOAT, ["N", 3]))
    onnx.save(proto, "model.onnx")
    np.savez("rows.npz", X=np.random.default_rng(1).normal(size=(120, 4)).astype(np.float32))
    command = ["attach", "model.onnx", "--head", "knn", "--data", "rows.npz", "--output", "d.onnx"]
    refused = CliRunner().invoke(app, [*command, "--output-name", "squashed"])
    assert refused.exit_code == 2
    assert refused.stderr.endswith(
        "'squashed' holds probabilities; the logits before them are 'raw': name that output\n"
    )
    assert CliRunner().invoke(app, [*command, "--output-name", "raw"]).exit_code == 0


def test_labels_that_are_predicted_by_chance_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that uses labels but can do without them goes on; one that needs them refuses what is below chance."""
    monkeypatch.chdir(tmp_path)
    rows, weight = np.random.default_rng(1).normal(size=(300, 4)).astype(np.float32), array(4, 3)
    onnx.save(file([node("MatMul", ["x", "w"], ["logits"])], ["N", 4], 3, 18, {"w": weight}), "model.onnx")
    np.savez("rows.npz", X=rows, y=(rows @ weight).argmax(1), wrong=((rows @ weight).argmax(1) + 1) % 3)
    data = ("--data", "rows.npz", "--output", "d.onnx", "--labels")
    right, told = (
        CliRunner().invoke(app, ["attach", "model.onnx", "--head", "sensnorm", *data, key]) for key in ("y", "wrong")
    )
    assert "note:" not in right.stderr
    assert told.exit_code == 0
    assert told.stderr.splitlines()[-1].startswith("note: the network predicts 0 of 200 labels of 'rows/train'")
    refused = CliRunner().invoke(app, ["attach", "model.onnx", "--head", "mahalanobis", *data, "wrong"])
    assert refused.exit_code == 2
    assert "check that a label is the number of its output" in refused.stderr


def test_a_classifier_of_rows_is_no_autoencoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(file([node("MatMul", ["x", "w"], ["logits"])], ["N", 4], 3, 18, {"w": array(4, 3)}), "model.onnx")
    np.savez("rows.npz", X=np.random.default_rng(1).normal(size=(120, 4)).astype(np.float32))
    command = ["attach", "model.onnx", "--head", "reconstruction_error", "--data", "rows.npz", "--output", "d.onnx"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "an autoencoder has an output shaped like its input" in refused.stderr


def test_a_binary_learner_of_one_logit_has_the_probabilities_of_both_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """scikit-learn's file has labels and a table for outputs, and one logit inside."""
    skl2onnx = pytest.importorskip("skl2onnx", reason="the converter of scikit-learn is not installed")
    from sklearn.neural_network import MLPClassifier

    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(6).normal(size=(160, 5)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx.save(skl2onnx.to_onnx(MLPClassifier((8,), max_iter=20).fit(rows, rows[:, 0] > 0), rows[:1]), "model.onnx")
    np.savez("rows.npz", X=rows)
    command = ["attach", "model.onnx", "--head", "msp", "--data", "rows.npz", "--output", "d.onnx"]
    refused = CliRunner().invoke(app, command)
    logit, both = (part.split("'")[1] for part in refused.stderr.split("name one of: ")[1].split(", "))
    assert refused.stderr.endswith("(what goes into ZipMap)\n")
    refused = CliRunner().invoke(app, [*command, "--output-name", logit])
    assert "expected at least 2 classes, found 1" in refused.stderr
    assert CliRunner().invoke(app, [*command, "--output-name", both]).exit_code == 0
