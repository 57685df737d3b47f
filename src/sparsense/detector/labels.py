"""Do the labels mean the network's classes? Counted while a head is fitted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.autodiff.shapes import dims
from sparsense.data.dataset import Dataset
from sparsense.errors import InputError
from sparsense.graph.forward import ForwardGraph

BELOW = 1e-6  # so improbable must an accuracy below chance be, for its labels to be refused
ABOVE = 1e-2  # and one above chance, for nothing to be said
Array = NDArray[Any]


@dataclass
class Agreement:
    """How many labels the network predicts.

    Attributes:
        data: With labels.
        seen: So many inputs went by.
        right: So many of their labels were predicted.
        classes: Of the network.
    """

    data: Dataset
    seen: int = 0
    right: int = 0
    classes: int = 0

    def watch(self, batches: Iterator[Sequence[Array]]) -> Iterator[Array]:
        """The observations of batches `(observed, logits)`, in the order of the data."""
        for observed, logits in batches:
            self._count(logits)
            yield observed

    def finish(self, rest: Iterable[Array]) -> None:
        """The logits of what no observation was asked of: some heads learn in an earlier pass and stop at once."""
        for logits in rest:
            self._count(logits)

    def _count(self, logits: Array) -> None:
        labels = np.asarray(self.data.labels)[self.seen : self.seen + len(logits)]
        self.seen, self.right = self.seen + len(logits), self.right + int((logits.argmax(1) == labels).sum())
        self.classes = logits.shape[1]

    @property
    def accuracy(self) -> float:
        """Share of the labels that the network predicts."""
        return self.right / max(self.seen, 1)

    def problem(self) -> str | None:
        """What is wrong with the labels, in words; None where they are predicted better than by chance."""
        if self.classes < 2 or (self.accuracy > 1 / self.classes and self._improbable(ABOVE)):
            return None
        return (
            f"the network predicts {self.right:,} of {self.seen:,} labels of {self.data.name!r}, no more than chance "
            f"among its {self.classes} classes; check that a label is the number of its output, counted from 0 "
            "(folders of classes are numbered by their names: all classes must be there)"
        )

    def require(self, head: str) -> None:
        """Refuse labels that the network contradicts: fewer are predicted than by chance.

        Raises:
            InputError: Says how many.
        """
        if self.classes > 1 and self.accuracy < 1 / self.classes and self._improbable(BELOW):
            raise InputError(f"fitting head {head!r}: expected labels that are the network's classes; {self.problem()}")

    def _improbable(self, level: float) -> bool:
        """Whether chance gives an accuracy so far from its own with at most this probability, by Chernoff's bound."""
        found, chance = self.accuracy, 1 / self.classes
        parts = ((found, chance), (1 - found, 1 - chance))
        divergence = sum(share * log(share / expected) for share, expected in parts if share)
        return -self.seen * divergence <= log(level)


def can_be_compared(network: ForwardGraph, data: Dataset) -> bool:
    """Whether there are labels, and logits [N, K] to compare them with."""
    return data.labels is not None and network.task == "classifier" and len(dims(network.output)) == 2


def check_labels(network: ForwardGraph, data: Dataset) -> None:
    """Refuse labels that are none of the network's classes.

    Raises:
        InputError: Names the first of them.
    """
    classes = dims(network.output)[1] if network.task == "classifier" else None
    if data.labels is None or not isinstance(classes, int):
        return
    wrong = np.flatnonzero((data.labels < 0) | (data.labels >= classes))
    if wrong.size:
        raise InputError(
            f"fitting on {data.name!r}: expected labels from 0 to {classes - 1}, the network's classes; found "
            f"{data.labels[wrong[0]]} at sample {wrong[0]} ({wrong.size} of {len(data)} labels are out of range)"
        )
