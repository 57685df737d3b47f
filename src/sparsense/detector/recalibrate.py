"""Another threshold for a finished detector: from the user's own data, or from what the file remembers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from sparsense.class_calibration import PerClass, need_classes
from sparsense.data.digests import digests
from sparsense.detector.close import CLASSES, SCORES, calibration_of, declare, verdict
from sparsense.detector.file import PARITY_KEY, write_detector
from sparsense.detector.fit import HeldOut
from sparsense.detector.grouped import check_group, groups_named
from sparsense.detector.groups import single_inputs
from sparsense.detector.seen import CALIBRATED, FITTED, Digests, kept_share, left_out_named, pack, unpack, unseen
from sparsense.errors import CalibrationError, InputError
from sparsense.files import check_place
from sparsense.graph.build import Builder
from sparsense.graph.load import parse
from sparsense.parity import Parity
from sparsense.runtime import EXPLANATIONS, ExportedDetector

Array = NDArray[Any]


def recalibrate(
    path: str | Path,
    inputs: Iterable[Array] | None = None,
    *,
    name: str = "own data",
    rate: float | None = None,
    per_class: PerClass | None = None,
    output: str | Path | None = None,
) -> dict[str, Any]:
    """Give a detector another threshold and table of p-values; its scores stay as they are, and proven.

    Args:
        path: A detector file.
        inputs: Batches of in-distribution inputs of the user's own, as the detector takes them; those that the head was
            fitted on are left out. None: the scores that the file was calibrated with before, for another rate.
        name: What the card calls the inputs.
        rate: Asked false-alarm rate; None: as before.
        per_class: A threshold for each predicted class; see `calibrated`. None: as before.
        output: Where to write; None: in the place of the old file, which stays as it was if anything fails.

    Returns:
        The new card. `calibration` is new, `data.calibration` says what from, `recalibrated` lists what was before.

    Raises:
        CalibrationError: Too few inputs for the rate that the head was not fitted on, scores that are not finite.
        InputError: No detector; inputs that it does not take; no stored scores where they are needed.
        ExportError: The new file does not give the scores of the oracle; nothing was written.

    Example:
        >>> recalibrate("missing.onnx", rate=0.01)
        Traceback (most recent call last):
        ...
        sparsense.errors.InputError: detector file missing.onnx does not exist
    """
    check_place(output or path)
    detector = ExportedDetector(path)
    model = ir.from_proto(parse(path)[0])
    before = detector.card["calibration"]
    asked = _per_class(before) if per_class is None else per_class
    need_classes(_task(detector), asked, doing=f"recalibrating {path}")
    check_group(detector.group, per_class=asked)
    seen = {key: detector.metadata[key] for key in (FITTED, CALIBRATED) if key in detector.metadata}
    if inputs is None:
        held_out, data = _stored(detector), None
    else:
        held_out, data, hashes = _scored(detector, inputs, name)
        held_out, data, hashes = _unseen(held_out, data, hashes, (unpack(seen, FITTED), detector.group))
        if seen:  # of a private file none are kept
            seen[CALIBRATED] = pack(hashes)
    op, score, answer, explanations = _reopened(model)
    with left_out_named((data or {}).get("left_out", 0)), groups_named(detector.group):
        found = calibration_of(
            held_out,
            float(before["rate"]) if rate is None else rate,
            per_class=asked,
            output=answer,
            head=str(detector.card.get("head", detector.path.name)),
        )
    declare(op, verdict(op, score, answer, found, held_out))
    model.graph.outputs.extend(explanations)
    card = _card(detector.card, found.to_dict(), data)
    write_detector(model, Path(output or path), card=card, parity=_parity(detector), seen=seen)
    return card


def _scored(detector: ExportedDetector, inputs: Iterable[Array], name: str) -> tuple[HeldOut, dict[str, Any], Digests]:
    """Scores of the user's inputs, what the card says about them, and their hashes."""
    digest, classifier = hashlib.sha256(), _task(detector) == "classifier"
    scores, classes, hashes = [], [], []
    for batch in inputs:
        found = detector(batch)
        hashes.append(digests(single_inputs(batch, detector.group)))
        digest.update(np.ascontiguousarray(batch).data)
        scores.append(found.score)
        classes.append(
            found.output.argmax(1) if classifier and found.output.ndim == 2 else np.zeros(len(found), np.int64)
        )
    if not scores:
        raise CalibrationError(f"recalibrating {detector.path}: expected inputs, found none", needed=1)
    held_out = HeldOut(np.concatenate(scores), np.concatenate(classes))
    about = {"name": name, "count": len(held_out.scores) * detector.group, "sha256": digest.hexdigest()}
    return held_out, about, np.concatenate(hashes)


def _unseen(
    held_out: HeldOut, data: dict[str, Any], hashes: Digests, known: tuple[Digests, int]
) -> tuple[HeldOut, dict[str, Any], Digests]:
    """The same without the inputs that the head was fitted on; `known`: these, and how many inputs a group has.

    A group with one of them goes as a whole.
    """
    fitted, group = known
    kept = unseen(fitted, hashes, name=data["name"], fitted="fitting data", share=kept_share(fitted))
    whole = np.asarray(kept.reshape(-1, group).all(1))
    classes = None if held_out.classes is None else held_out.classes[whole]
    about = {**data, "left_out": int((~whole).sum()) * group}
    return HeldOut(held_out.scores[whole], classes), about, hashes[whole.repeat(group)]


def _stored(detector: ExportedDetector) -> HeldOut:
    """What the file remembers of its calibration; the card knows already where it came from."""
    if (found := remembered(detector.path)) is None:
        raise InputError(
            f"recalibrating {detector.path}: the file does not hold the scores that it was calibrated with; give "
            "in-distribution inputs"
        )
    return found


def remembered(path: str | Path) -> HeldOut | None:
    """The scores that a detector was calibrated with, and the classes predicted for them where each has a threshold.

    None where the file does not hold them.
    """
    constants = ir.from_proto(parse(path)[0]).graph.initializers
    if SCORES not in constants:
        return None
    return HeldOut(_array(constants[SCORES]), _array(constants[CLASSES]) if CLASSES in constants else None)


def _array(value: ir.Value) -> Array:
    if value.const_value is None:
        raise InputError(f"reading a detector: the constant {value.name!r} has no value")
    return value.const_value.numpy()


def _reopened(model: ir.Model) -> tuple[Builder, ir.Value, ir.Value, list[ir.Value]]:
    """Take away what comes behind score and output: builder, score, output and explanations."""
    graph = model.graph
    named = {str(value.name): value for value in graph.outputs}
    score, answer = named["score"], named["output"]
    explanations = [named[name] for name in EXPLANATIONS if name in named]
    graph.outputs[:] = [score, answer, *explanations]
    common.RemoveUnusedNodesPass()(model)
    for value in [value for value in graph.inputs if value.name == "threshold"]:
        graph.inputs.remove(value)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
    source = score.producer()
    if source is not None and source.op_type == "Identity" and source.inputs[0] is not None:
        score = source.inputs[0]  # the old output's Identity would keep its name
        graph.outputs[:] = [answer, *explanations]
        graph.remove(source, safe=False)
    return Builder(graph), score, answer, explanations


def _task(detector: ExportedDetector) -> str:
    """What the network is for; every detector that does not say it is of a classifier."""
    return str(detector.card.get("task", "classifier"))


def _per_class(before: Mapping[str, Any]) -> PerClass:
    if "classes" not in before:
        return "no"
    return "pool" if any(row["pooled"] for row in before["classes"]) else "strict"


def _card(card: Mapping[str, Any], calibration: dict[str, Any], data: dict[str, Any] | None) -> dict[str, Any]:
    """The card with the new calibration in the place of the old one, which joins the history."""
    sets = dict(card.get("data") or {})
    entry = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "before": {key: value for key, value in card["calibration"].items() if key != "classes"},
        "data_before": sets.get("calibration"),
    }
    new = {key: value for key, value in card.items() if key != "format"}
    history = [*card.get("recalibrated", []), entry]
    return {
        **new,
        "calibration": calibration,
        "data": sets if data is None else {**sets, "calibration": data},
        "recalibrated": history,
    }


def _parity(detector: ExportedDetector) -> Parity:
    stored = detector.metadata.get(PARITY_KEY)
    if stored is None:
        raise InputError(
            f"recalibrating {detector.path}: expected stored parity inputs in its metadata, found none; export the "
            "detector again"
        )
    return Parity.unpack(stored)
