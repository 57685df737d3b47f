"""Attach a head to anybody's ONNX file, without torch: fit, calibrate, check, write."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx_ir as ir

from sparsense.autodiff.preflight import preflight
from sparsense.autodiff.shapes import dims, rank
from sparsense.class_calibration import PerClass, need_classes
from sparsense.data.dataset import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector.close import calibrated
from sparsense.detector.explain import Detail, check_explanation, explained
from sparsense.detector.file import parity_inputs, write_detector
from sparsense.detector.fit import Array, Progress, Scored, fit_head, silent
from sparsense.detector.gradient_opinion import gradient_opinion
from sparsense.detector.grouped import check_group, grouped, groups_named
from sparsense.detector.groups import group_inputs, single_inputs
from sparsense.detector.second_opinion import check_forward, second_opinion
from sparsense.detector.seen import held_out, left_out_named, properties, without_inputs
from sparsense.detector.taken import check_inputs, in_words
from sparsense.errors import GraphError, InputError, SparsenseError
from sparsense.files import check_place
from sparsense.graph.channels import channels_first
from sparsense.graph.forward import ForwardGraph, Task, forward_graph
from sparsense.graph.load import load_graph
from sparsense.graph.original import Original
from sparsense.graph.outputs import choose_output, in_front_of_softmax, logits_before
from sparsense.heads import Head
from sparsense.runtime import CARD_KEY

PACKAGES = ("sparsense", "numpy", "onnx", "onnx-ir", "onnxruntime")


@dataclass(frozen=True)
class AttachSettings:
    """How a head is attached to a file.

    Args:
        false_alarm_rate: Asked for, in (0, 1).
        per_class: A threshold for each predicted class; see `calibrated`.
        detail: What the outputs `explanation` and `explanation_map` divide a score into, see `explained`; None: no
            such outputs.
        output_name: The value of the model that is its answer, also one inside; default: the first output, or the
            logits in front of the Softmax or Sigmoid that it comes out of.
        cache: A folder that keeps what the head observes, so that an interrupted fitting goes on where it was.
        tolerance: Largest relative error of the scores at which the file is kept.
        private: The file stores no raw calibration inputs and no hashes of inputs: it is verified with random ones,
            and cannot tell what it was made from.
        group: So many inputs that come together get one score, see `grouped`; 1: every input has its own. Calibration
            inputs are taken in groups in their order.
    """

    false_alarm_rate: float = 0.05
    per_class: PerClass = "no"
    detail: Detail | None = None
    output_name: str | None = None
    cache: Path | None = None
    tolerance: float = 1e-5
    private: bool = False
    group: int = 1


def attach_to_file(
    model_path: str | Path,
    head: Head,
    output: str | Path,
    *,
    fit: Dataset,
    calibration: Dataset,
    preprocessing: Preprocessing,
    settings: AttachSettings = AttachSettings(),
    progress: Progress = silent,
) -> dict[str, Any]:
    """One calibrated detector file from an ONNX model and in-distribution data.

    There is no torch to ask, so other things are asked: the network's output is compared with the model as it was
    given; gradients, if the head uses them, with finite differences of the forward graph in float64; scores with an
    evaluation of the same graph in float64.

    Args:
        model_path: A classifier (output `[N, K]`) or an autoencoder (output shaped like its input).
        head: Such as `make_head("energy", {})`.
        output: The file to write.
        fit: In-distribution inputs for the head; labels where it needs them.
        calibration: Held-out in-distribution inputs for the threshold.
        preprocessing: What turns a raw input into the model's.
        settings: How.
        progress: Called after every batch.

    Returns:
        The card, as inside the file, and how the file's scores compare (`parity.rows`).

    Raises:
        InputError: The output cannot be written.
        CalibrationError: Too few calibration inputs that the head was not fitted on; the others are left out.
        GraphError: The model cannot be read, or the head cannot be attached to it; every node in the way is named.
        ExportError: A check failed; nothing is left behind.
    """
    check_place(output)
    need_classes(_task(head), settings.per_class, doing=f"calibrating head {head.name!r}")
    check_group(settings.group, per_class=settings.per_class, explain=settings.detail is not None)
    given, calibration = calibration, held_out(fit, calibration)
    left_out = len(given) - len(calibration)
    model, first, answer = _opened(model_path, settings.output_name, _task(head))
    network = forward_graph(model, preprocessing, task=_task(head))
    _check_output(network, str(model_path))
    unseen = preprocessing.arrange(calibration.inputs)
    check_inputs(network, unseen, calibration.name)
    with _logits_named(answer), _obstacles_named(network):
        scored = fit_head(network, head, fit, preprocessing=preprocessing, progress=progress, cache=settings.cache)
    scored = grouped(network, scored, settings.group)
    unseen = group_inputs(unseen, settings.group)
    progress(f"calibrating on {calibration.name}", 0, len(unseen))
    compared = parity_inputs(unseen)
    scored, about = _explained(scored, compared, settings.detail) if settings.detail else (scored, {})
    judged = scored.judge(unseen)
    with left_out_named(left_out), groups_named(settings.group):
        closed, found = calibrated(scored, judged, settings.false_alarm_rate, per_class=settings.per_class)
    progress("comparing with a second evaluation", 0, len(compared))
    alone = single_inputs(compared, settings.group)
    with _logits_named(answer):
        parity = second_opinion(scored, compared, tolerance=settings.tolerance)
    card: dict[str, Any] = {
        "name": Path(output).stem,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "head": head.name,
        "options": head.options(),
        "learnt": head.learnt_numbers(),
        "task": network.task,
        **({"group": settings.group} if settings.group > 1 else {}),
        "network": {"output": answer.name, "logits": logits_before(answer), "given": first.name},
        "preprocessing": preprocessing.to_dict(),
        "calibration": found.to_dict(),
        "data": {"fit": _describe(fit) | _accuracy(scored), "calibration": {**_describe(given), "left_out": left_out}},
        "versions": {package: metadata.version(package) for package in PACKAGES},
        "checks": {"forward": _forward(network, (model_path, answer), model, preprocessing, alone)}
        | _gradients(head, network, alone),
        "parity": {"oracle": parity.oracle, "inputs": len(parity.inputs), "tolerance": settings.tolerance},
        "warnings": _warnings(scored),
    } | about
    known = preprocessing.arrange(fit.inputs), single_inputs(unseen, settings.group)
    seen = {} if settings.private else properties(*known)
    stored = without_inputs(parity, unseen) if settings.private else parity
    with _logits_named(answer):
        rows = write_detector(closed, Path(output), card=card, parity=parity, seen=seen, stored=stored)
    return {**card, "parity": {**card["parity"], "rows": rows}}


def _opened(path: str | Path, output_name: str | None, task: Task) -> tuple[ir.Model, ir.Value, ir.Value]:
    """The model with channels first, its first output, and its answer, logits where it has them."""
    model = choose_output(_network(path, output_name), output_name, what=str(path))
    first = model.graph.outputs[0]
    if output_name is None and task == "classifier":
        model = in_front_of_softmax(model)
    answer = model.graph.outputs[0]
    return channels_first(model), first, answer


def _network(path: str | Path, output_name: str | None) -> ir.Model:
    """The model; of a detector only where its answer is named, for its outputs are scores."""
    model = load_graph(path)
    if CARD_KEY in model.metadata_props and output_name is None:
        raise InputError(
            f"attaching to {path}: expected a network, found a detector, which has a head; attach to the network that "
            "it was made from"
        )
    return model


def _explained(scored: Scored, inputs: Array, detail: Detail) -> tuple[Scored, dict[str, Any]]:
    """With explanations that were checked, and what the card says about them."""
    scored, about = explained(scored, detail=detail)
    error = check_explanation(scored, inputs)
    return scored, {"explanation": {**about, "error": error}}


def _task(head: Head) -> Task:
    return "reconstruction" if head.task == "reconstruction" else "classifier"


def _check_output(network: ForwardGraph, name: str) -> None:
    """Logits are a matrix, a reconstruction is shaped like the input."""
    if network.output.shape is None:
        raise GraphError(
            f"attaching to {name}: expected an output of known rank, found none for {network.output.name!r}; "
            "export the model with shapes that can be inferred"
        )
    if network.task == "reconstruction" and not _alike(dims(network.target), dims(network.output)):
        raise GraphError(
            f"attaching to {name}: an autoencoder has an output shaped like its input, "
            f"{in_words(dims(network.target))}; found {in_words(dims(network.output))}; put "
            "the right output first, or choose a head for classifiers"
        )
    if network.task == "classifier" and rank(network.output) != 2:
        raise GraphError(
            f"attaching to {name}: a classifier has an output with 2 axes, found "
            f"{in_words(dims(network.output))}; put the right output first, or choose a head for autoencoders"
        )


def _alike(one: Sequence[object], other: Sequence[object]) -> bool:
    """Whether two shapes can be equal; a size that is not known is any."""
    known = (pair for pair in zip(one[1:], other[1:], strict=False) if all(isinstance(size, int) for size in pair))
    return len(one) == len(other) and all(a == b for a, b in known)


@contextmanager
def _logits_named(answer: ir.Value) -> Iterator[None]:
    """A refusal of probabilities says where the logits before them are."""
    try:
        yield
    except SparsenseError as error:
        if logits := logits_before(answer):
            error.add_note(
                f"{answer.name!r} holds probabilities; the logits before them are {logits!r}: name that output"
            )
        raise


@contextmanager
def _obstacles_named(network: ForwardGraph) -> Iterator[None]:
    """A refusal names the first node in the way; the note lists all of them, with what to do."""
    try:
        yield
    except GraphError as error:
        if obstacles := preflight(network):
            error.add_note("\n".join(["what gradients cannot cross in this network:", *map(str, obstacles)]))
        raise


def _forward(
    network: ForwardGraph,
    file: tuple[str | Path, ir.Value],
    model: ir.Model,
    preprocessing: Preprocessing,
    inputs: Array,
) -> dict[str, Any]:
    """The network in the detector against the file as it is; or as it was read, where that cannot run."""
    try:
        original, note = Original(file[0], file[1].name), "the file as it was given"
        return check_forward(network, original, preprocessing, inputs) | {"with": note}
    except GraphError as error:
        original, note = Original(ir.to_proto(model)), f"the model as it was read, for the file does not run: {error}"
        return check_forward(network, original, preprocessing, inputs) | {"with": note}


def _gradients(head: Head, network: ForwardGraph, inputs: Array) -> dict[str, dict[str, Any]]:
    """Those that the head looks at, against finite differences."""
    layers = [glob.escape(layer.name) for layer in head.differentiated(network.copy())]
    return {"gradient": gradient_opinion(network, inputs[:4], layers=layers)} if layers else {}


def _accuracy(scored: Scored) -> dict[str, float]:
    """The share of the labels that the network predicts, for heads that may have used them."""
    return {"accuracy": scored.agreement.accuracy} if scored.agreement and scored.head.learns else {}


def _warnings(scored: Scored) -> list[str]:
    """What the user should know and is told."""
    problem = scored.agreement.problem() if scored.agreement and scored.head.learns else None
    return [problem] if problem else []


def _describe(data: Dataset) -> dict[str, Any]:
    return {"name": data.name, "count": len(data), "sha256": data.sha256()}
