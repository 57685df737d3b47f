"""From a stranger's ONNX file to scored images, in processes in which torch is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

WITHOUT_TORCH = """
import sys
from importlib.machinery import PathFinder
class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.split(".")[0] in ("torch", "torch_pruning", "onnxscript")
        return None if absent else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
from sparsense.cli import main
sys.argv[0] = "sparsense"
main()
"""


def write_classifier(path: Path) -> None:
    """Conv 3 -> 6, Relu, average over the image, Gemm 6 -> 4; random weights."""
    random = np.random.default_rng(0)
    sizes = {"w": (6, 3, 3, 3), "b": (6,), "v": (4, 6), "c": (4,)}
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["h"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "v", "c"], ["logits"], "full", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(random.normal(size=s).astype(np.float32), n) for n, s in sizes.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def sparsense(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, a folder of noisy grey images, and a detector made of them."""
    folder = tmp_path_factory.mktemp("attach")
    write_classifier(folder / "model.onnx")
    random = np.random.default_rng(1)
    (folder / "images").mkdir()
    for index in range(60):
        pixels = np.clip(random.normal(128, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index:02}.png")
    Image.new("RGB", (8, 8), (255, 0, 255)).save(folder / "odd.png")
    done = sparsense(
        folder, "attach", "model.onnx", "--head", "sensnorm_profile", "--data", "images", "--output", "detector.onnx",
        "--mean", "0.5", "--std", "0.25", "--false-alarm-rate", "0.1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "detector.onnx\n"
    return folder


def test_an_odd_image_is_an_anomaly_and_most_others_are_not(folder: Path) -> None:
    done = sparsense(folder, "score", "detector.onnx", "images", "odd.png", "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows[-1]["input"] == "odd.png"
    assert rows[-1]["is_anomaly"] is True
    assert sum(row["is_anomaly"] for row in rows[:-1]) <= 12
    assert sparsense(folder, "score", "detector.onnx", "odd.png", "--fail-on-anomaly").returncode == 1


def test_the_detector_is_verified(folder: Path) -> None:
    done = sparsense(folder, "verify", "detector.onnx")
    assert done.returncode == 0, done.stderr
    assert {line.split()[-1] for line in done.stdout.splitlines()[1:]} == {"yes"}


def test_a_detector_that_was_tampered_with_is_found(folder: Path) -> None:
    """A weight that the score depends on is changed by a tenth."""
    model = onnx.load(folder / "detector.onnx")
    weight = next(t for t in model.graph.initializer if list(t.dims) == [6, 3, 3, 3])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.1), weight.name))
    onnx.save(model, folder / "changed.onnx")
    done = sparsense(folder, "verify", "changed.onnx")
    assert done.returncode == 1, done.stderr
    assert "no" in {line.split()[-1] for line in done.stdout.splitlines()[1:]}


def test_the_card_says_how_it_was_made(folder: Path) -> None:
    done = sparsense(folder, "inspect", "detector.onnx", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [v["name"] for v in found["inputs"]] == ["input"]
    assert [v["name"] for v in found["outputs"]] == ["score", "p_value", "is_anomaly", "output"]
    card = found["card"]
    assert (card["format"], card["head"], card["calibration"]["n"], card["calibration"]["rate"]) == (
        1, "sensnorm_profile", 20, 0.1,
    )  # fmt: skip
    assert card["preprocessing"]["mean"] == [0.5]


def test_names_are_listed(folder: Path) -> None:
    assert "sensnorm_profile" in sparsense(folder, "list", "heads").stdout
    assert "needs torch" in sparsense(folder, "list", "criteria").stdout


def test_what_needs_torch_says_so(folder: Path) -> None:
    (folder / "r.yaml").write_text(
        "name: x\nnetwork: {source: digits_resnet}\ndata:\n  train: {source: digits, split: train}\n"
        "  calibration: {source: digits, split: calibration}\n  test: {source: digits, split: test}\n"
    )
    done = sparsense(folder, "run", "r.yaml")
    assert done.returncode == 2
    assert done.stderr == (
        "error: running a recipe needs torch, which is not installed: pip install 'sparsense[prune]'\n"
    )
