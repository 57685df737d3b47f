"""OpenMax: how much of the logits extreme-value theory takes away."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np
import onnx_ir as ir

from sparsense.errors import CalibrationError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import at_least
from sparsense.heads.classes import labelled
from sparsense.heads.head import Array, Head, register
from sparsense.heads.logits import competing, free_energy
from sparsense.heads.spool import Spool, spooled
from sparsense.heads.weibull import fit_tail

LEAST = 3  # inputs of a class: a tail has a scale and a shape


@register
class OpenMax(Head):
    """Log odds of the unknown class, to which far-off activations give their logits.

    d_k   = ||f - mean logits of class k||,  w_k = Weibull CDF of d_k fitted to the largest distances of the class
    v_k   = f_k (1 - omega_k w_k),  v_0 = sum_k f_k omega_k w_k,  omega = (alpha - rank) / alpha for the top alpha
    score = v_0 - log sum_k exp v_k

    The published score is the sigmoid of this one, which has no digits left near 1.

    Args:
        alpha: How many of the largest logits are revised; capped at the number of classes.
        tail: How many of the largest distances of a class its Weibull distribution is fitted to.

    Reference:
        Bendale and Boult, "Towards open set deep networks", CVPR 2016, arXiv:1511.06233.
    """

    name = "openmax"
    needs_logits = True
    needs_labels = True

    def __init__(self, *, alpha: int = 3, tail: int = 20) -> None:
        self.alpha, self.tail = at_least("alpha", alpha, 1), at_least("tail", tail, 3)

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The logits."""
        return network.output

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:
        """Learn each class's mean and tail from correctly classified inputs."""
        with spooled(observations) as spool:
            means, counts = self._means(spool, labels)
            if counts.min() < LEAST:
                raise CalibrationError(
                    f"fitting head {self.name!r}: expected at least {LEAST} correctly classified inputs of every "
                    f"class, found {counts.min()} of class {counts.argmin()}; give more",
                    needed=LEAST,
                )
            largest = [np.empty(0) for _ in means]
            for rows, truth in _correct(spool, labels):
                distances = np.linalg.norm(rows - means[truth], axis=1)
                for label in np.unique(truth):
                    seen = np.append(largest[label], distances[truth == label])
                    largest[label] = np.sort(seen)[-self.tail :]
        self.means_, self.tails_ = means, np.array([fit_tail(distances, self.tail) for distances in largest])
        return self

    def _means(self, spool: Spool, labels: Array | None) -> tuple[Array, Array]:
        """Mean logits of the correctly classified inputs of each class, [K, K], and their number."""
        sums: Any = 0.0
        counts: Any = 0
        for rows, truth in _correct(spool, labels):
            member = truth[:, None] == np.arange(rows.shape[1])
            sums, counts = sums + member.T.astype(np.float64) @ rows, counts + member.sum(0)
        return np.asarray(sums / np.maximum(counts, 1)[:, None]), np.asarray(counts)

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """What the unknown class gets against what the others keep."""
        classes = len(self.learnt("means"))
        alpha = min(self.alpha, classes)
        omega = ((alpha - np.arange(alpha)) / alpha).astype(np.float32)
        highest, best = op.call("TopK", competing(observed), [alpha], outputs=2, axis=1)
        taken = op.Mul(op.Mul(highest, omega), self._tail_probability(op, observed, best))
        hot = op.OneHot(best, np.asarray(classes), np.asarray([0, 1], np.float32), axis=2)
        away = op.ReduceSum(op.Mul(hot, op.Unsqueeze(taken, [2])), [1], keepdims=0)
        return op.Add(op.ReduceSum(taken, [1], keepdims=0), free_energy(op, op.Sub(observed, away)))

    def _tail_probability(self, op: Builder, logits: ir.Value, classes: ir.Value) -> ir.Value:
        """Weibull CDF of the distance to the means of some classes each, [N, alpha]."""
        offset = op.Sub(op.Unsqueeze(logits, [1]), _of(op, self.learnt("means"), classes))
        distance = op.Sqrt(op.ReduceSumSquare(offset, [2], keepdims=0))
        location, scale, shape = (_of(op, column, classes) for column in self.learnt("tails").T)
        reach = op.Div(op.Max(op.Sub(distance, location), 0.0), scale)
        return op.Sub(1.0, op.Exp(op.Neg(op.Pow(reach, shape))))


def _of(op: Builder, table: Array, classes: ir.Value) -> ir.Value:
    """Rows of a table [K, ...] for classes [N, alpha]."""
    return op.Gather(np.ascontiguousarray(table, np.float32), classes, axis=0)


def _correct(spool: Spool, labels: Array | None) -> Iterator[tuple[Array, Array]]:
    """Logits and labels of the inputs that were classified correctly."""
    for rows, truth in labelled(spool.blocks(), labels):
        right = rows.argmax(1) == truth
        yield rows[right], truth[right]
