"""Why is this input anomalous? Parts of the score, and a map of where in the image it comes from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff import differentiate
from sparsense.autodiff.shapes import rank
from sparsense.detector.fit import Scored
from sparsense.errors import ExportError, UnsupportedOperatorError
from sparsense.graph.run import Session
from sparsense.heads.contributions import Contributions

Detail = Literal["parts", "layers", "channels"]
ERROR_MAP = "error of the reconstruction at every position"
GRADIENT_MAP = "|d score / d network input|, summed over channels"
TOLERANCE = 1e-3  # of the sum of the magnitudes of all parts: parts may cancel


def explained(scored: Scored, *, detail: Detail = "parts") -> tuple[Scored, dict[str, Any]]:
    """Add the outputs `explanation` and `explanation_map` to a scored network.

    `explanation` [N, P] holds what each layer, feature, member or term adds to the score; a row adds up to the score.
    `explanation_map` [N, H, W] is for images: the error of a reconstruction, or the gradient of the score.

    Args:
        scored: Straight from `fit_head`; its network takes the new nodes.
        detail: `parts`: the head's own (members, layers, features, terms). `layers`, `channels`: divided into these;
            of a fusion, members without them stay whole.

    Returns:
        The same with `explanations`, and for the card: `kind` and `names` of the parts, `map`, and what was left out.

    Raises:
        ExportError: The head offers neither, or not in such detail.
    """
    network, head = scored.network, scored.head
    if scored.observed is None:
        raise ExportError(f"explaining head {head.name!r}: expected it straight from fit_head, found no observation")
    values: dict[str, ir.Value] = {}
    card: dict[str, Any] = {}
    if (parts := _parts(scored, scored.observed, detail)) is not None:
        values["explanation"] = network.op.Identity(parts.value)
        card |= _described(parts)
    found, card["map"] = _map(scored)
    if found is not None:
        values["explanation_map"] = network.op.Identity(found)
    if not values:
        raise ExportError(
            f"explaining head {head.name!r}: its score has no parts that add up, and no map: {card['map']}; choose "
            "another head, or leave the explanation out"
        )
    return replace(scored, explanations=values), card


def _parts(scored: Scored, observed: ir.Value, detail: Detail) -> Contributions | None:
    head = scored.head
    if detail == "parts":
        return head.explain(scored.network, observed)
    if (found := head.divide(scored.network, observed, detail)) is None:
        raise ExportError(
            f"explaining head {head.name!r}: its score cannot be divided into {detail}; ask for its own parts, or "
            "choose a head on sensitivities or Gram matrices"
        )
    return found


def _described(parts: Contributions) -> dict[str, Any]:
    return {"kind": parts.kind, "names": list(parts.names)}


def _map(scored: Scored) -> tuple[ir.Value | None, str]:
    """The map and what it shows, or none and why."""
    network = scored.network
    if rank(network.target) != 4:
        return None, "left out: the input is no image"
    if (errors := scored.head.locate(network)) is not None:
        return errors, ERROR_MAP
    try:
        gradient = differentiate(network.op, of=scored.score, wrt=[network.target])[network.target]
    except (UnsupportedOperatorError, ValueError) as error:
        return None, f"left out: {error}"
    return network.op.ReduceSum(network.op.Abs(gradient), [1], keepdims=0), GRADIENT_MAP


def check_explanation(scored: Scored, inputs: NDArray[Any]) -> float | None:
    """Do the parts add up to the score? The largest difference, relative to the sum of the parts' magnitudes.

    Args:
        scored: From `explained`.
        inputs: As the detector takes them.

    Returns:
        None where there are no parts.

    Raises:
        ExportError: They do not, or a map is not finite.
    """
    names = list(scored.explanations)
    session = Session(scored.network.model, [scored.score, *scored.explanations.values()], threads=1)
    score, *rest = session(inputs)
    found = dict(zip(names, rest, strict=True))
    error = None
    if (parts := found.get("explanation")) is not None:
        wide = parts.astype(np.float64)
        error = float(np.max(np.abs(wide.sum(1) - score) / np.maximum(np.abs(wide).sum(1), 1e-12)))
    bad = [name for name, value in found.items() if not np.isfinite(value).all()]
    if bad or (error is not None and not error <= TOLERANCE):
        raise ExportError(
            f"explaining head {scored.head.name!r}: expected finite parts that add up to the score within "
            f"{TOLERANCE:.0e}, found "
            + (f"NaN or infinity in {bad[0]}" if bad else f"a difference of {error:.1e}")
            + "; leave the explanation out",
            worst=error,
        )
    return error
