"""Which way scores of gradients point: as published, turned round, or as noise says."""

from __future__ import annotations

import numpy as np
import pytest

from observing import ROWS, linear_network
from sparsense.data.dataset import Dataset
from sparsense.detector import Scored, fit_head
from sparsense.detector.explain import check_explanation, explained
from sparsense.errors import NotFittedError
from sparsense.heads import HEADS
from sparsense.heads.noise import noise_like
from sparsense.oracles import oracle_scores
from tiny_classifier import tiny_data, tiny_graph, tiny_network

TEST = tiny_data("test", 24, seed=5).inputs


PUBLISHED = {"grad_norm": -1, "exgrad": 1, "gradorth": -1, "gaia_z": 1, "gaia_a": 1}  # are large values anomalous?


def fitted(name: str, **options: object) -> Scored:
    head, data = HEADS[name](**options), tiny_data("fit", 120, seed=0)
    return fit_head(tiny_graph(), head, data, preprocessing=tiny_network().preprocessing)


@pytest.mark.parametrize("name", PUBLISHED)
def test_reversed_is_the_other_sign(name: str) -> None:
    scored, usual = fitted(name, direction="reversed"), fitted(name).scores(TEST)
    np.testing.assert_array_equal(scored.scores(TEST), -usual)
    np.testing.assert_array_equal(np.sign(usual), PUBLISHED[name])
    np.testing.assert_allclose(scored.scores(TEST), oracle_scores(scored, tiny_network(), TEST), rtol=1e-4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_calibrated_is_one_of_the_two_and_agrees_with_its_oracle(name: str) -> None:
    scored = fitted(name, direction="calibrated")
    sign = float(scored.head.state()["direction"])
    assert scored.head.learnt_numbers() == {"direction": sign}  # goes onto the card
    np.testing.assert_array_equal(scored.scores(TEST), sign * PUBLISHED[name] * fitted(name).scores(TEST))
    np.testing.assert_allclose(scored.scores(TEST), oracle_scores(scored, tiny_network(), TEST), rtol=1e-4)


@pytest.mark.parametrize(("offset", "sign"), [(3.0, -1.0), (0.0, 1.0)])
def test_noise_decides_the_direction(offset: float, sign: float) -> None:
    """Usual rows lie at the edge of the box that noise fills, where gradients are larger, or in its middle."""
    random = np.random.default_rng(0)
    rows = (offset * np.array([1, -1, -1, -1]) + random.normal(0, 0.02, (300, 4))).astype(np.float32)
    rows[:2] = [[3, 3, 3, 3], [-3, -3, -3, -3]]  # the box is the same in both cases
    network = linear_network(np.eye(4), np.zeros(4))
    scored = fit_head(network, HEADS["grad_norm"](direction="calibrated"), Dataset("rows", rows), preprocessing=ROWS)
    noise = noise_like(network.copy(), lambda net, values: iter([[rows]]), 400, 1)
    assert float(scored.head.state()["direction"]) == sign
    assert np.median(scored.scores(noise)) > np.median(scored.scores(rows))


def test_parts_of_a_score_that_was_turned_add_up_to_it() -> None:
    scored, _ = explained(fitted("gaia_z", direction="reversed"))
    assert check_explanation(scored, TEST) < 1e-5


def test_without_noise_it_is_not_fitted() -> None:
    head = HEADS["grad_norm"](direction="calibrated")
    network = linear_network(np.eye(3), np.zeros(3))
    head.observe(network)
    with pytest.raises(NotFittedError, match="has seen no noise"):
        head.fit([np.ones((5, 3), np.float32)])
