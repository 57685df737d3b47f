"""Oracles where there is no torch: the network against its own file, the scores against float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff.differentiate import ancestors, is_float
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector.double import CANNOT, Double
from sparsense.detector.fit import Scored
from sparsense.detector.work import nanoseconds
from sparsense.errors import ExportError
from sparsense.graph.forward import ForwardGraph
from sparsense.graph.original import Original
from sparsense.graph.run import Session
from sparsense.parity import DISTURBANCES, Parity, settled

IN_DOUBLE = "the same graph in float64, by the reference implementation of ONNX"
UNOPTIMISED = "the same graph in float32, by ONNX Runtime without optimisations"
PATIENCE = 4
"""How much longer than asked it may take before a clock decides; with three disturbances, 2 inputs of `seconds` / 2."""
Array = NDArray[Any]


def check_forward(
    network: ForwardGraph, original: Original, preprocessing: Preprocessing, inputs: Array
) -> dict[str, float]:
    """The network's output in the detector's graph against the model as it was given.

    Args:
        network: The graph with its preprocessing.
        original: The model as it was given.
        preprocessing: Its numpy form feeds the original.
        inputs: As the detector takes them.

    Returns:
        `error`, the largest difference relative to the largest output, and `tolerance`.

    Raises:
        ExportError: It exceeds the original's tolerance.
    """
    expected = original(preprocessing.apply(inputs))
    (found,) = Session(network.model, [network.output], threads=1)(inputs)
    error = float(np.abs(found - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
    if not error <= original.tolerance:
        raise ExportError(
            f"comparing the network inside the detector with the given model: expected outputs within "
            f"{original.tolerance:.0e}, found a difference of {error:.1e}; the model may depend on more than its input",
            worst=error,
        )
    return {"error": error, "tolerance": original.tolerance}


def second_opinion(scored: Scored, inputs: Array, *, tolerance: float, seconds: float = 60.0) -> Parity:
    """A head's scores from a second evaluation of its graph, input by input.

    Args:
        scored: The network with its fitted head.
        inputs: As the detector takes them, at least 2.
        tolerance: Of the comparison.
        seconds: The float64 evaluation should take about so long, and gets fewer inputs (at least 2) for it. How many,
            the graph says and no clock, so that the same call chooses the same. Only where it takes several times as
            long are there fewer still. It is replaced by a float32 one when the reference implementation is too slow
            for 2, or lacks an operator.

    Returns:
        Scores and the oracle's name, which says what was done and why.
    """
    try:
        evaluate = Double(scored.network.model, [scored.score])
        start = perf_counter()
        first = evaluate(inputs[:1])[0]
        longest = int(PATIENCE * seconds / (perf_counter() - start)) // (1 + DISTURBANCES)
    except CANNOT as error:
        return _single(scored, inputs, tolerance, f"float64 failed: {type(error).__name__}: {error}"[:200])
    if longest < 2:
        return _single(scored, inputs, tolerance, f"float64 takes more than {seconds / 2:.0f} s per input")
    usual = int(1e9 * seconds / nanoseconds(scored.network.model)) // (1 + DISTURBANCES)
    count = min(max(usual, 2), longest, len(inputs))
    chosen = inputs[np.linspace(0, len(inputs) - 1, count).round().astype(int)]  # of all kinds; the first is the first
    rest = _one_by_one(lambda batch: evaluate(batch)[0], chosen[1:])
    scores, found = np.concatenate([first, *rest]), [scored.scores(chosen, batch_size=size) for size in (1, count)]
    return settled(chosen, scores, found, partial(_disturbed, scored), oracle=IN_DOUBLE, tolerance=tolerance)


def _disturbed(scored: Scored, inputs: Array, seed: int) -> Array:
    """The scores again, with the weights of the network moved by about a rounding error.

    Single numbers stay: a moved limit of a ReLU6 is no longer the one that the gradient knows.
    """
    inside = [value for node in ancestors(scored.network.output) for value in node.inputs if value is not None]
    names = {str(value.name) for value in inside if _is_weight(value)}
    evaluate = Double(scored.network.model, [scored.score], disturbed=names, seed=seed)
    return np.concatenate(_one_by_one(lambda batch: evaluate(batch)[0], inputs))


def _is_weight(value: ir.Value) -> bool:
    return value.is_initializer() and is_float(value) and value.const_value is not None and value.const_value.size > 1


def _single(scored: Scored, inputs: Array, tolerance: float, why: str) -> Parity:
    session = Session(scored.network.model, [scored.score], threads=1, optimise=False)
    scores = np.concatenate(_one_by_one(lambda batch: session(batch)[0], inputs))
    return Parity(inputs, scores.astype(np.float64), f"{UNOPTIMISED} ({why})", tolerance)


def _one_by_one(score: Callable[[Array], Array], inputs: Array) -> list[Array]:
    return [score(inputs[i : i + 1]) for i in range(len(inputs))]
