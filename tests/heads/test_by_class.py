"""Heads with something for every class: Gram matrices, prototypes, Gaussians of the predicted class."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from observing import linear_network, on_features
from sparsense.data.dataset import Dataset
from sparsense.detector import fit_head
from sparsense.graph import Builder, Session
from sparsense.heads import HEADS
from sparsense.heads.noise import noise_like
from sparsense.heads.row_sums import row_sums
from sparsense.oracles import oracle_scores
from tiny_classifier import CLASSES, tiny_data, tiny_graph, tiny_network


def scored(name: str, data: Dataset, **options: object):
    return fit_head(tiny_graph(), HEADS[name](**options), data, preprocessing=tiny_network().preprocessing)


@pytest.mark.parametrize("powers", [(1,), (2,), (3,), (1, 2, 3, 4, 5), (4, 1)])
def test_row_sums_are_those_of_the_gram_matrix(powers: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    maps = [random.standard_normal(shape).astype(np.float32) for shape in [(4, 3, 5, 6), (4, 2, 7), (4, 5)]]
    given = [ir.val(f"z{i}", ir.DataType.FLOAT, ["N", *z.shape[1:]]) for i, z in enumerate(maps)]
    graph = ir.Graph(given, [], nodes=[], opset_imports={"": 20}, name="gram")
    values = row_sums(Builder(graph), given, powers)
    found = Session(ir.Model(graph, ir_version=10), values)({f"z{i}": z for i, z in enumerate(maps)})
    for power, columns in zip(powers, found, strict=True):
        rows = [z.reshape(4, z.shape[1], -1).astype(float) ** power for z in maps]
        sums = np.concatenate([(z @ z.transpose(0, 2, 1)).sum(2) for z in rows], axis=1)
        np.testing.assert_allclose(columns, np.sign(sums) * np.abs(sums) ** (1 / power), rtol=1e-4, atol=1e-4)


def test_an_input_from_the_fitting_data_never_leaves_its_ranges() -> None:
    data = tiny_data("fit", 240, seed=0)
    found = scored("gram", data)
    np.testing.assert_allclose(found.scores(data.inputs), 0, atol=1e-3)
    assert found.scores(tiny_data("test", 60, seed=5).inputs).max() > 0.1


def test_gram_weighs_every_layer_alike_on_held_out_data() -> None:
    state = scored("gram", tiny_data("fit", 240, seed=0), powers=(1, 2)).head.state()
    assert len(np.unique(state["weights"])) == 3  # one per layer
    assert state["lowest"].shape == (CLASSES, 2 * (6 + 6 + CLASSES))
    assert (state["lowest"] <= state["highest"]).all()


@pytest.mark.parametrize("name", ["sensnorm_profile", "sensnorm_gates"])
def test_the_mean_is_that_of_the_predicted_class(name: str) -> None:
    data = tiny_data("fit", 240, seed=0)
    network, head = tiny_graph().copy(), HEADS[name]()
    value, logits = Session(network.model, [head.describe(network), network.output])(data.inputs)
    predicted = logits.argmax(1)
    state = scored(name, data).head.state()
    for label in range(CLASSES):
        np.testing.assert_allclose(state["means"][label], value[predicted == label].mean(0), rtol=1e-4, atol=1e-5)


def test_a_class_that_was_never_predicted_has_the_mean_of_all() -> None:
    data = tiny_data("fit", 240, seed=0)
    network = tiny_graph().copy()
    predicted = Session(network.model, [network.output])(data.inputs)[0].argmax(1)
    some = data.subset(np.flatnonzero(predicted != 2))
    means = scored("sensnorm_profile", some).head.state()["means"]
    weights = np.bincount(predicted[predicted != 2], minlength=CLASSES) / (predicted != 2).sum()
    np.testing.assert_allclose(means[2], weights @ means, rtol=1e-6)


def test_without_classes_there_is_one_mean() -> None:
    state = scored("sensnorm_profile", tiny_data("fit", 240, seed=0), by_class=False).head.state()
    assert state["means"].shape == (1, 9)


class Everything:
    """A stream of given batches."""

    has_labels = False

    def __init__(self, *batches: np.ndarray) -> None:
        self.batches = batches

    def __call__(self, *_: object):
        return ([batch] for batch in self.batches)


def test_noise_for_images_is_smooth_uses_the_range_and_repeats_itself() -> None:
    stream = Everything(tiny_data("fit", 20, seed=0).inputs)
    found = noise_like(tiny_graph(), stream, 40, seed=1)
    assert found.shape == (40, 8, 8, 3)
    assert found.dtype == np.uint8
    steps = np.abs(np.diff(found.astype(float), axis=1)).mean()
    assert steps < 0.6 * np.abs(np.diff(np.random.default_rng(0).integers(0, 256, found.shape), axis=1)).mean()
    assert found.std() > 40
    np.testing.assert_array_equal(found, noise_like(tiny_graph(), stream, 40, seed=1))
    assert not np.array_equal(found, noise_like(tiny_graph(), stream, 40, seed=2))


def test_noise_for_images_of_floats_is_smooth_and_lies_within_each_pixel() -> None:
    network = linear_network(np.eye(2), np.zeros(2))  # tells the type alone
    low, high = np.full((3, 8, 8), -1, np.float32), np.linspace(0, 2, 192, dtype=np.float32).reshape(3, 8, 8)
    found = noise_like(network, Everything(np.stack([low, high])), 60, seed=1)
    assert found.dtype == np.float32
    assert ((found >= low - 1e-6) & (found <= high + 1e-6)).all()
    unit = (found - low) / (high - low)
    assert np.abs(np.diff(unit, axis=2)).mean() < 0.6 / 3  # of independent numbers it is 1 / 3
    assert np.abs(np.diff(unit, axis=1)).mean() == pytest.approx(1 / 3, abs=0.05)  # channels


def test_prototypes_of_predicted_classes_are_those_of_labels_that_agree() -> None:
    data, test = tiny_data("fit", 240, seed=0), tiny_data("test", 30, seed=5).inputs
    predicted = Session(tiny_graph().model, [tiny_graph().output])(data.inputs)[0].argmax(1)
    by_label = scored("grood", replace(data, labels=predicted))
    without = scored("grood", replace(data, labels=None), classes="predicted")
    np.testing.assert_allclose(without.head.state()["means"], by_label.head.state()["means"], rtol=1e-6)
    np.testing.assert_allclose(without.scores(test), by_label.scores(test), rtol=1e-5)
    assert not np.allclose(scored("grood", data).head.state()["means"], without.head.state()["means"], rtol=1e-3)


def test_a_class_that_is_never_predicted_has_no_prototype() -> None:
    data = tiny_data("fit", 240, seed=0)
    predicted = Session(tiny_graph().model, [tiny_graph().output])(data.inputs)[0].argmax(1)
    found = scored("grood", data.subset(predicted != 2), classes="predicted")
    assert found.head.state()["means"].shape == (CLASSES - 1, 6)
    assert np.isfinite(found.scores(data.inputs)).all()


def test_prototypes_of_many_classes_are_compared_by_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    data, test = tiny_data("fit", 240, seed=0), tiny_data("test", 40, seed=5).inputs
    monkeypatch.setattr("sparsense.heads.grood.AT_ONCE", 0)
    found = scored("grood", data)
    assert not any(node.op_type == "Unsqueeze" for node in found.network.model.graph)
    expected = oracle_scores(found, tiny_network(), test)
    np.testing.assert_allclose(found.scores(test), expected, rtol=1e-5, atol=1e-5 * expected.std())


def test_noise_for_rows_lies_within_each_column() -> None:
    rows = np.array([[0, 100], [1, 300], [0.5, 200]], np.float32)
    found = noise_like(linear_network(np.eye(2), np.zeros(2)), Everything(rows[:2], rows[2:]), 500, seed=0)
    assert found.dtype == np.float32
    assert found.min(0) == pytest.approx([0, 100], abs=3)
    assert found.max(0) == pytest.approx([1, 300], abs=3)


def test_gates_of_a_network_that_is_too_wide_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsense.heads.sensnorm_gates.MAXIMUM", 10)
    with pytest.raises(ValueError, match=r"compares at most 10 channels, found 16: restrict it with layers=\.\.\."):
        scored("sensnorm_gates", tiny_data("fit", 240, seed=0))
    assert scored("sensnorm_gates", tiny_data("fit", 240, seed=0), layers=["stem"]).head.state()["means"].shape == (
        4,
        6,
    )


def test_ranges_are_shared_where_classes_have_few_inputs_or_tables_would_be_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, test = tiny_data("fit", 240, seed=0), tiny_data("test", 24, seed=5).inputs
    each = scored("gram", data)
    assert each.head.state()["lowest"].shape == (CLASSES, 80)
    for few in (scored("gram", data.subset(9 * CLASSES)), scored("gram", data, by_class=False)):
        assert few.head.state()["lowest"].shape == (1, 80)
    monkeypatch.setattr("sparsense.heads.gram.MAXIMUM", 80 * CLASSES - 1)
    shared = scored("gram", data)
    state = shared.head.state()
    rounding = 2e-5 * np.abs(state["highest"]).max()  # by which the ends of ranges are moved
    np.testing.assert_allclose(state["lowest"][0], each.head.state()["lowest"].min(0), atol=rounding)
    np.testing.assert_allclose(state["highest"][0], each.head.state()["highest"].max(0), atol=rounding)
    expected = oracle_scores(shared, tiny_network(), test)
    np.testing.assert_allclose(shared.scores(test), expected, rtol=1e-5, atol=1e-5 * expected.std())


def test_classes_of_few_inputs_share_one_mean() -> None:
    data = tiny_data("fit", 240, seed=0)
    network, head = tiny_graph().copy(), HEADS["sensnorm_profile"]()
    value, logits = Session(network.model, [head.describe(network), network.output])(data.inputs)
    predicted = logits.argmax(1)
    rare = [np.flatnonzero(predicted == label)[:count] for label, count in ((0, 4), (1, 3))]
    kept = np.sort(np.concatenate([*rare, np.flatnonzero(predicted > 1)]))
    means = scored("sensnorm_profile", data.subset(kept)).head.state()["means"]
    together = value[np.concatenate(rare)].mean(0)
    np.testing.assert_allclose(means[:2], [together, together], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(means[3], value[predicted == 3].mean(0), rtol=1e-4, atol=1e-5)


def test_means_of_one_input_each_do_not_make_everything_usual() -> None:
    """With as many classes as inputs, means of their own would leave no covariance at all."""
    random, count = np.random.default_rng(0), 30
    weight = 0.1 * random.standard_normal((3, count))
    rows, strange = random.standard_normal((count, 3)), 8 + random.standard_normal((count, 3))

    class Features(HEADS["sensnorm_profile"]):
        def describe(self, network: Any) -> ir.Value:
            return network.features

    found = on_features(Features(), weight, np.zeros(count), rows, np.concatenate([rows, strange]))
    assert found[:count].mean() == pytest.approx(3, rel=0.2)  # chi-square of 3 degrees of freedom
    assert found[count:].min() > found[:count].max()
