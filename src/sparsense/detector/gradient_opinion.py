"""The check of gradients as a card tells it: exact where it can be, coarse where float64 lacks an operator or time."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from sparsense.autodiff import weighted_layers
from sparsense.detector.gradients import (
    DIRECTIONS,
    DOUBLE,
    SINGLE,
    Array,
    CannotEvaluateError,
    Chosen,
    check_gradients,
    distance,
    drawn,
    in_double,
    numeric,
)
from sparsense.graph.forward import ForwardGraph

PASSES = 6  # of the network, in one direction: two forward ones, and a gradient that costs about four


def gradient_opinion(
    network: ForwardGraph, inputs: Array, *, layers: Chosen = None, seconds: float = 60.0
) -> dict[str, Any]:
    """The check for a card: in float64 where that can be done in time, else in float32.

    Args:
        network: The forward graph, without head.
        inputs: A few inputs as the detector takes them, `[n, ...]`.
        layers: Which ones, as `weighted_layers` takes them; default: all.
        seconds: The float64 comparison may take about so long.

    Returns:
        `error`, None where not even float32 could tell; `tolerance`; and `with`, what it was compared with and why.

    Raises:
        ExportError: As `check_gradients`.
    """
    try:
        start = perf_counter()
        in_double(network.model, [network.output], inputs[:1])
        if (perf_counter() - start) * PASSES * DIRECTIONS * len(inputs) <= seconds:
            error = check_gradients(network, inputs, layers=layers)
            return {"error": error, "tolerance": DOUBLE.tolerance, "with": DOUBLE.name}
        why = f"float64 takes more than {seconds:.0f} s"
    except CannotEvaluateError as error:
        why = str(error)
    compared: dict[str, Any] = {"tolerance": SINGLE.tolerance, "with": f"{SINGLE.name} ({why})"}
    if not _repeatable(network, inputs, layers):
        return compared | {"error": None, "with": f"{compared['with']}; their own error is larger than the tolerance"}
    return compared | {"error": check_gradients(network, inputs, layers=layers, way=SINGLE)}


def _repeatable(network: ForwardGraph, inputs: Array, layers: Chosen) -> bool:
    """Whether float32 differences say the same for a step of half the length: rounding and kinks are small."""
    direction = drawn(network, weighted_layers(network, layers=layers), np.random.default_rng(0))
    whole, half = (numeric(network, inputs, direction, replace(SINGLE, step=SINGLE.step / n)) for n in (1, 2))
    return bool(whole.any() and distance(whole, half) <= SINGLE.tolerance / 2)
