"""Heads on penultimate features against formulas written out for a linear network."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from scipy import special
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from observing import ROWS, linear_network, on_features
from sparsense.errors import CalibrationError, GraphError, InputError
from sparsense.graph import Builder, ForwardGraph, Session, forward_graph
from sparsense.heads import HEADS, neighbours
from sparsense.heads.fdbd import _inverse_distances
from sparsense.heads.features import LastLayer, has_last_layer
from sparsense.heads.neighbours import largest_products, nearest_distances, nearest_row
from sparsense.heads.rerun import rerun
from tiny_classifier import tiny_data, tiny_graph

RANDOM = np.random.default_rng(0)
W, B = RANDOM.standard_normal((8, 3)), RANDOM.standard_normal(3)
FIT, TEST = np.abs(RANDOM.standard_normal((120, 8))), np.abs(RANDOM.standard_normal((20, 8)))
LABELS = (FIT @ W + B).argmax(1)


def score(name: str, **options: Any) -> np.ndarray:
    return on_features(HEADS[name](**options), W, B, FIT, TEST, LABELS)


def energy(features: np.ndarray, weight: np.ndarray = W) -> np.ndarray:
    return -special.logsumexp(features @ weight + B, axis=1)


def test_react_clips_at_a_percentile_of_all_features() -> None:
    for percentile in (70, 100):
        expected = energy(np.minimum(TEST, np.percentile(FIT, percentile)))
        np.testing.assert_allclose(score("react", percentile=percentile), expected, rtol=1e-5, atol=1e-5)


def test_vra_rectifies_both_sides() -> None:
    low, high = np.percentile(FIT, [30, 80])
    expected = np.where(low > TEST, 0, np.where(high < TEST, high, TEST + 0.5))
    np.testing.assert_allclose(score("vra", low=30, high=80, raised=0.5), energy(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dice", "react", "vra", "ash", "scale"])
def test_shaping_nothing_leaves_the_energy(name: str) -> None:
    options = {
        "dice": {"percentile": 0}, "react": {"percentile": 100}, "vra": {"low": 0, "high": 100},
        "ash": {"kind": "p", "percentile": 0}, "scale": {"percentile": 0},
    }[name]  # fmt: skip
    found = on_features(HEADS[name](**options), np.abs(W), B, FIT, FIT[1:20], LABELS)
    factor = np.e if name == "scale" else 1  # exp(s1 / s2) with s1 = s2
    expected = energy(factor * FIT[1:20], np.abs(W))
    kept = np.abs(found - expected) < 1e-4 * np.abs(expected)
    assert kept.mean() >= (0.5 if name == "dice" else 1)  # the least contribution itself is never above the percentile


@pytest.mark.parametrize("kind", ["p", "b", "s"])
def test_ash_keeps_the_largest_features(kind: str) -> None:
    shaped = np.zeros_like(TEST)
    for row, out in zip(TEST, shaped, strict=True):
        top = np.argsort(row)[-2:]  # 75 % of 8 are removed
        out[top] = {"p": row[top], "b": row.sum() / 2, "s": row[top] * np.exp(row.sum() / row[top].sum())}[kind]
    np.testing.assert_allclose(score("ash", kind=kind, percentile=75), energy(shaped), rtol=1e-5, atol=1e-5)


def test_scale_scales() -> None:
    top = np.sort(TEST, axis=1)[:, -2:].sum(1)
    expected = energy(TEST * np.exp(TEST.sum(1) / top)[:, None])
    np.testing.assert_allclose(score("scale", percentile=75), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["ash", "scale", "knn", "nnguide", "nci", "fdbd"])
def test_features_that_are_all_zero_have_a_finite_score(name: str) -> None:
    assert np.isfinite(on_features(HEADS[name](), W, B, FIT, np.zeros((2, 8)), LABELS)).all()


def test_dice_keeps_the_largest_contributions() -> None:
    contribution = W * FIT.mean(0)[:, None]
    kept = np.where(contribution > np.percentile(contribution, 60), W, 0)
    np.testing.assert_allclose(score("dice", percentile=60), energy(TEST, kept), rtol=1e-4)


def test_mahalanobis_is_the_distance_to_the_nearest_class() -> None:
    offsets = FIT - np.array([FIT[label == LABELS].mean(0) for label in range(3)])[LABELS]
    precision = np.linalg.inv(offsets.T @ offsets / (len(FIT) - 3))
    means = [FIT[label == LABELS].mean(0) for label in range(3)]
    expected = np.min([np.einsum("nf,fg,ng->n", TEST - m, precision, TEST - m) for m in means], axis=0)
    np.testing.assert_allclose(score("mahalanobis", shrinkage=0), expected, rtol=1e-4)
    offset = TEST - FIT.mean(0)
    background = np.einsum("nf,fg,ng->n", offset, np.linalg.inv(np.cov(FIT.T)), offset)
    np.testing.assert_allclose(score("relative_mahalanobis", shrinkage=0), expected - background, rtol=1e-3, atol=1e-4)


def test_knn_is_that_of_scikit_learn() -> None:
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    distances, _ = NearestNeighbors(n_neighbors=7).fit(unit(FIT)).kneighbors(unit(TEST))
    np.testing.assert_allclose(score("knn", k=7), distances[:, 6] ** 2, rtol=1e-3, atol=1e-6)


def test_a_bank_smaller_than_k_is_refused() -> None:
    with pytest.raises(CalibrationError, match="head 'knn': expected at least k = 200 inputs, found 120"):
        score("knn", k=200)


def test_residual_is_what_the_principal_components_leave() -> None:
    origin = -np.linalg.pinv(W.T) @ B
    pca = PCA(n_components=5)
    pca.fit(np.concatenate([FIT - origin, origin - FIT]))  # symmetric about 0: the components of second moments
    outside = TEST - origin - pca.inverse_transform(pca.transform(TEST - origin))
    expected = np.linalg.norm(outside, axis=1)
    np.testing.assert_allclose(score("residual", dim=5), expected, rtol=1e-4)
    usual = FIT - origin - pca.inverse_transform(pca.transform(FIT - origin))
    scale = (FIT @ W + B).max(1).mean() / np.linalg.norm(usual, axis=1).mean()
    np.testing.assert_allclose(score("vim", dim=5), scale * expected + energy(TEST), rtol=1e-4, atol=1e-4)


def test_knn_keeps_its_digits_where_all_features_point_the_same_way() -> None:
    """Squared distances of 1e-5, whose cosines differ in the last two digits of float32."""
    fit, test = (1 + 0.002 * rows[:, :6] for rows in (FIT, TEST))
    found = on_features(HEADS["knn"](k=7), np.eye(6), np.zeros(6), fit, test)
    rows = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (fit, test)]
    expected = NearestNeighbors(n_neighbors=7).fit(rows[0]).kneighbors(rows[1])[0][:, 6] ** 2
    assert expected.max() < 2e-5
    np.testing.assert_allclose(found, expected, atol=2e-2 * expected.std())


def test_residual_needs_a_dimension_below_that_of_the_features() -> None:
    with pytest.raises(InputError, match="head 'residual': expected dim below the number of features, 8; found 8"):
        score("residual", dim=8)


def test_residual_needs_more_inputs_than_its_subspace_has_dimensions() -> None:
    """Which directions lie outside is otherwise an accident of the decomposition."""
    for name in ("residual", "vim"):
        with pytest.raises(CalibrationError, match=rf"head '{name}': expected at least 6 inputs, .* found 5"):
            on_features(HEADS[name](dim=5), W, B, FIT[:5], TEST)
        assert np.isfinite(on_features(HEADS[name](dim=5), W, B, FIT[:6], TEST)).all()


def test_boundaries_of_classes_that_are_nearly_twins() -> None:
    """Of twins there is none; of classes that differ in the seventh digit it is as long as it is."""
    weight = np.array([[1.0, 1.0, 1.0 + 3e-7, -1.0], [2.0, 2.0, 2.0, 0.5]])
    found = _inverse_distances(weight) * 3
    expected = np.linalg.norm(weight.T[:, None] - weight.T, axis=2)
    np.testing.assert_allclose(found[expected > 0], 1 / expected[expected > 0], rtol=1e-6)
    assert (found[expected == 0] == 0).all()


def test_origin_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For 1,000 classes it takes seconds, and every batch asks for it."""
    calls: list[int] = []
    invert = np.linalg.pinv
    monkeypatch.setattr(np.linalg, "pinv", lambda matrix: calls.append(1) or invert(matrix))
    head = HEADS["vim"](dim=5)
    head.observe(linear_network(W, B))
    head.fit([FIT[:40].astype(np.float32), FIT[40:80].astype(np.float32), FIT[80:].astype(np.float32)])
    assert len(calls) == 1


def test_boundaries_of_many_classes_need_no_tensor_of_all_pairs_and_features() -> None:
    classes, width = 300, 200
    weight = RANDOM.standard_normal((width, classes))
    fit = RANDOM.standard_normal((20, width))
    tracemalloc.start()
    on_features(HEADS["fdbd"](), weight, np.zeros(classes), fit, fit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < classes * classes * width  # an eighth of that tensor


@pytest.mark.parametrize("chunk", [1, 7, 50, 1000])
def test_chunks_of_a_bank_do_not_change_its_neighbours(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    graph = ir.Graph([ir.val("x", ir.DataType.FLOAT, ["N", 8])], [], nodes=[], opset_imports={"": 20}, name="bank")
    op, x = Builder(graph), graph.inputs[0]
    values = [largest_products(op, x, FIT, 5), nearest_row(op, x, FIT), nearest_distances(op, x, FIT, 5)]
    products, row, distance = Session(ir.Model(graph, ir_version=10), values)(TEST.astype(np.float32))
    squares = np.square(TEST[:, None] - FIT).sum(2)
    np.testing.assert_allclose(products, -np.sort(-(TEST @ FIT.T), axis=1)[:, :5], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(row, FIT[squares.argmin(1)], rtol=1e-6)
    np.testing.assert_allclose(distance, np.sort(squares, axis=1)[:, 4], rtol=1e-3, atol=1e-5)


FORMS = [
    "gemm", "gemm transposed", "gemm and a row", "matmul", "matmul and add", "matmul and a row",
    "middle axis", "stacked matrix",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_last_layer_is_read_in_every_form(form: str) -> None:
    x = ir.val("x", ir.DataType.FLOAT, ["N", 8])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="last")
    op, w, b = Builder(graph), W.astype(np.float32), B.astype(np.float32)
    output = {
        "gemm": lambda: op.Gemm(x, w, b, alpha=0.5, beta=2.0),
        "gemm transposed": lambda: op.Gemm(x, np.ascontiguousarray(w.T), b, transB=1),
        "gemm and a row": lambda: op.Gemm(x, w, b[None]),
        "matmul": lambda: op.MatMul(x, w),
        "matmul and add": lambda: op.Add(op.Add(b, op.MatMul(x, w)), np.float32(1)),
        "matmul and a row": lambda: op.Add(op.MatMul(x, w), b[None]),
        "middle axis": lambda: op.Add(op.Squeeze(op.MatMul(op.Unsqueeze(x, [1]), w), [1]), b),
        "stacked matrix": lambda: op.Squeeze(op.MatMul(op.Unsqueeze(x, [1]), w[None]), [1]),
    }[form]()
    graph.outputs.append(output)
    network = forward_graph(ir.Model(graph, ir_version=10), ROWS)
    layer, rows = LastLayer.of(network), TEST.astype(np.float32)
    assert layer.bias.shape == (3,)
    again = layer.logits(network.op, network.features)
    expected, found = Session(network.model, [network.output, again])(rows)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rows @ layer.weight + layer.bias, expected, rtol=1e-4, atol=1e-5)


def test_a_weight_made_at_run_time_is_refused() -> None:
    x = ir.val("x", ir.DataType.FLOAT, ["N", 8])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="last")
    op = Builder(graph)
    graph.outputs.append(op.MatMul(x, op.Transpose(x, perm=[1, 0])))
    with pytest.raises(GraphError, match="expected constant weights, found that node"):
        LastLayer.of(forward_graph(ir.Model(graph, ir_version=10), ROWS))


def output_of(make: Any) -> ForwardGraph:
    """A network of 8 numbers, `make(op, x)`."""
    x = ir.val("x", ir.DataType.FLOAT, ["N", 8])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="last")
    graph.outputs.append(make(Builder(graph), x))
    return forward_graph(ir.Model(graph, ir_version=10), ROWS)


def two_layers(op: Builder, x: ir.Value) -> ir.Value:
    return op.Add(op.Gemm(x, W.astype(np.float32)), op.Gemm(op.Relu(x), W.astype(np.float32)))


def two_products(op: Builder, x: ir.Value) -> ir.Value:
    """ONNX Runtime makes one Gemm of a product and the sum."""
    return op.Add(op.MatMul(x, W.astype(np.float32)), op.MatMul(op.Relu(x), W.astype(np.float32)))


def two_rows_each(op: Builder, x: ir.Value) -> ir.Value:
    return op.Reshape(op.MatMul(op.Reshape(x, [-1, 2, 4]), W[:4].astype(np.float32)), [-1, 6])


def two_rows_apart(op: Builder, x: ir.Value) -> ir.Value:
    return op.Reshape(op.Gemm(op.Reshape(x, [-1, 4]), W[:4].astype(np.float32)), [-1, 6])


def turned(op: Builder, x: ir.Value) -> ir.Value:
    return op.Squeeze(op.MatMul(np.ascontiguousarray(W.T.astype(np.float32)), op.Unsqueeze(x, [2])), [2])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (two_layers, r"found that node '.*' \(Add\) sums '.*' and '.*', which both depend on the input"),
        (two_products, r"\(Gemm\) adds '.*', which depends on the input, too"),
        (two_rows_each, r"gives rows of 3 numbers where the output has rows of 6"),
        (two_rows_apart, r"gives rows of 3 numbers where the output has rows of 6"),
        (turned, r"has its samples in columns"),
    ],
)
@pytest.mark.parametrize("name", ["knn", "mahalanobis", "vim"])
def test_features_that_would_not_be_those_of_one_last_layer_are_refused(make: Any, words: str, name: str) -> None:
    """The sum of a wide and a deep layer has no penultimate features; its first layer's are half of the story."""
    network = output_of(make)
    assert not has_last_layer(network)
    with pytest.raises(GraphError, match=words):
        HEADS[name]().observe(network)


def test_a_bias_made_from_constants_is_no_second_layer() -> None:
    """As quantised files write it: the features are known, although the bias is not read."""
    bias = np.array([1, 2, 3], np.int8)
    network = output_of(
        lambda op, x: op.Add(op.MatMul(x, W.astype(np.float32)), op.DequantizeLinear(bias, np.float32(0.5)))
    )
    assert network.features.name == network.target.name


def test_origin_of_the_features_has_logits_zero() -> None:
    np.testing.assert_allclose(LastLayer(W.astype(np.float32), B.astype(np.float32)).origin @ W + B, 0, atol=1e-6)
    assert LastLayer.of(linear_network(W, B)).weight.shape == (8, 3)


def test_running_again_with_the_same_value_changes_nothing() -> None:
    network = tiny_graph().copy()
    same = network.op.Add(network.target, 0.0)
    same.shape = network.target.shape
    again = rerun(network, network.target, same)
    assert again is not network.output
    found = Session(network.model, [network.output, again])(tiny_data("test", 10, seed=5).inputs)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_running_again_with_another_value_is_the_network_on_that_value() -> None:
    network, inputs = tiny_graph().copy(), tiny_data("test", 10, seed=5).inputs
    mirrored = network.op.Slice(network.target, [-1], [-(10**6)], [3], [-1])
    mirrored.shape = network.target.shape
    again = rerun(network, network.target, mirrored)
    found = Session(network.model, [again])(inputs)[0]
    expected = Session(network.model, [network.output])(np.ascontiguousarray(inputs[:, :, ::-1]))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_odin_without_a_step_is_the_softmax() -> None:
    network, inputs = tiny_graph().copy(), tiny_data("test", 10, seed=5).inputs
    head = HEADS["odin"](epsilon=0, temperature=3)
    score_ = head.score(network.op, head.observe(network))
    expected = HEADS["msp"](temperature=3).score(network.op, network.output)
    found = Session(network.model, [score_, expected])(inputs)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-5)


def test_odin_moves_towards_the_prediction() -> None:
    network, inputs = tiny_graph().copy(), tiny_data("test", 10, seed=5).inputs
    near, still = (HEADS["odin"](epsilon=step, temperature=10) for step in (1e-3, 0))
    values = [head.score(network.op, head.observe(network)) for head in (near, still)]
    found = Session(network.model, values)(inputs)
    assert (found[0] < found[1]).all()
