"""`sparsense quantise`: a file where it pays, numbers and no file where it does not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from sparsense.cli import app
from sparsense.data import SOURCES
from sparsense.networks import load_network
from sparsense.to_onnx import export_forward


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("int8")
    onnx.save(export_forward(load_network("digits_resnet", weights="bundled")), place / "net.onnx")
    usual, test = (SOURCES["digits"](split, limit=100, seed=0) for split in ("calibration", "test"))
    np.save(place / "usual.npy", usual.inputs)
    np.savez(place / "test.npz", images=test.inputs, labels=test.labels)
    np.save(place / "letters.npy", SOURCES["letters"]("test", limit=60, seed=0).inputs)
    return place


def quantise(folder, *more, test="test.npz"):
    arguments = [folder / "net.onnx", "--calibration", folder / "usual.npy", "--test", folder / test, "--output",
                 folder / "int8.onnx", "--mean", "0.5", "--std", "0.5", *more]  # fmt: skip
    return CliRunner().invoke(app, ["quantise", *map(str, arguments)])


def test_the_verdict_decides_whether_there_is_a_file(folder):
    done = quantise(folder, "--anomalous", folder / "letters.npy", "--accuracy-budget", "1", "--auroc-budget", "1")
    accepted = done.exit_code == 0  # whether it is faster depends on the machine
    assert done.exit_code in (0, 1), done.output
    assert ("INT8 accepted; time" if accepted else "INT8 refused: it is ") in done.output
    assert "AUROC" in done.output
    assert (folder / "int8.onnx").is_file() is accepted


def test_a_test_set_needs_labels(folder):
    done = quantise(folder, test="usual.npy")
    assert done.exit_code == 2
    assert "expected labels, found none" in done.output
