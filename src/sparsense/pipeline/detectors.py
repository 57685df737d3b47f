"""One variant of a network (dense or pruned) with all its detectors: fitted, calibrated, compared, written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.benchmark.card import Explanation, Precision
from sparsense.benchmark.explanation_file import Drawn
from sparsense.benchmark.metrics import Array
from sparsense.calibrate import Calibration
from sparsense.class_calibration import ClassCalibration
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import (
    HeldOut,
    Progress,
    Scored,
    calibrated,
    check_explanation,
    explained,
    fit_head,
    parity_inputs,
)
from sparsense.detector.explain import Detail
from sparsense.detector.grouped import grouped, groups_named
from sparsense.detector.groups import group_inputs
from sparsense.detector.seen import properties, without_inputs
from sparsense.graph import ForwardGraph, Session, forward_graph, load_graph, stream
from sparsense.graph.run import with_outputs
from sparsense.heads import HEADS
from sparsense.networks.network import Network
from sparsense.oracles import oracle_parity
from sparsense.parity import Parity, compare, require
from sparsense.pipeline.data import RunData
from sparsense.pipeline.examples import explain_examples
from sparsense.pipeline.shared import judged, observations
from sparsense.recipe.schema import ExportSection, HeadSection, Recipe
from sparsense.to_onnx import export_forward

VariantName = Literal["dense", "pruned"]
CANDIDATES = 40  # drawn inputs, of which at most 32 are compared


@dataclass(frozen=True)
class Attached:
    """One detector, in memory.

    Attributes:
        head: Name of the head.
        card: What the detector must know about itself; the run's card joins it when it is written.
        model: The closed graph.
        calibration: Its threshold.
        parity: The oracle's scores.
        stored: The part of them that the file keeps.
        rows: How the graph's scores compare with them, per batch size.
        scores: Data set -> scores, for `test` and every anomalous set.
        flags: The same sets -> what the detector decides.
        seen: Hashes of the inputs that it was made from, for the file.
        precision: Of the network's weights.
        explanation: What the report shows of its explanations, and the arrays behind it.
    """

    head: str
    card: dict[str, Any]
    model: ir.Model
    calibration: Calibration
    parity: Parity
    stored: Parity
    rows: list[dict[str, Any]]
    scores: dict[str, Array]
    flags: dict[str, NDArray[np.bool_]]
    seen: dict[str, str]
    explanation: tuple[Explanation, Drawn] | None = None
    precision: Precision = "float32"

    @property
    def content(self) -> bytes:
        """The file without its metadata."""
        content: bytes = ir.to_proto(self.model).SerializeToString()
        return content


@dataclass
class Variant:
    """A network, its forward graph and its detectors."""

    name: VariantName
    network: Network
    graph: ForwardGraph
    detectors: list[Attached] = field(default_factory=list)

    @property
    def forward(self) -> bytes:
        """Preprocessing and network alone, as a file."""
        content: bytes = ir.to_proto(with_outputs(self.graph.model, [self.graph.output])).SerializeToString()
        return content

    def outputs(self, images: Array, *, batch_size: int = 64) -> Array:
        """What the exported network answers, in ONNX Runtime."""
        inputs = self.network.preprocessing.arrange(images)
        return np.concatenate(
            [batch[0] for batch in stream(self.graph.model, [self.graph.output], inputs, batch_size=batch_size)]
        )


def make_variant(name: VariantName, network: Network, export: ExportSection) -> Variant:
    """Export a network's forward graph, numbers compared with torch, and put its preprocessing in front."""
    model = load_graph(export_forward(network, opset=export.opset))
    graph = forward_graph(model, network.preprocessing, task=network.task)
    graph.remembered = {key: tensor.numpy() for key, tensor in network.remembered.items()}
    return Variant(name, network, graph)


def attach_heads(variant: Variant, recipe: Recipe, data: RunData, *, progress: Progress) -> None:
    """Attach every head of the recipe; one that disagrees with its oracle stops the run."""
    preprocessing = variant.network.preprocessing
    fitting = data.train.subset(recipe.fit.samples, seed=recipe.seed)
    for section in recipe.heads:
        head = HEADS[section.name](**section.options)
        scored = fit_head(
            variant.graph,
            head,
            fitting,
            preprocessing=preprocessing,
            batch_size=recipe.fit.batch_size,
            progress=_labelled(progress, f"{variant.name} {section.name}"),
            cache=observations(recipe),
        )
        scored = grouped(variant.graph, scored, section.group)
        compared = compared_inputs(section, recipe, data, preprocessing)
        parity = oracle_parity(scored, variant.network, compared, tolerance=recipe.export.tolerance)
        variant.detectors.append(attach(scored, section, recipe, data, parity, variant))


def compared_inputs(section: HeadSection, recipe: Recipe, data: RunData, preprocessing: Preprocessing) -> NDArray[Any]:
    """What a detector is compared with its oracle on; groups, where it judges groups."""
    held_out = group_inputs(preprocessing.arrange(data.calibration.inputs), section.group)
    return parity_inputs(held_out, count=CANDIDATES, seed=recipe.seed)


def _labelled(progress: Progress, label: str) -> Progress:
    return lambda what, done, of: progress(f"{label}: {what}", done, of)


def attach(
    scored: Scored, section: HeadSection, recipe: Recipe, data: RunData, parity: Parity, variant: Variant
) -> Attached:
    """Calibrate a fitted head, close its graph, compare it with the oracle, and judge all sets."""
    preprocessing = variant.network.preprocessing
    scored, about = _explained(scored, parity.inputs, section.detail) if section.explain else (scored, {})
    held_out = judged(scored, data.calibration, preprocessing)
    asked = recipe.calibrate
    with groups_named(section.group):
        model, calibration = calibrated(scored, held_out, asked.false_alarm_rate, per_class=asked.per_class)
    session = Session(model, threads=1)
    rows = compare(lambda inputs: session(inputs)[0], parity)
    require(rows, what=f"the {variant.name} detector with head {section.name!r}", oracle=parity.oracle)
    sets = {"test": data.test, **data.anomalies}
    said = {name: judged(scored, part, preprocessing) for name, part in sets.items()}
    scores = {name: np.asarray(found.scores, np.float64) for name, found in said.items()}
    flags = {name: decisions(calibration, found) for name, found in said.items()}
    drawn = explain_examples(scored, sets, scores, preprocessing) if section.explain else None
    card = {
        "head": section.name,
        "options": section.options,
        "learnt": scored.head.learnt_numbers(),
        "variant": variant.name,
        "task": variant.network.task,
        "preprocessing": preprocessing.to_dict(),
        "calibration": calibration.to_dict(),
        **({"explanation": about} if about else {}),
        **({"group": section.group} if section.group > 1 else {}),
    }
    shown = None
    if drawn is not None:
        shown = Explanation(variant=variant.name, head=section.name, examples=drawn[0], **about), drawn[1]
    fitted, unseen = preprocessing.arrange(data.train.inputs), preprocessing.arrange(data.calibration.inputs)
    private = recipe.export.private
    groups = group_inputs(unseen, section.group)
    seen, stored = ({}, without_inputs(parity, groups)) if private else (properties(fitted, unseen), parity)
    return Attached(section.name, card, model, calibration, parity, stored, rows, scores, flags, seen, shown)


def _explained(scored: Scored, inputs: Array, detail: Detail) -> tuple[Scored, dict[str, Any]]:
    """With explanations that were checked, and what the card says about them."""
    scored, about = explained(scored, detail=detail)
    return scored, {**about, "error": check_explanation(scored, inputs)}


def decisions(calibration: Calibration, judged: HeldOut) -> NDArray[np.bool_]:
    """What the closed graph decides: above the threshold (where each class has one: of the predicted class), or NaN."""
    threshold = np.asarray(calibration.threshold, np.float32)
    if isinstance(calibration, ClassCalibration) and judged.classes is not None:
        threshold = calibration.thresholds.astype(np.float32)[judged.classes]
    return np.asarray(~(judged.scores <= threshold))
