"""What heads learn from streamed observations, against numpy, scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from sparsense.errors import CalibrationError, InputError
from sparsense.heads.classes import ClassMoments, correct_means
from sparsense.heads.gaussian import Gaussian, moments, standardised, whitening
from sparsense.heads.halves import parts
from sparsense.heads.sample import sample


def correlated(count: int = 200, width: int = 5) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.standard_normal((count, width)) @ random.standard_normal((width, width)) + 1000


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(1, 199), max_size=4))
def test_moments_do_not_depend_on_how_rows_are_batched(cuts: set[int]) -> None:
    rows = correlated()
    mean, covariance = moments(np.split(rows, sorted(cuts)))
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(rows.T), rtol=1e-9)


def test_without_shrinkage_whitening_inverts_the_covariance() -> None:
    rows = correlated()
    w = Gaussian.fit([rows], shrinkage=0).whitening
    np.testing.assert_allclose(w.T @ w, np.linalg.inv(np.cov(rows.T)), rtol=1e-6)


def test_full_shrinkage_only_standardises() -> None:
    rows = correlated()
    w = Gaussian.fit([rows], shrinkage=1).whitening
    np.testing.assert_allclose(w, np.diag(1 / rows.std(0, ddof=1)), rtol=1e-9, atol=1e-12)


def test_constant_and_repeated_features_do_not_make_it_singular() -> None:
    rows = correlated()
    rows = np.concatenate([rows, rows[:, :1], np.full((len(rows), 1), 3.0)], axis=1)
    w = Gaussian.fit([rows], shrinkage=0).whitening
    assert np.isfinite(w).all()
    assert np.abs(w).max() < 1e5


def test_observations_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="found 2 of 3 rows with NaN or infinity"):
        moments([np.array([[1.0], [np.nan], [np.inf]])])


def test_one_observation_is_not_enough() -> None:
    with pytest.raises(CalibrationError, match="expected at least 2 observations, found 1"):
        moments([np.ones((1, 3))])


def test_class_moments_are_those_of_scikit_learn() -> None:
    rows, labels = correlated(), np.arange(200) % 3
    rows[labels == 1] += 4
    found = ClassMoments.fit([rows[:70], rows[70:]], labels)
    expected = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(rows, labels)
    np.testing.assert_allclose(found.means, expected.means_, rtol=1e-10)
    np.testing.assert_allclose(found.within * (200 - 3) / 200, expected.covariance_, rtol=1e-6)
    np.testing.assert_allclose(found.total, np.cov(rows.T), rtol=1e-8)
    assert found.counts.tolist() == [67, 67, 66]


def test_class_moments_ask_for_labels() -> None:
    with pytest.raises(InputError, match="expected labels, found none"):
        ClassMoments.fit([np.ones((3, 2))], None)


def test_correct_means_leave_the_mistakes_out() -> None:
    rows = np.array([[5.0, 0], [3, 0], [0, 4], [0, 2], [9, 0]])
    found = correct_means([rows[:2], rows[2:]], np.array([0, 0, 1, 1, 1]), lambda logits: logits, "she")
    np.testing.assert_allclose(found, [[4, 0], [0, 3]])


def test_a_class_that_is_never_right_is_named() -> None:
    with pytest.raises(CalibrationError, match=r"head .she.: .* found none of class 1"):
        correct_means([np.eye(2)], np.array([0, 0]), lambda logits: logits, "she")


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_a_sample_is_the_same_for_any_batch_size(size: int) -> None:
    rows = np.arange(1000.0)[:, None]
    expected = sample([rows], 50)
    np.testing.assert_array_equal(sample(np.split(rows, range(size, 1000, size)), 50), expected)
    assert len(np.unique(expected)) == 50
    assert (np.diff(expected[:, 0]) > 0).all()
    assert abs(expected.mean() - 500) < 150


def test_a_small_stream_is_kept_whole_and_another_seed_draws_others() -> None:
    rows = np.arange(40.0)[:, None]
    np.testing.assert_array_equal(sample([rows], 50), rows)
    assert not np.array_equal(sample([rows], 10, seed=1), sample([rows], 10, seed=2))


def test_no_observations_are_refused() -> None:
    with pytest.raises(CalibrationError, match="expected observations, found none"):
        sample([], 10)


def test_parts_are_alike_and_belong_to_the_rows_not_to_their_order() -> None:
    rows = np.random.default_rng(0).standard_normal((101, 3))
    order = np.random.default_rng(1).permutation(101)
    found = parts(rows.mean(1), 5)
    np.testing.assert_array_equal(parts(rows[order].mean(1), 5), found[order])
    assert sorted(np.bincount(found).tolist()) == [20, 20, 20, 20, 21]


def test_whitening_of_nothing_that_varies_is_finite() -> None:
    assert np.isfinite(whitening(np.zeros(3), np.zeros((3, 3)), shrinkage=0.0)).all()


def test_what_varies_in_the_last_digits_of_float32_is_constant() -> None:
    """A gate that is 1 for all inputs of its class and 0 for the others, but for rounding."""
    random = np.random.default_rng(0)
    classes = np.arange(400) % 100
    gate = np.where(classes == 0, 1 + 1e-7 * random.standard_normal(400), 0.0)
    rows = np.stack([random.standard_normal(400), gate], axis=1)
    found = ClassMoments.of([(rows, classes)])
    whiten = whitening(found.mean, found.within, shrinkage=0.2, total=found.total)
    assert 0.9 < whiten[1, 1] < 3  # not 1 / 1e-8
    assert standardised(found.mean, found.within, found.total)[0][1] == 1
    small = ClassMoments.of([(1e-6 * rows[:, :1], classes)])  # a small number is no faint one
    assert standardised(small.mean, small.within, small.total)[0][0] < 1e-5
