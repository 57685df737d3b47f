"""Groups of inputs that are judged as one."""

from __future__ import annotations

import numpy as np
import pytest

from sparsense.benchmark.metrics import auroc
from sparsense.calibrate import calibrate
from sparsense.detector import group_scores
from sparsense.errors import InputError


def test_groups_of_one_are_the_scores_and_a_group_of_all_is_their_mean() -> None:
    scores = np.random.default_rng(0).normal(0, 1, 30)
    np.testing.assert_array_equal(group_scores(scores, 1), scores)
    np.testing.assert_allclose(group_scores(scores, 30), [scores.mean()])
    np.testing.assert_allclose(group_scores(scores, 30, how="max"), [scores.max()])


def test_inputs_left_over_are_not_judged() -> None:
    assert group_scores([1, 2, 3, 100], 3).tolist() == [2]


def test_larger_groups_separate_better_at_the_promised_false_alarm_rate() -> None:
    random = np.random.default_rng(0)
    held_out, usual, strange = random.normal(0, 1, 6000), random.normal(0, 1, 6000), random.normal(0.5, 1, 6000)
    found = [auroc(group_scores(usual, size), group_scores(strange, size)) for size in (1, 5, 20)]
    assert found[0] < 0.7
    assert found == sorted(found)
    assert found[2] > 0.9
    threshold = calibrate(group_scores(held_out, 5), 0.05).threshold
    assert (group_scores(usual, 5) > threshold).mean() == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize(
    ("scores", "size", "how"),
    [([1, 2], 0, "mean"), ([1, 2], 3, "mean"), ([1, 2], 1.5, "mean"), ([[1, 2]], 1, "mean"), ([1, np.nan], 1, "mean"),
     ([1, 2], 1, "sum")],
)  # fmt: skip
def test_groups_that_cannot_be_made_are_refused(scores: object, size: int, how: str) -> None:
    with pytest.raises(InputError, match="grouping"):
        group_scores(scores, size, how=how)
