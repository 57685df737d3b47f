"""What every registered head promises; a new head is tested because it is registered."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import pytest

from sparsense.data.dataset import Dataset
from sparsense.detector import Scored, fit_head, group_scores, parity_inputs
from sparsense.detector.grouped import grouped
from sparsense.detector.groups import group_inputs
from sparsense.errors import NotFittedError
from sparsense.graph import ForwardGraph, Session
from sparsense.heads import HEADS, Head
from sparsense.networks.network import Network
from sparsense.oracles import ORACLES, oracle_scores
from sparsense.parity import Parity, compare
from tiny_autoencoder import tiny_autoencoder, tiny_autoencoder_graph
from tiny_classifier import tiny_data, tiny_graph, tiny_images, tiny_network

PARITY = 1e-5
COUNT = 240
ROUNDING = {"rtol": 2e-4, "atol": 2e-5}  # float32 sums in another order, then statistics of them
WALKS: dict[str, int] = {}
LEARNING_HEADS = [name for name in HEADS if HEADS[name].learns]


def is_autoencoder(name: str) -> bool:
    return HEADS[name].task == "reconstruction"


def network_of(name: str) -> Network:
    return tiny_autoencoder() if is_autoencoder(name) else tiny_network()


def graph_of(name: str) -> ForwardGraph:
    return tiny_autoencoder_graph() if is_autoencoder(name) else tiny_graph()


def data_of(name: str, what: str = "fit", count: int = COUNT, *, seed: int = 0) -> Dataset:
    return tiny_images(what, count, seed=seed, side=16) if is_autoencoder(name) else tiny_data(what, count, seed=seed)


def fit(name: str, data: Dataset, *, batch_size: int = 64, head: Any = None) -> Scored:
    preprocessing = network_of(name).preprocessing
    return fit_head(graph_of(name), head or HEADS[name](), data, preprocessing=preprocessing, batch_size=batch_size)


@cache
def fitted(name: str) -> Scored:
    """Fitted once; it is noted whether a gradient was added on the way."""
    module = sys.modules["sparsense.autodiff.differentiate"]  # a function of the package has the same name
    with mock.patch.object(module, "nodes_between", wraps=module.nodes_between) as walk:
        scored = fit(name, data_of(name))
    WALKS[name] = walk.call_count
    return scored


def fresh_inputs(name: str) -> Any:
    return parity_inputs(data_of(name, "other", 64, seed=1).inputs)


@pytest.mark.parametrize("name", list(HEADS))
def test_score_is_one_finite_number_per_input(name: str) -> None:
    scores = fitted(name).scores(fresh_inputs(name))
    assert scores.shape == (32,)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert scores.std() > 0


@pytest.mark.parametrize("name", list(HEADS))
def test_score_does_not_depend_on_batch_neighbours(name: str) -> None:
    scored, inputs = fitted(name), fresh_inputs(name)
    together = scored.scores(inputs, batch_size=32)
    np.testing.assert_allclose(scored.scores(inputs, batch_size=1), together, **ROUNDING)
    np.testing.assert_allclose(scored.scores(inputs[::-1].copy()), together[::-1], **ROUNDING)


@pytest.mark.parametrize("name", list(HEADS))
def test_agrees_with_its_oracle(name: str) -> None:
    scored, inputs = fitted(name), fresh_inputs(name)
    parity = Parity(inputs, oracle_scores(scored, network_of(name), inputs), "torch", PARITY)
    session = Session(scored.network.model, [scored.score], threads=1)
    rows = compare(lambda batch: session(batch)[0], parity)
    assert [row["batch"] for row in rows] == [1, 2, 7, 32]
    assert all(row["agrees"] for row in rows), rows


@pytest.mark.parametrize("name", list(HEADS))
def test_groups_agree_with_the_oracle_whatever_groups_are_beside_them(name: str) -> None:
    scored, inputs = grouped(graph_of(name), fitted(name), 4), group_inputs(fresh_inputs(name), 4)
    expected = oracle_scores(scored, network_of(name), inputs)
    assert expected.shape == (8,)
    rows = compare(lambda batch: scored.scores(batch, batch_size=64), Parity(inputs, expected, "torch", PARITY))
    assert all(row["agrees"] for row in rows), rows
    if HEADS[name].observe_groups is Head.observe_groups:
        np.testing.assert_allclose(expected, group_scores(fitted(name).scores(fresh_inputs(name)), 4), rtol=1e-3)


def test_every_head_has_an_oracle() -> None:
    assert sorted(HEADS) == sorted(ORACLES)


@pytest.mark.parametrize("name", list(HEADS))
def test_scoring_twice_is_bitwise_the_same(name: str) -> None:
    inputs = fresh_inputs(name)
    np.testing.assert_array_equal(fitted(name).scores(inputs), fitted(name).scores(inputs))


@pytest.mark.parametrize("name", LEARNING_HEADS)
def test_unfitted_head_refuses_to_score(name: str) -> None:
    def attach(network: ForwardGraph) -> None:
        head = HEADS[name]()
        head.score(network.op, head.observe(network))

    with pytest.raises(NotFittedError, match=name):
        attach(graph_of(name).copy())


@pytest.mark.parametrize("name", LEARNING_HEADS)
def test_a_second_fit_learns_from_its_own_data_alone(name: str) -> None:
    head, usual = HEADS[name](), fitted(name)
    other = fit(name, data_of(name, "other fit", 150, seed=3), head=head).head.state()
    assert any(not np.array_equal(other[key], array) for key, array in usual.head.state().items())
    scores = fit(name, data_of(name), head=head).scores(fresh_inputs(name))
    np.testing.assert_array_equal(scores, usual.scores(fresh_inputs(name)))


@pytest.mark.parametrize("name", LEARNING_HEADS)
def test_the_same_data_and_seed_give_the_same_state(name: str) -> None:
    again = fit(name, data_of(name)).head.state()
    for key, array in fitted(name).head.state().items():
        np.testing.assert_array_equal(again[key], array)


@pytest.mark.parametrize("name", LEARNING_HEADS)
def test_fitting_batch_size_does_not_matter(name: str) -> None:
    scores = fit(name, data_of(name), batch_size=7).scores(fresh_inputs(name))
    np.testing.assert_allclose(scores, fitted(name).scores(fresh_inputs(name)), **ROUNDING)


@pytest.mark.parametrize("name", LEARNING_HEADS)
def test_order_of_the_fitting_data_does_not_matter(name: str) -> None:
    data = data_of(name)
    scores = fit(name, data.subset(np.random.default_rng(0).permutation(COUNT))).scores(fresh_inputs(name))
    np.testing.assert_allclose(scores, fitted(name).scores(fresh_inputs(name)), **ROUNDING)


def without_order(key: str, array: Any) -> Any:
    """What is left of a learnt array when its rows may come in any order, and its directions with any sign."""
    if key.endswith("directions"):
        return array @ array.T
    if key.endswith(("rows", "gradients")):
        return np.linalg.eigvalsh(array.T @ array / len(array))
    return array


@pytest.mark.parametrize("name", LEARNING_HEADS)
def test_order_of_the_fitting_data_gives_the_same_state(name: str) -> None:
    data = data_of(name)
    other = fit(name, data.subset(np.random.default_rng(1).permutation(COUNT)), batch_size=50).head.state()
    for key, array in fitted(name).head.state().items():
        one, two = (without_order(key, value) for value in (array, other[key]))
        np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-3 * np.abs(one).max(initial=1e-6), err_msg=key)


@pytest.mark.parametrize("name", list(HEADS))
def test_it_says_whether_it_adds_gradients(name: str) -> None:
    fitted(name)
    assert HEADS[name]().differentiates == bool(WALKS[name])


@pytest.mark.parametrize("name", list(HEADS))
def test_state_and_options_go_onto_a_card(name: str) -> None:
    head = HEADS[name]()
    options = head.options()
    assert HEADS[name](**options).options() == options
    if name in LEARNING_HEADS:
        state = fitted(name).head.state()
        assert state
        assert all(np.isfinite(array).all() for array in state.values())


@pytest.mark.parametrize("name", list(HEADS))
def test_every_option_refuses_nonsense(name: str) -> None:
    for option in HEADS[name]().options():
        if option == "layers":  # any pattern is a valid one; that it fits no layer is found when attaching
            continue
        with pytest.raises(ValueError, match=r"must"):
            HEADS[name](**{option: -7.5})


@pytest.mark.parametrize("name", list(HEADS))
def test_docstring_says_what_the_score_is(name: str) -> None:
    text = HEADS[name].__doc__ or ""
    assert "score " in text
    assert all(f"{option}:" in text for option in HEADS[name]().options())
