"""The sensitivity analysis of a recipe: every layer pruned alone, judged on held-out training samples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from sparsense.data import Dataset
from sparsense.errors import InputError
from sparsense.files import atomic_write
from sparsense.networks.network import Network, example_input
from sparsense.pipeline.cuts import channel_options
from sparsense.pipeline.job import Job
from sparsense.pipeline.records import held_out_samples
from sparsense.pruning.analysis import Curve, Evaluate, channel_curves, weight_curves
from sparsense.pruning.weights import unprotected
from sparsense.recording.batches import Samples
from sparsense.recording.layers import evaluating, network_sha256
from sparsense.recording.losses import per_sample_loss

ANALYSIS_FORMAT: Final = 1
MAX_BYTES = 64 << 20
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Row(BaseModel):
    """What happens when a share of one layer (or of coupled ones) goes and all else stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    layers: tuple[str, ...]
    size: int
    ratios: tuple[Finite, ...]
    loss: tuple[Finite, ...]
    accuracy: tuple[Finite, ...] | None = None


class Analysis(BaseModel):
    """A whole analysis, as its JSON file holds it.

    Args:
        loss: Mean loss of the dense network on the held-out samples.
        accuracy: The same; null for autoencoders.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = ANALYSIS_FORMAT
    structure: Literal["channel", "weight"]
    criterion: str
    network_sha256: str
    data_sha256: str
    samples: int
    loss: Finite
    accuracy: Finite | None = None
    rows: tuple[Row, ...] = ()

    def curves(self) -> list[Curve]:
        """The rows as the engine knows them."""
        return [Curve(**row.model_dump()) for row in self.rows]

    def save(self, path: Path) -> None:
        """Write the JSON file."""
        with atomic_write(path) as temporary:
            temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def load_analysis(path: Path) -> Analysis:
    """Read what `save` wrote.

    Raises:
        InputError: It is not there, too large, or not an analysis.
    """
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise InputError(f"reading the analysis {path}: there is no such file, or it is above {MAX_BYTES} bytes")
    try:
        return Analysis.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"reading the analysis {path}: it is not one of format {ANALYSIS_FORMAT}: {error}") from error


def analysed(job: Job) -> Analysis:
    """The analysis of the dense network: read from `sensitivity.analysis` when it is there, else made, layer by layer.

    Every finished layer is kept, so an analysis that was interrupted goes on.

    Raises:
        InputError: What is there is of another network, other samples, or asked otherwise.
    """
    held_out = held_out_samples(job.recipe, job.data)
    begun = _beginning(job, held_out)
    kept = job.recipe.sensitivity.analysis
    if kept is not None and Path(kept).is_file():
        found = load_analysis(Path(kept))
        _check(found, begun, kept)
        return found
    partial = job.state.folder / "analysis.json"
    rows = load_analysis(partial).rows if partial.is_file() else ()
    known = {row.name: Curve(**row.model_dump()) for row in rows}
    curves = []
    for curve in _curves(job, _judge(job.dense, held_out), known):
        curves.append(curve)
        job.state.begin()
        _with_rows(begun, curves).save(partial)
        job.progress(f"analysing {curve.name}", 1, 1)
    whole = _with_rows(begun, curves)
    if kept is not None:
        whole.save(Path(kept))
    return whole


def _with_rows(analysis: Analysis, curves: list[Curve]) -> Analysis:
    rows = tuple(Row(**vars(curve)) for curve in curves)
    return analysis.model_copy(update={"rows": rows})


def _curves(job: Job, judge: Evaluate, known: dict[str, Curve]) -> Iterator[Curve]:
    module, section = job.dense.module, job.section
    saliency, example = job.scorer.saliency(job.dense), example_input(job.dense.input_shape)
    if section.structure == "weight":
        open_saliency = unprotected(module, saliency, ignore=section.ignore, example_input=example)
        return weight_curves(module, open_saliency, judge, known=known)
    options = channel_options(section)
    return channel_curves(module, example, saliency, judge, options=options, known=known)


def _judge(network: Network, data: Dataset) -> Evaluate:
    """Mean loss and accuracy on the held-out samples."""
    inputs = network.seen(data.inputs)
    labels = None if data.labels is None else torch.from_numpy(data.labels)
    loss = per_sample_loss("reconstruction" if network.task == "reconstruction" else "cross_entropy")

    @torch.no_grad()
    def judge(module: nn.Module) -> tuple[float, float | None]:
        total, right = 0.0, 0
        with evaluating(module):
            for start in range(0, len(inputs), 256):
                part = slice(start, start + 256)
                wanted = None if labels is None else labels[part]
                outputs = module(inputs[part])
                total += float(loss(outputs, inputs[part], wanted).double().sum())
                right += 0 if wanted is None or outputs.ndim != 2 else int((outputs.argmax(1) == wanted).sum())
        classifies = labels is not None and network.task == "classifier"
        return total / len(inputs), right / len(inputs) if classifies else None

    return judge


def _beginning(job: Job, held_out: Dataset) -> Analysis:
    loss, accuracy = _judge(job.dense, held_out)(job.dense.module)
    labels = None if held_out.labels is None else torch.from_numpy(held_out.labels)
    return Analysis(
        structure="weight" if job.section.structure == "weight" else "channel",
        criterion=job.section.criterion,
        network_sha256=network_sha256(job.dense.module),
        data_sha256=Samples(job.dense.seen(held_out.inputs), labels).sha256(),
        samples=len(held_out),
        loss=loss,
        accuracy=accuracy,
    )


def _check(found: Analysis, expected: Analysis, file: str) -> None:
    for key in ("structure", "criterion", "network_sha256", "data_sha256"):
        if (there := getattr(found, key)) != (asked := getattr(expected, key)):
            raise InputError(
                f"using the analysis {file}: it is of another {key.removesuffix('_sha256')} ({there[:12]} instead of "
                f"{asked[:12]}); remove the file to analyse anew, or name another with sensitivity.analysis"
            )
