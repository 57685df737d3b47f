"""Make a network smaller: how much, in which steps, aligned for the runtime, batch norms measured, fine-tuned."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from sparsense.benchmark.card import Pruning
from sparsense.benchmark.latency import Latency
from sparsense.networks.network import Network, example_input
from sparsense.pipeline.alignment_facts import read_facts, write_facts
from sparsense.pipeline.amount import amount_for_time, as_share
from sparsense.pipeline.analysis import analysed
from sparsense.pipeline.compacting import compacted
from sparsense.pipeline.cuts import FAST_WIDTHS, Asked, Cut, cut, least_units
from sparsense.pipeline.job import Job
from sparsense.pipeline.kept_cuts import Journey, load_journey, save_journey
from sparsense.pipeline.learnt_masks import searched
from sparsense.pipeline.orders import told_order
from sparsense.pipeline.outcome import pruning_row
from sparsense.pipeline.padding import padded_for_export
from sparsense.pipeline.pulse import pulse
from sparsense.pipeline.steps import journey
from sparsense.pipeline.timing import Stopwatch
from sparsense.pruning.align import align_each_group, align_widths
from sparsense.pruning.analysis import equal_harm
from sparsense.pruning.batchnorm import reestimate_batch_norm
from sparsense.pruning.cost import measure_cost
from sparsense.pruning.plan import UnreachableError
from sparsense.pruning.shares import Shares
from sparsense.recipe.schema import BenchmarkSection
from sparsense.training.fit import remembered

Stage = Callable[[str, Network], None]
"""Called with a network after every stage, so that each one's effect can be measured."""


@dataclass(frozen=True)
class Pruned:
    """The smaller network and what was done to get it; `shipped` is what files are made of."""

    network: Network
    shipped: Network
    row: Pruning
    notes: list[str] = field(default_factory=list)


def make_smaller(job: Job, *, stage: Stage) -> Pruned:
    """Prune, align, measure the batch norms again and fine-tune, as the recipe says; the dense network stays.

    Args:
        job: What to do, with what.
        stage: Called after each stage.
    """
    shares = _shares(job)
    watch = _stopwatch(job)
    share = _amount(job, watch, shares)
    found, notes = (
        searched(job, share) if job.section.search is not None else (journey(job, share, shares), told_order(job))
    )
    found, told = _aligned(job, found, watch)
    notes += told
    network, mask = found.now.network, found.now.mask
    stage("pruned", network)
    if job.recipe.batch_norm is not None and _has_batch_norm(network):
        sample = job.data.subset(job.recipe.batch_norm.samples, seed=job.recipe.seed)
        reestimate_batch_norm(network.module, torch.split(network.seen(sample.inputs), 128))
        stage("batch norm re-estimated", network)
    if job.recipe.finetune is not None:
        training = job.training(network, job.recipe.finetune, seed=job.recipe.seed)
        watch_of_sweep = pulse(network, job.data)

        def tuned() -> Network:
            return replace(network, remembered=remembered(training))

        job.train("fine-tuning", training, tuned, after_step=lambda: mask.apply_(network.module), until=watch_of_sweep)
        network = tuned()
        stage("fine-tuned", network)
    network, told = compacted(job, network)
    notes += told
    shipped, told = padded_for_export(job, network, watch)
    notes += told
    latency = _latency(job, shipped)
    if job.section.at_most is not None and share == 0:
        notes.append("Nothing had to go: the dense network is as small as asked.")
    notes += [f"Left alone, as it cannot be cut: {reason}." for reason in found.now.left_alone]
    return Pruned(network, shipped, pruning_row(job, replace(found.now, network=network), latency), notes)


def _shares(job: Job) -> Shares | None:
    """For the scope `sensitivity`, what an analysis of the dense network allows."""
    if job.section.scope != "sensitivity":
        return None
    analysis = analysed(job)
    return equal_harm(analysis.curves(), analysis.loss)


def _amount(job: Job, watch: Stopwatch, shares: Shares | None) -> float:
    """The share of the dense network that has to go; searched for where a time is asked."""
    section = job.section
    if section.speedup is None and section.milliseconds is None:
        return as_share(section, _sizes(job.dense)) if section.at_most else section.sparsity or 0.0

    def write(folder: Path) -> None:
        saliency, start = job.scorer.saliency(job.dense), Cut(job.dense)

        def time(share: float) -> Latency | None:
            job.progress("searching for the amount", 0, 1)
            asked = Asked(section, least_units(job.dense, section, share), shares)
            try:
                return watch.against_dense(cut(start, saliency, asked, share).network.module)
            except UnreachableError:
                return None

        (folder / "share.json").write_text(json.dumps(amount_for_time(section, time)))

    share: float = json.loads((job.state.piece("amount", write) / "share.json").read_text())
    job.progress("searching for the amount", 1, 1)
    return share


def _sizes(network: Network) -> dict[str, int]:
    cost = measure_cost(network.module, example_input(network.input_shape))
    stored = sum(tensor.numel() * tensor.element_size() for tensor in network.module.state_dict().values())
    return {"parameters": cost.parameters, "multiply_adds": cost.multiply_adds, "bytes": stored}


def _aligned(job: Job, found: Journey, watch: Stopwatch) -> tuple[Journey, list[str]]:
    """The variant with the fastest widths, and what was measured."""
    if job.section.align not in ("measure", "each_group"):
        return found, []

    def write(folder: Path) -> None:
        network = found.now.network
        align = align_each_group if job.section.align == "each_group" else align_widths
        alignment = align(
            network.module,
            example_input(network.input_shape),
            measure=lambda modules: watch.side_by_side(modules) if len(modules) > 1 else dict.fromkeys(modules, 0.0),
            multiple=job.section.round_to or (FAST_WIDTHS, 2 * FAST_WIDTHS),
            saliency=job.scorer.saliency(network),
        )
        best = alignment.variants[alignment.best]
        smaller = replace(found.now, network=replace(network, module=best.module),
                          proof=max(found.now.proof, best.error))  # fmt: skip
        save_journey(replace(found, now=smaller), folder)
        write_facts(alignment, folder, batch=watch.batch)

    folder = job.state.piece("aligned", write)
    told = read_facts(folder)
    if len(told["milliseconds"]) == 1:
        return load_journey(folder, job.dense), ["Widths: kept, as there was nothing to round or to pad."]
    times = ", ".join(f"{name} {time:.3g} ms" for name, time in told["milliseconds"].items())
    note = f"Widths: {told['best']} measured fastest in ONNX Runtime at batch {watch.batch} ({times})."
    return load_journey(folder, job.dense), [note]


def _latency(job: Job, network: Network) -> Latency | None:
    """What was reached in time; None where no time was asked for.

    Measured anew: among many measurements the one that was good enough first is better than the truth.
    """
    if job.section.speedup is None and job.section.milliseconds is None:
        return None
    return _stopwatch(job).against_dense(network.module)


def _stopwatch(job: Job) -> Stopwatch:
    return Stopwatch(job.dense, job.recipe.benchmark or BenchmarkSection(), seed=job.recipe.seed)


def _has_batch_norm(network: Network) -> bool:
    return any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in network.module.modules())
