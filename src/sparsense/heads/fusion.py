"""Several heads in one file, combined by how unusual each finds the input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.autodiff import Layer
from sparsense.autodiff.shapes import dims
from sparsense.errors import CalibrationError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.cauchy import cauchy
from sparsense.heads.checks import at_least, one_of
from sparsense.heads.contributions import TINY, Contributions
from sparsense.heads.evaluate import score_blocks
from sparsense.heads.features import has_last_layer
from sparsense.heads.halves import parts
from sparsense.heads.head import Array, Head, Stream, register
from sparsense.heads.members import Member, checked_members, common_task, described, made
from sparsense.heads.sensitivity import concatenated
from sparsense.heads.spool import Spool, spooled
from sparsense.heads.surprise import surprise_knots, surprise_of

DEFAULT: tuple[Member, ...] = (
    "sensnorm_profile",
    "gram",
    "energy",
    {"name": "grood", "options": {"classes": "predicted", "bank": 500}},
)
LEAST_SUM = 0.1  # of the magnitudes of a score's parts, for its share to be divided in proportion
METHODS = ("fisher", "harmonic", "cauchy", "z")


@register
class Fusion(Head):
    """Combined evidence of several heads, each on the scale of its own p-values.

    s_m(x) = -log P(an in-distribution input scores at least as high with head m), beyond the data by its tail
    score  = sum_m s_m              `fisher`: every head has a say
             log sum_m exp s_m      `harmonic`: the most surprised head decides
             sgn(T) log(1 + |T|)    `cauchy`: T = mean_m cot(pi p_m), p_m = exp -s_m; for dependent heads
             sum_m z_m              `z`: standardised scores

    Everything is learnt from in-distribution data: for the s_m, each head scores inputs that it was not fitted on (by
    cross-fitting), then it is fitted on all of them. The default four need no tuning, no labels, and look at different
    things: how sensitive which layers are, which channels act together, how sure the logits are, and how the features
    lie between the classes and what noise gives.

    Args:
        members: Names of heads, or mappings `{name: ..., options: {...}}`; at least 2. None: sensnorm_profile, gram,
            energy and, where the network ends in a fully connected layer, grood by predicted classes.
        method: `fisher`, `harmonic`, `cauchy` or `z`.
        folds: Parts of the fitting data for the cross-fitting, at least 2.

    Reference:
        Fisher, "Statistical methods for research workers", 1932; Wilson, "The harmonic mean p-value for combining
        dependent tests", PNAS 2019; Liu and Xie, "Cauchy combination test", JASA 2020, arXiv:1808.09011.
    """

    name = "fusion"
    differentiates = True

    def __init__(
        self,
        *,
        members: Sequence[Member] | None = None,
        method: str = "fisher",
        folds: int = 5,
    ) -> None:
        self.method, self.folds = one_of("method", method, METHODS), at_least("folds", folds, 2)
        self._default = members is None
        self._widths: list[int] = []
        self._consult(checked_members(DEFAULT if members is None else members))

    def _consult(self, members: Sequence[Member]) -> None:
        self.members = [described(member) for member in members]
        self._heads = [made(member) for member in self.members]
        self.needs_labels = any(head.needs_labels for head in self._heads)
        self.needs_logits = any(head.needs_logits for head in self._heads)
        self.differentiates = any(head.differentiates for head in self._heads)
        self.task = common_task(self._heads)

    def prepare(self, network: ForwardGraph, stream: Stream) -> None:
        """Let every member have its first pass; the default members are those that suit the network."""
        if self._default and not has_last_layer(network):
            self._consult([member for member in DEFAULT if described(member)["name"] != "grood"])
        for head in self._heads:
            head.prepare(network.copy(), stream)

    def observe(self, network: ForwardGraph) -> ir.Value:
        """All observations side by side; gradients that several members need are computed once."""
        values = [head.observe(network) for head in self._heads]
        self._widths = [dims(value)[1] for value in values]
        return concatenated(network.op, values)

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:
        """Score held-out parts, learn how surprising each score is, then fit the members on everything."""
        with spooled(observations) as spool:
            if len(spool) < (needed := 2 * self.folds):
                raise CalibrationError(
                    f"fitting head {self.name!r}: expected at least {needed} inputs, 2 in each of {self.folds} folds, "
                    f"found {len(spool)}",
                    needed=needed,
                )
            part = parts(spool.means, self.folds)
            learnt = [
                curve_and_scale(held_out_scores(head, spool, columns, labels, part))
                for head, columns in zip(self._heads, self._columns(), strict=True)
            ]
        self.knots_, self.slopes_, self.scales_ = (np.array(column) for column in zip(*learnt, strict=True))
        return self

    def _columns(self) -> list[slice]:
        """Where each member's observations are."""
        return [slice(start, end) for start, end in pairwise([0, *accumulate(self._widths)])]

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Score, scale and combine."""
        return self._combined(op, self._evidence(op, observed))

    def explain(self, network: ForwardGraph, observed: ir.Value) -> Contributions:
        """What every member adds; where the combination is no sum, its share of the evidence."""
        op, evidence = network.op, self._evidence(network.op, observed)
        if self.method in ("harmonic", "cauchy"):
            total = op.Unsqueeze(self._combined(op, evidence), [1])
            evidence = op.Mul(op.Softmax(evidence, axis=1), total)
        return Contributions("members", [head.name for head in self._heads], evidence)

    def divide(self, network: ForwardGraph, observed: ir.Value, into: str) -> Contributions:
        """What every member adds, divided as its own score is; a member that has no such parts stays whole."""
        op, evidence = network.op, self.explain(network, observed).value
        shares = op.call("Split", evidence, [1] * len(self._heads), axis=1, outputs=len(self._heads))
        names, columns = [], []
        for head, own, share in zip(self._heads, self._observations(op, observed), shares, strict=True):
            if (found := head.divide(network, own, into)) is None:
                names.append(head.name)
                columns.append(share)
            else:
                names += [f"{head.name}: {name}" for name in (*found.names, "rest")]
                columns += _divided(op, share, op.Unsqueeze(head.score(op, own), [1]), found.value)
        return Contributions(into, names, concatenated(op, columns))

    def _observations(self, op: Builder, observed: ir.Value) -> tuple[ir.Value, ...]:
        """Every member's."""
        return op.call("Split", observed, self._widths, axis=1, outputs=len(self._widths))

    def _evidence(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Every member's surprise or standardised score, [N, M]."""
        knots, slopes, scales = self.learnt("knots"), self.learnt("slopes"), self.learnt("scales")
        columns = []
        for index, (head, own) in enumerate(zip(self._heads, self._observations(op, observed), strict=True)):
            score = op.Unsqueeze(head.score(op, own), [1])
            if self.method == "z":
                mean, spread = (float(number) for number in scales[index])
                columns.append(op.Mul(op.Sub(score, mean), 1 / spread))
            else:
                columns.append(surprise_of(op, score, knots[index], slopes[index]))
        return concatenated(op, columns)

    def _combined(self, op: Builder, evidence: ir.Value) -> ir.Value:
        if self.method == "harmonic":
            return op.Squeeze(op.ReduceLogSumExp(evidence, [1], keepdims=1), [1])
        if self.method == "cauchy":
            return cauchy(op, evidence)
        return op.ReduceSum(evidence, [1], keepdims=0)

    def differentiated(self, network: ForwardGraph) -> list[Layer]:
        """Those of all members, once each."""
        found = {layer.name: layer for head in self._heads for layer in head.differentiated(network)}
        return list(found.values())

    def state(self) -> dict[str, Array]:
        """The members' own statistics too, by number and name."""
        own = {
            f"{i}.{head.name}.{key}": value for i, head in enumerate(self._heads) for key, value in head.state().items()
        }
        return super().state() | own


def _divided(op: Builder, share: ir.Value, score: ir.Value, parts: ir.Value) -> list[ir.Value]:
    """A share [N, 1] divided in proportion to the parts [N, P] of a score [N, 1], and what is left over.

    Something is left over where the parts nearly cancel, or the score is not positive: a proportion says nothing there.
    """
    magnitude = op.ReduceSum(op.Abs(parts), [1], keepdims=1)
    whole = op.Max(score, op.Max(op.Mul(magnitude, LEAST_SUM), TINY))
    divided = op.Mul(parts, op.Div(share, whole))
    return [divided, op.Sub(share, op.ReduceSum(divided, [1], keepdims=1))]


def curve_and_scale(scores: Array) -> tuple[Array, Array, Array]:
    """Knots and slopes of the surprise, and mean and standard deviation."""
    return *surprise_knots(scores), np.array([scores.mean(), max(scores.std(), 1e-12)])


def held_out_scores(head: Head, spool: Spool, columns: slice, labels: Array | None, part: Array) -> Array:
    """Every row's score by a head that was fitted without its part; at the end the head is fitted on all rows."""
    if not head.learns:
        return score_blocks(head, spool.blocks(None, columns))
    scores = np.empty(len(spool))
    for fold in range(part.max() + 1):
        kept = part != fold
        head.fit(spool.blocks(kept, columns), None if labels is None else labels[kept])
        scores[~kept] = score_blocks(head, spool.blocks(~kept, columns))
    head.fit(spool.blocks(None, columns), labels)
    return scores
