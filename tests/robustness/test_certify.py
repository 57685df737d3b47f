"""Randomised smoothing on a linear classifier, whose true radius is known, and bounds against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sparsense.errors import InputError
from sparsense.robustness.certify import (
    ABSTAIN,
    Certificate,
    Smoothing,
    certificate,
    certified_accuracy,
    certify,
    lower_bound,
)

NORMAL = np.array([0.6, 0.8])


def half_plane(inputs):
    """Class 1 where x . n > 0.5; smoothing does not move its border."""
    return (inputs @ NORMAL > 0.5).astype(int)


@pytest.mark.parametrize(("successes", "count"), [(1, 10), (5, 10), (9, 10), (10, 10), (990, 1000), (73, 100)])
def test_the_bound_is_that_of_clopper_and_pearson(successes, count):
    expected = stats.binomtest(successes, count, alternative="greater").proportion_ci(0.99, method="exact").low
    assert lower_bound(successes, count, 0.01) == pytest.approx(expected, rel=1e-9)
    assert stats.binom.sf(successes - 1, count, lower_bound(successes, count, 0.01)) == pytest.approx(0.01)


def test_no_success_bounds_nothing():
    assert lower_bound(0, 10, 0.01) == 0.0


def test_the_certified_radius_is_almost_and_never_more_than_the_true_one():
    random, true = np.random.default_rng(0), 0.3
    image = NORMAL * (0.5 + true)
    smoothing = Smoothing(sigma=0.25, samples=4000, alpha=0.001)
    found = [certify(half_plane, image, smoothing, classes=2, random=random) for _ in range(40)]
    assert {one.label for one in found} == {1}
    radii = np.array([one.radius for one in found])
    assert (radii <= true).all()  # each may be wrong once in a thousand
    assert radii.mean() > 0.85 * true


def test_a_certificate_is_wrong_as_rarely_as_it_says():
    random, alpha, repeats, true = np.random.default_rng(1), 0.1, 2000, 0.1
    smoothing = Smoothing(sigma=0.2, samples=200, alpha=alpha)
    share = stats.norm.cdf(true / 0.2)  # of noisy copies in the right class
    wrong = sum(certificate(1, int(c), smoothing).radius > true for c in random.binomial(200, share, repeats))
    assert wrong / repeats <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / repeats)
    assert wrong > 0  # a bound that is never passed would be a lazy one


def test_an_input_on_the_border_is_not_decided():
    random = np.random.default_rng(2)
    found = certify(half_plane, NORMAL * 0.5, Smoothing(sigma=0.25), classes=2, random=random)
    assert found == Certificate(ABSTAIN, 0.0)


def test_certified_accuracy_counts_right_and_certified_inputs():
    found = [Certificate(1, 0.5), Certificate(1, 0.2), Certificate(0, 0.9), Certificate(ABSTAIN, 0.0)]
    assert certified_accuracy(found, np.array([1, 1, 1, 1]), [0.0, 0.2, 0.3, 1.0]) == [0.5, 0.5, 0.25, 0.0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: Smoothing(sigma=0.0),
        lambda: Smoothing(sigma=0.1, alpha=1.0),
        lambda: lower_bound(3, 2, 0.1),
        lambda: certified_accuracy([], np.array([]), [0.0]),
    ],
)
def test_senseless_certificates_are_refused(call):
    with pytest.raises(InputError, match="expected"):
        call()
