"""`sparsense inspect --cost`: layers, what their gradients add, and what is in the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from sparsense.autodiff import weighted_layers
from sparsense.autodiff.cost import cost
from sparsense.cli import app
from sparsense.graph.forward import bare_graph
from sparsense.graph.load import load_graph

node = helper.make_node


def save(path: Path, *, in_the_way: bool = False, first_is_label: bool = False, side: int | str = 6) -> None:
    """Conv 3 -> 4, perhaps a resampling, Relu, average, Gemm 4 -> 2, perhaps a label before the logits."""
    constants = {"w": (4, 3, 3, 3), "v": (2, 4), "c": (2,)}
    random = np.random.default_rng(0)
    resample = [
        node("Transpose", ["a"], ["t"], perm=[0, 2, 3, 1]),
        node("Slice", ["t", "zero", "two", "three"], ["grid"]),
        node("GridSample", ["a", "grid"], ["b"], "resample"),
    ]
    nodes = [
        node("Conv", ["x", "w"], ["a"], "conv", pads=[1, 1, 1, 1]),
        *(resample if in_the_way else [node("Identity", ["a"], ["b"])]),
        node("Relu", ["b"], ["r"]),
        node("GlobalAveragePool", ["r"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "v", "c"], ["logits"], "full", transB=1),
        node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    arrays = {name: random.normal(9.0 if name == "c" else 0.0, 0.3, shape) for name, shape in constants.items()}
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    tensors += [numpy_helper.from_array(np.asarray([n]), name) for name, n in (("zero", 0), ("two", 2), ("three", 3))]
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, side, side])
    graph = helper.make_graph(nodes, "g", [given], outputs if first_is_label else outputs[::-1], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)


def save_images() -> None:
    """Of many colours and contrasts."""
    random = np.random.default_rng(0)
    colour, contrast = random.uniform(-80, 80, (120, 1, 1, 3)), random.uniform(5, 60, (120, 1, 1, 1))
    pixels = 128 + colour + contrast * random.standard_normal((120, 6, 6, 3))
    np.savez("images.npz", images=pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> list[str]:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


TABLE = [
    ["layer", "operator", "weights", "forward", "+", "gates", "+", "weights"],
    ["w", "Conv", "108", "3,888", "144", "3,996"],
    ["v", "Gemm", "8", "8", "10", "24"],
    ["total", "116", "3,896", "154", "4,020"],
]


def test_layers_and_their_gradients() -> None:
    """By hand: 27 products for each of 4 x 36 numbers; gates add one for each; the first needs no input gradient."""
    save(Path("n.onnx"))
    found = call("inspect", "n.onnx", "--cost")
    assert [line.split() for line in found[-7:-3]] == TABLE
    assert found[-3:] == ["this file: 3,896 multiply-adds for one sample", "what gradients cannot cross", "  none"]


def test_they_are_those_of_the_engine() -> None:
    save(Path("n.onnx"))
    (text,) = call("inspect", "n.onnx", "--cost", "--json")
    network = bare_graph(load_graph("n.onnx"))
    expected = [(c.layer, c.forward, c.gate, c.weight) for c in cost(network, weighted_layers(network))]
    layers = json.loads(text)["layers"]
    assert [(c["layer"], c["forward"], c["gate"], c["weight"]) for c in layers] == expected


def test_of_a_detector_the_network_inside_is_looked_at() -> None:
    """The same table as of the file that it was made of; the file itself multiplies more, for its gradients."""
    save(Path("n.onnx"))
    save_images()
    calm = ("--option", "shrinkage=0.9", "--option", "by_class=false")
    call("attach", "n.onnx", "--head", "sensnorm_profile", "--data", "images.npz", "--output", "d.onnx", "-q", *calm)
    found = call("inspect", "d.onnx", "--cost")
    assert [line.split() for line in found[-7:-3]] == TABLE
    whole = int(found[-3].split()[2].replace(",", ""))
    assert whole > 2 * 3_896
    assert found[-1] == "  none"


def test_obstacles_are_printed_with_what_to_do() -> None:
    save(Path("n.onnx"), in_the_way=True)
    found = call("inspect", "n.onnx", "--cost")
    assert found[-2:] == [
        "what gradients cannot cross",
        "  node 'resample' (GridSample): use Resize, or restrict the head to the layers behind it",
    ]
    (text,) = call("inspect", "n.onnx", "--cost", "--json")
    assert json.loads(text)["obstacles"][0]["node"] == "resample"


def test_attaching_lists_the_same_obstacles() -> None:
    save(Path("n.onnx"), in_the_way=True)
    save_images()
    command = ["attach", "n.onnx", "--data", "images.npz", "--output", "d.onnx", "--quiet", "--head"]
    refused = CliRunner().invoke(app, [*command, "sensnorm_profile"])
    assert refused.exit_code == 2
    assert "node 'resample' (GridSample) has no differentiation rule" in refused.stderr
    assert refused.stderr.splitlines()[-2:] == [
        "what gradients cannot cross in this network:",
        "node 'resample' (GridSample): use Resize, or restrict the head to the layers behind it",
    ]
    assert not Path("d.onnx").exists()
    assert CliRunner().invoke(app, [*command, "energy"]).exit_code == 0
    behind = CliRunner().invoke(
        app, [*command, "sensnorm_profile", "--option", "layers=1", "--option", "shrinkage=0.9"]
    )
    assert behind.exit_code == 0, behind.output


def test_labels_before_logits_need_a_name() -> None:
    save(Path("n.onnx"), first_is_label=True)
    refused = CliRunner().invoke(app, ["inspect", "n.onnx", "--cost"])
    assert refused.exit_code == 2
    assert "found 'label', and it holds int64 numbers; name one of: 'logits' (an output)" in refused.stderr
    found = call("inspect", "n.onnx", "--cost", "--output-name", "logits")
    assert [line.split() for line in found[-7:-3]] == TABLE


def test_free_sizes_are_not_guessed() -> None:
    save(Path("n.onnx"), side="S")
    found = call("inspect", "n.onnx", "--cost")
    assert [line.split() for line in found[-6:-3]] == [
        ["w", "Conv", "108", "-", "-", "-"],
        ["v", "Gemm", "8", "8", "10", "24"],
        ["total", "116", "-", "-", "-"],
    ]
