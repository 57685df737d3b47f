"""Labels against the network's own predictions: what is refused, what is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from observing import ROWS, linear_network
from sparsense.data.dataset import Dataset
from sparsense.detector import Scored, fit_head
from sparsense.detector.labels import Agreement
from sparsense.errors import InputError
from sparsense.heads import HEADS

RANDOM = np.random.default_rng(0)
WEIGHT, INPUTS = RANDOM.normal(size=(6, 4)), RANDOM.normal(size=(200, 6)).astype(np.float32)
PREDICTED = (INPUTS @ WEIGHT).argmax(1)


def fitted(name: str, labels: Any) -> Scored:
    data = Dataset("fit", INPUTS, np.asarray(labels))
    return fit_head(linear_network(WEIGHT, np.zeros(4)), HEADS[name](), data, preprocessing=ROWS)


@pytest.mark.parametrize("name", ["temperature_scaling", "mahalanobis"])
def test_labels_of_another_numbering_are_refused(name: str) -> None:
    """As of a folder in which the first class is missing."""
    words = (
        "expected labels that are the network's classes; the network predicts 0 of 200 labels of 'fit', no more than"
    )
    with pytest.raises(InputError, match=f"head '{name}': {words} chance among its 4 classes"):
        fitted(name, (PREDICTED + 1) % 4)
    assert fitted("energy", (PREDICTED + 1) % 4).agreement is not None  # needs none: what does it matter


def test_accuracy_is_counted_batch_by_batch() -> None:
    labels = np.where(np.arange(200) % 10 < 7, PREDICTED, (PREDICTED + 1) % 4)
    scored = fitted("mahalanobis", labels)
    assert scored.agreement is not None
    assert scored.agreement.accuracy == 0.7
    assert scored.agreement.problem() is None


@pytest.mark.parametrize(
    ("seen", "right", "classes", "refused", "said"),
    [
        (200, 50, 4, False, True),  # chance itself
        (200, 46, 4, False, True),
        (200, 0, 4, True, True),
        (200, 60, 4, False, True),  # a fifth more than chance: 1.6 standard deviations
        (200, 80, 4, False, False),
        (5, 0, 4, False, True),  # 0.24 by chance
        (50, 1, 1000, False, True),
        (50, 5, 1000, False, False),
        (200, 200, 4, False, False),
        (200, 200, 1, False, False),  # one logit is no choice
    ],
)
def test_chance_decides(seen: int, right: int, classes: int, refused: bool, said: bool) -> None:
    agreement = Agreement(Dataset("fit", INPUTS), seen, right, classes)
    assert (agreement.problem() is not None) is said
    if refused:
        with pytest.raises(InputError, match="check that a label is the number of its output"):
            agreement.require("knn")
    else:
        agreement.require("knn")
