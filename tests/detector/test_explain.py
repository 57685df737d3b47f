"""Explanations: parts that add up to the score, maps that are its gradient or the error, all of it in the file."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from typer.testing import CliRunner

from observing import ROWS, linear_network
from sparsense.autodiff.differentiate import ancestors
from sparsense.cli import app
from sparsense.data.dataset import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import AttachSettings, Scored, attach_to_file, calibrated, fit_head, recalibrate, write_detector
from sparsense.detector.explain import ERROR_MAP, GRADIENT_MAP, check_explanation, explained
from sparsense.errors import ExportError, InputError
from sparsense.graph import Builder, ForwardGraph, Session, forward_graph
from sparsense.heads import HEADS, Head
from sparsense.heads.contributions import Contributions, shared_out
from sparsense.parity import Parity
from sparsense.runtime import ExportedDetector
from tiny_autoencoder import tiny_autoencoder, tiny_autoencoder_graph
from tiny_classifier import tiny_data, tiny_graph, tiny_images, tiny_network, tiny_proto

WITH_PARTS = {
    "fusion": "members",
    "gaia_a": "layers",
    "gaia_z": "layers",
    "gram": "layers",
    "gradcon": "terms",
    "latent_norm": "terms",
    "mahalanobis": "features",
    "purview": "layers",
    "reconstruction_profile": "terms",
    "relative_mahalanobis": "features",
    "sensnorm": "layers",
    "sensnorm_gates": "layers",
    "sensnorm_profile": "layers",
}


CHANNELS = {
    "fusion": "sensnorm_profile: stem[0]",
    "gaia_a": "stem[0]",
    "gaia_z": "stem[0]",
    "gram": "stem[0]",
    "purview": "stem[0]",
    "reconstruction_profile": "error",
    "sensnorm": "stem[0]",
    "sensnorm_gates": "stem[0]",
    "sensnorm_profile": "stem[0]",
}


@cache
def scored_with(name: str, detail: str = "parts", **options: Any) -> tuple[Scored, dict[str, Any]]:
    reconstructs = HEADS[name].task == "reconstruction"
    graph, network = (tiny_autoencoder_graph(), tiny_autoencoder()) if reconstructs else (tiny_graph(), tiny_network())
    data = tiny_images("fit", 120, seed=0, side=16) if reconstructs else tiny_data("fit", 240, seed=0)
    scored = fit_head(graph, HEADS[name](**options), data, preprocessing=network.preprocessing)
    return explained(scored, detail=detail)


def inputs_of(name: str) -> np.ndarray:
    return (
        tiny_images("x", 12, seed=4, side=16) if HEADS[name].task == "reconstruction" else tiny_data("x", 12, seed=4)
    ).inputs


def run(scored: Scored, inputs: np.ndarray) -> dict[str, np.ndarray]:
    names = list(scored.explanations)
    session = Session(scored.network.model, [scored.score, *scored.explanations.values()], threads=1)
    return dict(zip(["score", *names], session(inputs), strict=True))


def test_every_head_that_explains_itself_is_here() -> None:
    assert {name for name in HEADS if HEADS[name].explain is not Head.explain} == set(WITH_PARTS)


@pytest.mark.parametrize("name", list(WITH_PARTS))
def test_parts_add_up_to_the_score(name: str) -> None:
    scored, card = scored_with(name)
    found = run(scored, inputs_of(name))
    parts = found["explanation"].astype(np.float64)
    assert card["kind"] == WITH_PARTS[name]
    assert parts.shape == (12, len(card["names"]))
    scale = np.maximum(np.abs(parts).sum(1), 1e-6)
    np.testing.assert_allclose(parts.sum(1) / scale, found["score"] / scale, atol=2e-5)
    assert (parts.std(0) > 0).any()
    assert check_explanation(scored, inputs_of(name)) < 1e-4


@pytest.mark.parametrize("name", list(CHANNELS))
def test_channels_add_up_to_their_layers_and_to_the_score(name: str) -> None:
    (whole, coarse), (divided, card) = scored_with(name, "layers"), scored_with(name, "channels")
    assert (coarse["kind"], card["kind"]) == ("layers", "channels")
    layers, found = run(whole, inputs_of(name)), run(divided, inputs_of(name))
    np.testing.assert_allclose(found["score"], layers["score"], rtol=1e-5)
    parts = found["explanation"].astype(np.float64)
    scale = np.maximum(np.abs(parts).sum(1, keepdims=True), 1e-6)
    np.testing.assert_allclose(parts.sum(1) / scale[:, 0], found["score"] / scale[:, 0], atol=2e-5)
    assert card["names"][0] == CHANNELS[name]
    assert len(card["names"]) == len(set(card["names"])) > len(coarse["names"])
    owners = [part.partition("[")[0] for part in card["names"]]
    for column, layer in enumerate(coarse["names"]):
        own = parts[:, [owner == layer for owner in owners]].sum(1)
        np.testing.assert_allclose(own / scale[:, 0], layers["explanation"][:, column] / scale[:, 0], atol=2e-5)


def test_a_gate_adds_its_own_term_of_the_distance() -> None:
    scored, card = scored_with("sensnorm_gates", "channels", by_class=False)
    assert scored.observed is not None
    session = Session(scored.network.model, [scored.observed, scored.explanations["explanation"]], threads=1)
    observed, found = session(inputs_of("sensnorm_gates"))
    state = scored.head.state()
    centred = observed - state["means"]
    expected = centred * (centred @ (state["whitening"].T @ state["whitening"]))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())
    assert card["names"][-1] == "head[3]"


def test_a_channel_whose_gate_does_nothing_adds_nothing() -> None:
    """Gates that are 0 get no share of their layer's part; the others get theirs in proportion."""
    graph = ir.Graph(
        [ir.val("parts", ir.DataType.FLOAT, ["N", 2]), ir.val("sizes", ir.DataType.FLOAT, ["N", 5])],
        [], nodes=[], opset_imports={"": 20}, name="shares",
    )  # fmt: skip
    value = shared_out(Builder(graph), *graph.inputs, [2, 3])
    parts, sizes = np.array([[6, -4], [1, 9]], np.float32), np.array([[0, 3, 1, 1, 2], [5, 5, 0, 0, 0]], np.float32)
    (found,) = Session(ir.Model(graph, ir_version=10), [value], threads=1)({"parts": parts, "sizes": sizes})
    np.testing.assert_allclose(found, [[0, 6, -1, -1, -2], [0.5, 0.5, 3, 3, 3]], rtol=1e-6, atol=1e-20)


@pytest.mark.parametrize("method", ["fisher", "harmonic", "cauchy", "z"])
def test_a_fusion_is_divided_as_its_members_are(method: str) -> None:
    members = ("sensnorm_profile", "relative_mahalanobis", "energy")
    scored, card = scored_with("fusion", "layers", members=members, method=method)
    divided = [f"sensnorm_profile: {layer}" for layer in ("stem", "block", "head", "rest")]
    assert card["names"] == [*divided, "relative_mahalanobis", "energy"]
    found = run(scored, inputs_of("fusion"))["explanation"]
    whole = run(scored_with("fusion", members=members, method=method)[0], inputs_of("fusion"))["explanation"]
    np.testing.assert_allclose(found[:, :4].sum(1), whole[:, 0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[:, 4:], whole[:, 1:], rtol=1e-4, atol=1e-5)
    alone = run(scored_with("sensnorm_profile")[0], inputs_of("fusion"))["explanation"]
    regular = alone.sum(1) > 0.2 * np.abs(alone).sum(1)  # parts do not nearly cancel: nothing is left over
    assert regular.sum() > 6
    np.testing.assert_allclose(found[regular, 3], 0, atol=1e-4)
    shares = alone[regular] / alone[regular].sum(1, keepdims=True)
    np.testing.assert_allclose(
        found[regular, :3], shares * found[regular, :3].sum(1, keepdims=True), rtol=2e-2, atol=2e-3
    )


@pytest.mark.parametrize("name", ["mahalanobis", "energy"])
def test_a_score_without_channels_is_refused(name: str) -> None:
    with pytest.raises(ExportError, match=rf"explaining head '{name}': its score cannot be divided into channels; ask"):
        scored_with(name, "channels")


@pytest.mark.parametrize("method", ["fisher", "harmonic", "cauchy", "z"])
def test_members_of_a_fusion_add_up_whatever_the_method(method: str) -> None:
    scored, card = scored_with("fusion", members=("energy", "mahalanobis", "msp"), method=method)
    found = run(scored, inputs_of("fusion"))
    assert card["names"] == ["energy", "mahalanobis", "msp"]
    np.testing.assert_allclose(found["explanation"].sum(1), found["score"], rtol=1e-4, atol=1e-4)


def test_distance_parts_are_those_of_the_formula() -> None:
    """One Gaussian with a known covariance: part i is (v - mu)_i (C^-1 (v - mu))_i."""
    random = np.random.default_rng(0)
    rows = (random.standard_normal((400, 3)) @ np.array([[2, 0, 0], [1, 1, 0], [0, 0.5, 3]])).astype(np.float32)
    network = linear_network(random.standard_normal((3, 2)), np.zeros(2))
    data = Dataset("rows", rows, np.zeros(400, np.int64))
    scored, card = explained(fit_head(network, HEADS["mahalanobis"](shrinkage=0), data, preprocessing=ROWS))
    test = rows[:20] * 3
    wide = rows.astype(np.float64)
    offset = test - wide.mean(0)
    expected = offset * (offset @ np.linalg.inv(np.cov(wide.T) * 399 / 399))
    np.testing.assert_allclose(run(scored, test)["explanation"], expected, rtol=1e-3, atol=1e-3)
    assert card["map"] == "left out: the input is no image"


def test_the_layer_that_was_disturbed_is_blamed() -> None:
    """A profile far off in one layer's norms: nearly all of the distance is that layer's."""
    scored, card = scored_with("sensnorm_profile")
    head = scored.head
    width = head.state()["means"].shape[1]
    graph = ir.Graph([ir.val("v", ir.DataType.FLOAT, ["N", width + 4])], [], nodes=[], opset_imports={"": 20})
    graph.name = "profile"
    op = Builder(graph)
    network = replace(scored.network, op=op)
    value = head.explain(network, graph.inputs[0]).value
    per_layer = width // len(card["names"])
    covariance = np.linalg.inv(head.state()["whitening"].T @ head.state()["whitening"])
    for layer in range(len(card["names"])):
        row = np.zeros((1, width + 4), np.float32)
        row[0, width] = 1  # class 0
        columns = slice(layer * per_layer, (layer + 1) * per_layer)
        row[0, :width] = head.state()["means"][0]
        away = np.zeros(width)
        away[columns] = 5 * np.sqrt(np.diag(covariance))[columns]
        row[0, :width] += away
        (parts,) = Session(ir.Model(graph, ir_version=10), [value], threads=1)(row)
        others = np.delete(parts[0], layer)
        assert parts[0, layer] > 0
        np.testing.assert_allclose(others, 0, atol=1e-3 * parts[0, layer])


def image_network(weight: np.ndarray, bias: float = 0.0) -> ForwardGraph:
    """Two classes of the same logit f = sum over pixels of weight * x + bias: x is [N, C, 2, 3]."""
    channels, height, width = weight.shape
    x = ir.val("x", ir.DataType.FLOAT, ["N", channels, height, width])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="image")
    op = Builder(graph)
    flat = op.Flatten(x, axis=1)
    twice = np.repeat(weight.reshape(-1, 1), 2, axis=1).astype(np.float32)
    graph.outputs.append(op.Gemm(flat, twice, np.full(2, bias, np.float32)))
    return forward_graph(ir.Model(graph, ir_version=10), Preprocessing("NCHW", "uint8", 1 / 255))


def test_the_map_of_a_linear_score_is_its_weight() -> None:
    """The energy of two equal logits is -f - log 2, whose gradient is -w: the map is sum over channels of |w|."""
    weight = np.random.default_rng(0).standard_normal((3, 2, 3))
    network = image_network(weight)
    pixels = np.random.default_rng(1).integers(0, 256, (5, 2, 3, 3)).astype(np.uint8)
    scored, card = explained(
        fit_head(network, HEADS["energy"](), Dataset("p", pixels), preprocessing=Preprocessing("NCHW"))
    )
    found = run(scored, pixels.transpose(0, 3, 1, 2).copy())["explanation_map"]
    np.testing.assert_allclose(found, np.tile(np.abs(weight).sum(0), (5, 1, 1)), rtol=1e-5)
    assert card == {"map": GRADIENT_MAP}


@pytest.mark.parametrize("name", ["sensnorm_profile", "purview", "fusion"])
def test_a_layer_that_no_input_reaches_leaves_the_map_finite(name: str) -> None:
    """Its sensitivities are 0, where a norm has no slope."""
    graph = ir.Graph(
        [ir.val("x", ir.DataType.FLOAT, ["N", 1, 2, 3])], [], nodes=[], opset_imports={"": 20}, name="dead"
    )
    op, random = Builder(graph), np.random.default_rng(0)
    first, second, last = (random.normal(size=shape).astype(np.float32) for shape in [(6, 5), (5, 5), (5, 3)])
    alive = op.Relu(op.Gemm(op.Flatten(graph.inputs[0], axis=1), first, np.full(5, 0.1, np.float32)))
    dead = op.Relu(op.Gemm(alive, -np.abs(second), np.full(5, -1, np.float32)))
    graph.outputs.append(op.Gemm(op.Add(alive, dead), last, np.zeros(3, np.float32)))
    preprocessing = Preprocessing("NCHW", "uint8", 1 / 255)
    network = forward_graph(ir.Model(graph, ir_version=10), preprocessing)
    pixels = random.integers(0, 256, (60, 2, 3, 1)).astype(np.uint8)
    scored, _ = explained(fit_head(network, HEADS[name](), Dataset("p", pixels), preprocessing=preprocessing))
    found = run(scored, pixels.transpose(0, 3, 1, 2).copy())["explanation_map"]
    assert np.isfinite(found).all()
    assert found.max() > 0


@pytest.mark.parametrize("name", ["energy", "sensnorm_profile", "mahalanobis", "fusion", "grad_norm"])
def test_the_map_is_the_gradient_by_finite_differences(name: str) -> None:
    """The score's change for small steps of the input, in float64, position by position."""
    from sparsense.detector.double import Double

    scored, card = scored_with(name)
    assert card["map"] == GRADIENT_MAP
    image = inputs_of(name)[:1]
    network = scored.network
    found = run(scored, image)["explanation_map"][0]
    (target,) = Double(network.model, [network.target])(image)
    probe = behind(scored)
    slopes = np.zeros(target.shape)
    step = 1e-6
    positions = np.ndindex(*target.shape)
    moved = np.repeat(target, 2 * target.size, axis=0)
    for row, position in enumerate(positions):
        moved[(2 * row, *position[1:])] += step
        moved[(2 * row + 1, *position[1:])] -= step
    scores = probe(moved)[0]
    slopes.flat[:] = (scores[::2] - scores[1::2]) / (2 * step)
    expected = np.abs(slopes[0]).sum(0)
    np.testing.assert_allclose(found, expected, atol=2e-3 * expected.max())


def behind(scored: Scored) -> Any:
    from sparsense.detector.double import behind_preprocessing

    return behind_preprocessing(scored.network, [str(scored.score.name)])


@pytest.mark.parametrize("metric", ["l1", "l2", "ssim", "ms_gms"])
def test_the_map_of_a_reconstruction_is_its_error(metric: str) -> None:
    scored, card = scored_with("reconstruction_error", metric=metric)
    found = run(scored, inputs_of("reconstruction_error"))
    assert card["map"] == ERROR_MAP
    assert "explanation" not in found
    mean = found["explanation_map"].reshape(12, -1).mean(1)
    np.testing.assert_allclose(mean, found["score"], rtol=1e-5 if metric != "ms_gms" else 0.35)
    if metric in ("l1", "l2"):
        network = scored.network
        x, y = Session(network.model, [network.target, network.output], threads=1)(inputs_of("reconstruction_error"))
        expected = np.abs(x - y) if metric == "l1" else (x - y) ** 2
        np.testing.assert_allclose(found["explanation_map"], expected.mean(1), rtol=1e-5, atol=1e-7)


def test_the_disturbed_corner_is_where_the_error_is() -> None:
    images = inputs_of("reconstruction_error").copy()
    for metric in ("l1", "l2", "ssim", "ms_gms"):
        scored, _ = scored_with("reconstruction_error", metric=metric)
        usual = run(scored, images)["explanation_map"]
        noisy = images.copy()
        noisy[:, :5, :5] = np.random.default_rng(0).integers(0, 256, noisy[:, :5, :5].shape)
        change = np.abs(run(scored, noisy)["explanation_map"] - usual).mean(0)
        half = change.shape[0] // 2
        assert change[:half, :half].mean() > 2 * change[half:, half:].mean(), metric


def test_a_score_without_slope_has_no_map() -> None:
    scored, card = scored_with("gaia_z")
    assert list(scored.explanations) == ["explanation"]
    assert card["map"].startswith("left out: differentiating")


def test_a_head_that_can_say_nothing_is_refused() -> None:
    network = linear_network(np.eye(3), np.zeros(3))
    data = Dataset("rows", np.random.default_rng(0).standard_normal((30, 3)).astype(np.float32))
    with pytest.raises(ExportError, match=r"explaining head 'energy': its score has no parts that add up, and no map"):
        explained(fit_head(network, HEADS["energy"](), data, preprocessing=ROWS))


def test_parts_that_do_not_add_up_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Any, network: ForwardGraph, observed: ir.Value) -> Contributions:
        return Contributions("layers", ["a"], network.op.Mul(network.op.Slice(observed, [0], [1], [1]), 1.5))

    head = HEADS["sensnorm"]
    monkeypatch.setattr(head, "explain", wrong)
    scored = fit_head(tiny_graph(), head(), tiny_data("fit", 60, seed=0), preprocessing=tiny_network().preprocessing)
    with pytest.raises(ExportError, match="expected finite parts that add up to the score"):
        check_explanation(explained(scored)[0], inputs_of("sensnorm"))


def test_the_file_explains_only_when_it_is_asked(tmp_path: Path) -> None:
    scored, card = scored_with("sensnorm_profile")
    inputs = tiny_data("x", 40, seed=4).inputs
    model, found = calibrated(scored, scored.judge(tiny_data("c", 99, seed=2).inputs), 0.05)
    about = {
        "preprocessing": tiny_network().preprocessing.to_dict(),
        "calibration": found.to_dict(),
        "explanation": card,
    }
    parity = Parity(inputs[:8], scored.scores(inputs[:8]).astype(np.float64), "itself", 1e-5)
    write_detector(model, tmp_path / "d.onnx", card=about, parity=parity)
    detector = ExportedDetector(tmp_path / "d.onnx", micro_batch=7)
    assert detector.explanations == ["explanation", "explanation_map"]
    assert detector(inputs).explanation is None
    explanation = detector(inputs, explain=True)
    assert explanation.explanation is not None
    assert explanation.explanation_map is not None
    assert explanation.explanation.shape == (40, len(card["names"]))
    assert explanation.explanation_map.shape == (40, 8, 8)
    np.testing.assert_array_equal(explanation.score, detector(inputs).score)
    np.testing.assert_allclose(explanation.explanation, run(scored, inputs)["explanation"], rtol=1e-3, atol=1e-3)
    assert detector(inputs[:0], explain=True).explanation_map.shape == (0, 8, 8)
    plain, _ = calibrated(Scored(scored.network, scored.head, scored.score), scored.scores(inputs), 0.05)
    write_detector(plain, tmp_path / "plain.onnx", card=about, parity=parity)
    with pytest.raises(InputError, match=r"plain.onnx has no explanations: attach the head again, and ask for them"):
        ExportedDetector(tmp_path / "plain.onnx")(inputs, explain=True)


def test_attaching_with_explanations_checks_and_describes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(tiny_proto(), tmp_path / "model.onnx")
    card = attach_to_file(
        tmp_path / "model.onnx",
        HEADS["sensnorm_profile"](),
        tmp_path / "d.onnx",
        fit=tiny_data("fit", 120, seed=0),
        calibration=tiny_data("calibration", 160, seed=2),
        preprocessing=tiny_network().preprocessing,
        settings=AttachSettings(0.2, "pool", "parts", cache=tmp_path / "cache"),
    )
    assert card["explanation"]["kind"] == "layers"
    assert card["explanation"]["names"] == ["stem", "block", "head"]
    assert card["explanation"]["error"] < 1e-4
    assert len(card["calibration"]["classes"]) == 4
    assert any((tmp_path / "cache").rglob("*.npz"))
    detector = ExportedDetector(tmp_path / "d.onnx")
    found = detector(tiny_data("x", 9, seed=4).inputs, explain=True)
    assert found.explanation is not None
    np.testing.assert_allclose(found.explanation.sum(1), found.score, rtol=1e-3, atol=1e-3)
    recalibrate(tmp_path / "d.onnx", rate=0.25)
    again = ExportedDetector(tmp_path / "d.onnx")(tiny_data("x", 9, seed=4).inputs, explain=True)
    np.testing.assert_array_equal(again.explanation, found.explanation)
    np.testing.assert_array_equal(again.explanation_map, found.explanation_map)
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", tiny_data("x", 9, seed=4).inputs)
    lines = CliRunner().invoke(app, ["score", "d.onnx", "x.npy", "--explain", "--format", "jsonl", "-q"]).stdout
    rows = [json.loads(line) for line in lines.splitlines()]
    assert list(rows[0]["parts"]) == ["stem", "block", "head"]
    np.testing.assert_allclose([list(row["parts"].values()) for row in rows], found.explanation, rtol=1e-3)
    told = CliRunner().invoke(app, ["score", "d.onnx", "x.npy", "--explain"])
    assert "largest parts" in told.stdout
    assert "score above the threshold of its predicted class" in told.stderr
    first = max(rows[0]["parts"], key=rows[0]["parts"].get)
    assert told.stdout.splitlines()[1].split("x.npy:0")[1].split()[0] == first
    csv = CliRunner().invoke(app, ["score", "d.onnx", "x.npy", "--explain", "--format", "csv", "-q"]).stdout
    assert csv.splitlines()[0] == "input,score,p_value,is_anomaly,parts"


def test_an_explanation_that_nobody_asks_for_is_not_computed(tmp_path: Path) -> None:
    """The nodes that only the explanation needs lie in a branch; the others are those of a file without it."""
    scored, _ = scored_with("sensnorm_profile")
    held_out = scored.scores(tiny_data("c", 99, seed=2).inputs)
    with_, without = (
        calibrated(part, held_out, 0.05)[0] for part in (scored, Scored(scored.network, scored.head, scored.score))
    )
    needed = ancestors_of(without)
    outside = [node for node in with_.graph if node.op_type != "If"]
    assert sorted(node.op_type for node in outside) == sorted(node.op_type for node in needed)
    (switch,) = (node for node in with_.graph if node.op_type == "If")
    assert len(list(switch.attributes["then_branch"].as_graph())) > 20
    session = Session(ir.to_proto(with_).SerializeToString(), threads=1)
    image = tiny_data("x", 2, seed=4).inputs
    assert [len(value) for value in session({"input": image})] == [2, 2, 2, 2, 0, 0]
    asked = session({"input": image, "explain": np.asarray(True)})
    assert [len(value) for value in asked] == [2] * 6


def ancestors_of(model: ir.Model) -> set[ir.Node]:
    return set().union(*(ancestors(output) for output in model.graph.outputs))
