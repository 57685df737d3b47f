"""Fit a head: observe the fitting data, learn, and add the score to the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff.shapes import rank
from sparsense.data.dataset import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector.cache import KeptBatches
from sparsense.detector.labels import Agreement, can_be_compared, check_labels
from sparsense.detector.taken import check_inputs
from sparsense.errors import ExportError, GraphError, InputError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.graph.outputs import PROBABILITIES, squashed_by
from sparsense.graph.run import Session, stream
from sparsense.heads.head import Head

Array = NDArray[Any]
Progress = Callable[[str, int, int], None]
"""`(what, done, of)`, called after every batch."""


def silent(what: str, done: int, of: int) -> None:
    """The progress that nobody sees."""


@dataclass(frozen=True)
class HeldOut:
    """What a detector said about held-out in-distribution inputs: scores `[n]`, and predicted classes `[n]`."""

    scores: Array
    classes: Array | None = None


@dataclass(frozen=True)
class Scored:
    """A network with a fitted head: the graph gives scores, but knows no threshold yet.

    Attributes:
        network: Owned by this object.
        head: Fitted.
        score: `[N]`.
        observed: What the head looks at, `[N, D]`.
        explanations: Output name -> value, once `explained` was called.
        agreement: How many of the labels the network predicted, where there were any.
    """

    network: ForwardGraph
    head: Head
    score: ir.Value
    observed: ir.Value | None = None
    explanations: Mapping[str, ir.Value] = field(default_factory=dict)
    agreement: Agreement | None = None

    def scores(self, inputs: Array, *, batch_size: int = 64) -> Array:
        """Scores [N] of inputs as the detector takes them; groups, where it judges groups."""
        at_once = max(1, batch_size // self.network.group)
        batches = stream(self.network.model, [self.score], inputs, batch_size=at_once)
        return np.concatenate([batch[0] for batch in batches])

    def judge(self, inputs: Array, *, batch_size: int = 64) -> HeldOut:
        """Scores and, of a classifier of single inputs, the predicted classes of inputs as the detector takes them."""
        if self.network.task != "classifier" or self.network.group > 1:
            return HeldOut(self.scores(inputs, batch_size=batch_size))
        batches = stream(self.network.model, [self.score, self.network.output], inputs, batch_size=batch_size)
        scores, classes = zip(*((score, output.argmax(1)) for score, output in batches), strict=True)
        return HeldOut(np.concatenate(scores), np.concatenate(classes))


@dataclass(frozen=True)
class _Feed:
    """Runs graphs over the fitting data, with labels where the graph asks for them."""

    data: Dataset
    inputs: Array
    batch_size: int
    progress: Progress
    cache: Path | None = None

    @property
    def has_labels(self) -> bool:
        return self.data.labels is not None

    def __call__(self, network: ForwardGraph, values: Sequence[ir.Value]) -> Iterator[list[Array]]:
        columns = [self.inputs]
        if any(value.name == "labels" for value in network.model.graph.inputs) and self.data.labels is not None:
            check_labels(network, self.data)
            columns.append(self.data.labels)
        for index, batch in enumerate(self._batches(network, values, columns)):
            done = min((index + 1) * self.batch_size, len(self.data))
            self.progress(f"fitting on {self.data.name}", done, len(self.data))
            yield batch

    def _batches(
        self, network: ForwardGraph, values: Sequence[ir.Value], columns: Sequence[Array]
    ) -> Iterator[list[Array]]:
        """From the cache as far as it goes, the rest from ONNX Runtime; inputs themselves are not worth a copy."""
        if self.cache is None or all(value.is_graph_input() for value in values):
            yield from stream(network.model, values, *columns, batch_size=self.batch_size)
            return
        kept = KeptBatches.of(self.cache, network.model, values, data=self.data.sha256(), batch_size=self.batch_size)
        session: Session | None = None
        for index, start in enumerate(range(0, len(self.data), self.batch_size)):
            if (batch := kept.read(index)) is None:
                session = session or Session(network.model, values)
                part = [column[start : start + self.batch_size] for column in columns]
                batch = session(dict(zip(session.input_names, part, strict=False)))
                kept.write(index, batch)
            yield batch


def _check_logits(network: ForwardGraph, head: Head) -> None:
    """Refuse probabilities where a head computes with logits: its score would mean something else."""
    node = squashed_by(network.output)
    if head.needs_logits and node is not None and node.op_type in PROBABILITIES:
        raise InputError(
            f"fitting head {head.name!r}: expected logits, found probabilities, for the network's output comes out of "
            f"node {node.name!r} ({node.op_type}); take what goes into it as output, or choose a head that needs no "
            "logits, such as sensnorm_profile"
        )


def check_head(head: Head, task: str, data: Dataset) -> None:
    """Refuse a head that is for another kind of network, or needs labels that are not there.

    Args:
        head: By its options; it need not be fitted.
        task: Of the network.
        data: To fit on.

    Raises:
        InputError: Says which of the two.
    """
    if head.needs_labels and data.labels is None:
        raise InputError(
            f"fitting head {head.name!r}: it needs labels, and {data.name!r} has none; "
            "give labels or choose another head"
        )
    if head.task not in (task, "any"):
        raise InputError(
            f"fitting head {head.name!r}: it is for a {head.task}, and this network is a {task}; choose another head"
        )


def try_head(network: ForwardGraph, head: Head, few: Dataset, *, preprocessing: Preprocessing) -> None:
    """Build what a head observes, and learn nothing: its layers, its windows and its operators are there, or not.

    Args:
        network: The forward graph; it is copied.
        head: A fresh head, not to be used later.
        few: Samples of the fitting data, for what a head has to see before it observes.
        preprocessing: The network's.

    Raises:
        GraphError: The head cannot be attached to this network.
        InputError: It needs logits and the network answers with probabilities, or the inputs do not fit.
    """
    _check_logits(network, head)
    feed = _Feed(few, preprocessing.arrange(few.inputs), len(few), silent, None)
    check_inputs(network, feed.inputs, few.name)
    try:
        head.prepare(network.copy(), feed)
    except GraphError:
        raise
    except (ValueError, ArithmeticError, LookupError):
        return  # few samples may be too few or of too few classes, and gradients of untrained weights be zero
    head.observe(network.copy())


def fit_head(
    network: ForwardGraph,
    head: Head,
    data: Dataset,
    *,
    preprocessing: Preprocessing,
    batch_size: int = 64,
    progress: Progress = silent,
    cache: Path | None = None,
) -> Scored:
    """Observe, fit and score: the head learns from in-distribution data, streamed through ONNX Runtime.

    Args:
        network: The forward graph; it is copied.
        head: A fresh head.
        data: In-distribution inputs; labels where the head needs them.
        preprocessing: The network's; tells the layout of its input.
        batch_size: Samples at once; does not change the result beyond rounding.
        progress: Called after every batch.
        cache: A folder that keeps what the head observes, so that an interrupted fitting goes on where it was.

    Raises:
        InputError: The head needs labels and the data has none, wrong ones, or others than the network predicts; it
            needs logits and the network answers with probabilities; it is for another task; or the inputs do not fit.
    """
    check_head(head, network.task, data)
    if head.needs_labels:
        check_labels(network, data)
    _check_logits(network, head)
    feed = _Feed(data, preprocessing.arrange(data.inputs), batch_size, progress, cache)
    check_inputs(network, feed.inputs, data.name)
    head.prepare(network.copy(), feed)
    network = network.copy()
    observed = head.observe(network)
    agreement = Agreement(data) if can_be_compared(network, data) else None
    if agreement is None:
        head.fit((batch[0] for batch in feed(network, [observed])), data.labels)
    else:
        head.fit(agreement.watch(feed(network, [observed, network.output])), data.labels)
        if head.learns:
            rest = stream(network.model, [network.output], feed.inputs[agreement.seen :], batch_size=batch_size)
            agreement.finish(batch[0] for batch in rest)
        if head.needs_labels:
            agreement.require(head.name)
    score = head.score(network.op, observed)
    if score.dtype != ir.DataType.FLOAT or score.shape is None or len(score.shape) != 1:
        raise ExportError(
            f"attaching head {head.name!r}: expected float32 scores [N], found {score.dtype} {score.shape}"
        )
    return Scored(network, head, marked(network.op, score, [observed, network.output]), observed, agreement=agreement)


def marked(op: Builder, score: ir.Value, made_from: Sequence[ir.Value]) -> ir.Value:
    """The score [N]; NaN where one of the numbers [N, ...] that it was made from is, or one of the network's answer.

    A largest value, a limit or a count may drop what is not a number, and call the rest usual.
    """
    seen = [value for value in dict.fromkeys(made_from) if value.shape is not None]
    sums = [op.ReduceSum(value, list(range(1, rank(value))), keepdims=0) for value in seen]
    marked = op.Where(op.IsNaN(reduce(op.Add, sums)), np.float32(np.nan), score)
    marked.shape = score.shape
    return marked
