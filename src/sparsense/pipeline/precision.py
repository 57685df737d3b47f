"""The shipped network in INT8 or float16, where a recipe asks for it and measurements allow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sparsense.benchmark.card import AccuracyRow, Quantisation
from sparsense.data import Dataset
from sparsense.detector import Progress, fit_head
from sparsense.detector.grouped import grouped
from sparsense.errors import GraphError, InputError
from sparsense.graph import Session, forward_graph, load_graph
from sparsense.heads import HEADS
from sparsense.networks.network import Network
from sparsense.parity import Parity
from sparsense.pipeline.data import RunData
from sparsense.pipeline.detectors import Attached, Variant, attach, compared_inputs
from sparsense.pipeline.measure import outcome_row
from sparsense.quantise import Budget, Judged, quantise_if_better
from sparsense.quantise.judge import Short, Trial
from sparsense.recipe.schema import BenchmarkSection, HeadSection, Recipe
from sparsense.to_onnx import export_forward

ORACLE = "the network in fewer bits with its head in ONNX Runtime, input by input, before it was closed"


def to_precision(
    variant: Variant, recipe: Recipe, data: RunData, progress: Progress
) -> tuple[Quantisation | None, list[AccuracyRow]]:
    """Move the detectors of a variant to fewer bits if that is asked for, faster and good enough.

    Heads that take gradients stay on the float32 network, as rounding has none; so do heads that look for something in
    the graph which rounding hides, such as the weights of the last layer.

    Args:
        variant: The one that is shipped, its heads attached; detectors that moved take the place of theirs.
        recipe: Sections `precision`, `heads`, `fit`, `benchmark`.
        data: Ranges come from training samples. Calibration samples and `data.validation_anomalies` judge: what is
            reported on the test set and its anomalies has decided nothing.
        progress: Told about it.

    Returns:
        What was measured (None: nothing was asked for), and how well the network in fewer bits does its task.

    Raises:
        InputError: The network is no classifier, or calibration samples have no labels.
    """
    asked = recipe.precision.name
    if asked == "float32":
        return None, []
    progress("quantising", 0, 1)
    content, judged = _judged(variant, recipe, data, asked)
    progress("quantising", 1, 1)
    if content is None:
        return _row(judged, []), []
    model = forward_graph(load_graph(content), variant.network.preprocessing)
    small = Variant(variant.name, variant.network, model)
    found, stay = dict[str, Attached](), list[str]()
    for section in recipe.heads:
        if HEADS[section.name](**section.options).differentiates:
            continue
        try:
            found[section.name] = replace(_attached(small, section, recipe, data, progress), precision=asked)
        except GraphError as error:  # its float32 file is there, and is kept
            stay.append(f"{section.name} stays in float32: {error}")
    variant.detectors[:] = [found.get(one.head, one) for one in variant.detectors]
    row = outcome_row(variant.name, asked, variant.network, data.test, small.outputs(data.test.inputs))
    return _row(judged, list(found), stay), [row]


def check_precision(recipe: Recipe, network: Network, held_out: Dataset) -> None:
    """Refuse fewer bits where nothing can judge them.

    Raises:
        InputError: The network is no classifier, or calibration samples have no labels.
    """
    asked = recipe.precision.name
    if asked != "float32" and (network.task != "classifier" or held_out.labels is None):
        raise InputError(
            f"precision: {asked} is judged by accuracy on data.calibration: expected a classifier, and labels there"
        )


def _judged(variant: Variant, recipe: Recipe, data: RunData, to: Short) -> tuple[bytes | None, Judged]:
    network, held_out = variant.network, data.calibration
    check_precision(recipe, network, held_out)
    assert held_out.labels is not None
    see = network.preprocessing

    def seen(inputs: NDArray[np.generic]) -> NDArray[np.float32]:
        return see.apply(see.arrange(inputs))

    anomalies = data.validation_anomalies
    trial = Trial(seen(held_out.inputs), held_out.labels, None if anomalies is None else seen(anomalies.inputs))
    asked, how = recipe.precision, recipe.benchmark or BenchmarkSection()
    budget = Budget(asked.accuracy, asked.auroc, how.batch_sizes[0], how.rounds, how.threads)
    samples = seen(data.train.subset(recipe.fit.samples, seed=recipe.seed).inputs)
    return quantise_if_better(export_forward(network, opset=recipe.export.opset), samples, trial, budget, to=to)


def _attached(variant: Variant, section: HeadSection, recipe: Recipe, data: RunData, progress: Progress) -> Attached:
    see = variant.network.preprocessing
    head = HEADS[section.name](**section.options)
    fitting = data.train.subset(recipe.fit.samples, seed=recipe.seed)
    scored = fit_head(
        variant.graph, head, fitting, preprocessing=see, batch_size=recipe.fit.batch_size, progress=progress
    )
    scored = grouped(variant.graph, scored, section.group)
    compared = compared_inputs(section, recipe, data, see)
    session = Session(scored.network.model, [scored.score], threads=1)
    scores = np.concatenate([session(compared[i : i + 1])[0] for i in range(len(compared))])
    parity = Parity(compared, scores.astype(np.float64), ORACLE, recipe.export.tolerance)
    return attach(scored, section, recipe, data, parity, variant)


def _row(judged: Judged, moved: list[str], stay: Sequence[str] = ()) -> Quantisation:
    words = "; ".join([str(judged), *stay])
    return Quantisation(
        accepted=judged.accepted, words=words, heads=moved, accuracy=judged.accuracy, auroc=judged.auroc,
        ratio=judged.speed.ratio, ratio_interval=judged.speed.ratio_interval, bytes=judged.size,
    )  # fmt: skip
