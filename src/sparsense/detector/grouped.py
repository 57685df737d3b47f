"""A fitted head that judges groups: B inputs that are known to belong together, one score."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir

from sparsense.class_calibration import PerClass
from sparsense.detector.fit import Scored, marked
from sparsense.errors import CalibrationError, InputError
from sparsense.graph.forward import ForwardGraph
from sparsense.graph.grouped import GROUPS, mean_of_groups, taking_groups, together


def grouped(network: ForwardGraph, scored: Scored, size: int) -> Scored:
    """The same head on groups: inputs and outputs of the network `[groups, size, ...]`, scores `[groups]`.

    A head that knows groups observes them itself, such as SensNorm, which averages gradients before it takes their
    norm. Of others a group has the mean of its inputs' scores.

    Args:
        network: What the head was fitted on, without the head.
        scored: Straight from `fit_head`.
        size: Inputs in a group; 1 leaves the head as it is.
    """
    if size == 1:
        return scored
    head, network = scored.head, network.copy()
    op = network.op
    observed = head.observe_groups(network, size)
    if observed is not None:
        score = marked(op, head.score(op, observed), [observed, together(op, network.output, size)])
    else:
        single = head.observe(network)
        score = mean_of_groups(op, marked(op, head.score(op, single), [single, network.output]), size)
    score.shape = ir.Shape([GROUPS])
    network.output = _answers(network, size)
    return Scored(taking_groups(network, size), head, score, agreement=scored.agreement)


def check_group(size: int, *, per_class: PerClass = "no", explain: bool = False) -> None:
    """Refuse a size that is none, and what only single inputs have.

    Raises:
        InputError: Says which.
    """
    doing = f"judging groups of {size}"
    if size < 1:
        raise InputError(f"{doing}: expected at least 1 input in a group")
    if size > 1 and per_class != "no":
        raise InputError(f"{doing}: inputs of a group may have several predicted classes; calibrate all together")
    if size > 1 and explain:
        raise InputError(
            f"{doing}: explanations are those of single inputs; leave them out, or judge inputs one by one"
        )


@contextmanager
def groups_named(size: int) -> Iterator[None]:
    """A refusal for want of calibration samples says what a sample is."""
    try:
        yield
    except CalibrationError as error:
        if size > 1:
            error.add_note(f"a calibration sample is a group of {size} inputs here")
        raise


def _answers(network: ForwardGraph, size: int) -> ir.Value:
    """What the network says of each input, group by group."""
    single, graph = network.output, network.model.graph
    single.name = "single_output"
    found = together(network.op, single, size)
    found.name = "output"
    graph.outputs[:] = [found]
    return found
