"""The shrinkage is chosen by the likelihood of held-out rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sparsense.detector import fit_head
from sparsense.heads import HEADS
from sparsense.heads.classes import ClassMoments
from sparsense.heads.gaussian import standardised
from sparsense.heads.shrinkage import FEW, SHRINKAGES, _log_likelihoods, likeliest_shrinkage
from tiny_classifier import tiny_data, tiny_graph, tiny_network


def correlated(count: int, width: int, noise: float, seed: int = 0) -> np.ndarray:
    """Rows on a line, and a little beside it."""
    random = np.random.default_rng(seed)
    return random.standard_normal((count, 1)) + noise * random.standard_normal((count, width))


def test_likelihoods_are_those_of_the_gaussian() -> None:
    random = np.random.default_rng(0)
    classes = random.integers(0, 3, 90)
    rows = (correlated(90, 4, 0.3) + classes[:, None]) * np.array([1, 10, 0.1, 3])
    out = np.arange(90) % 4 == 0
    moments = ClassMoments.of([(rows[~out], classes[~out])])
    spread, correlation = standardised(moments.mean, moments.within)
    expected = []
    for share in SHRINKAGES:
        covariance = ((1 - share) * correlation + share * np.eye(4)) * np.outer(spread, spread)
        centred = rows[out] - moments.means[classes[out]]
        expected.append(stats.multivariate_normal(cov=covariance).logpdf(centred).sum())
    found = _log_likelihoods(rows, classes, out)
    np.testing.assert_allclose(found - found[0], np.array(expected) - expected[0], rtol=1e-9)


def test_more_rows_need_less_shrinkage() -> None:
    chosen = [likeliest_shrinkage(correlated(n, 30, 0.05), np.zeros(n, np.int64)) for n in (20, 60, 3000)]
    assert chosen == sorted(chosen, reverse=True)
    assert chosen[0] > 10 * chosen[-1]


def test_independent_columns_are_shrunk_all_the_way() -> None:
    rows = np.random.default_rng(0).standard_normal((40, 30))
    assert likeliest_shrinkage(rows, np.zeros(40, np.int64)) == SHRINKAGES[-1]


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows, classes = correlated(80, 12, 0.1), np.arange(80) % 3
    order = np.random.default_rng(3).permutation(80)
    assert likeliest_shrinkage(rows, classes) == likeliest_shrinkage(rows[order], classes[order])


def test_columns_that_never_vary_do_not_count() -> None:
    rows = correlated(60, 10, 0.1)
    wide = np.concatenate([rows, np.full((60, 40), 3.0)], axis=1)
    # as many rows as before on either side of each fold: the constant changes all means alike
    assert likeliest_shrinkage(wide, np.zeros(60, int)) == likeliest_shrinkage(rows, np.zeros(60, int))


@pytest.mark.parametrize("count", [2, 9])
def test_a_handful_of_rows_is_shrunk_much(count: int) -> None:
    assert likeliest_shrinkage(correlated(count, 5, 0.01), np.zeros(count, int)) == FEW


def test_the_profile_takes_the_likeliest_and_says_which() -> None:
    data = tiny_data("fit", 240, seed=0)
    preprocessing = tiny_network().preprocessing
    scored = fit_head(tiny_graph(), HEADS["sensnorm_profile"](), data, preprocessing=preprocessing)
    chosen = scored.head.learnt_numbers()["shrinkage"]
    assert chosen in SHRINKAGES
    given = fit_head(tiny_graph(), HEADS["sensnorm_profile"](shrinkage=chosen), data, preprocessing=preprocessing)
    np.testing.assert_array_equal(scored.scores(data.inputs[:20]), given.scores(data.inputs[:20]))
    assert given.head.options()["shrinkage"] == chosen
    assert scored.head.options()["shrinkage"] is None
