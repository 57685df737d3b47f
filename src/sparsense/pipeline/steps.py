"""From the dense network to the asked target, in the steps of a schedule, with training between them."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from sparsense.pipeline.cuts import Asked, Cut, cut, least_units
from sparsense.pipeline.job import Job
from sparsense.pipeline.kept_cuts import Journey, load_journey, save_journey
from sparsense.pipeline.orders import in_better_order
from sparsense.pruning.schedule import SCHEDULES, EarlyTrigger
from sparsense.pruning.shares import Shares
from sparsense.pruning.surgery import cut_
from sparsense.recipe.training import TrainingSection

PUBLISHED = {"iterative": "exponential", "crop_it": "halving", "early_crop": "early_halving"}
"""Schedules under the names that a recipe knows them by."""


def journey(job: Job, share: float, shares: Shares | None) -> Journey:
    """All steps up to `share` of the dense network, in the measure of the section; finished ones are not repeated."""
    section, schedule = job.section, job.section.schedule
    targets = SCHEDULES[PUBLISHED.get(schedule.name, schedule.name)](share, schedule.steps)
    here = in_better_order(job, _started(job, share))
    least = {}
    if section.structure == "channel" and not section.ratios:
        least = least_units(here.now.network, section, share)
    asked = Asked(section, least, shares)
    for index, target in enumerate(targets):
        last = index == len(targets) - 1

        def write(
            folder: Path, before: Journey = here, index: int = index, target: float = target, last: bool = last
        ) -> None:
            done = _step(job, before, asked, target)
            if not last and schedule.epochs:
                _train_between(job, done, index)
            save_journey(_rewound(done) if schedule.rewind else done, folder)

        here = load_journey(job.state.piece(f"step-{index}", write), job.dense)
        job.progress("pruning", index + 1, len(targets))
    return here


def _started(job: Job, share: float) -> Journey:
    """The dense network, trained first where the schedule says so."""
    schedule = job.section.schedule
    origin = replace(job.dense, module=deepcopy(job.dense.module)) if schedule.rewind else None
    if not schedule.dense_epochs:
        return Journey(Cut(job.dense), origin)

    def write(folder: Path) -> None:
        network = replace(job.dense, module=deepcopy(job.dense.module))
        section = _settings(job, schedule.dense_epochs)
        if section.objective is not None and section.objective.name == "distillation":  # there is no teacher yet
            section = section.model_copy(update={"objective": None})
        training = job.training(network, section, seed=job.recipe.seed)
        structure = "channel" if job.section.structure == "channel" else "weight"
        trigger = EarlyTrigger(share, structure) if schedule.name == "early_crop" else None
        job.train("training the dense network", training, lambda: network, until=trigger)
        save_journey(Journey(Cut(network), origin), folder)

    return load_journey(job.state.piece("dense", write), job.dense)


def _step(job: Job, before: Journey, asked: Asked, share: float) -> Journey:
    saliency = job.scorer.saliency(before.now.network)
    done = cut(before.now, saliency, asked, share)
    if before.origin is None:
        return Journey(done)
    module = deepcopy(before.origin.module)
    cut_(module, done.removal)
    return Journey(done, replace(before.origin, module=module))


def _train_between(job: Job, done: Journey, index: int) -> None:
    network, mask = done.now.network, done.now.mask
    training = job.training(network, _settings(job, job.section.schedule.epochs), seed=job.recipe.seed + 1 + index)
    name = f"training after step {index + 1}"
    job.train(name, training, lambda: network, after_step=lambda: mask.apply_(network.module))


def _rewound(done: Journey) -> Journey:
    """What is left, with the weights that it was loaded with."""
    assert done.origin is not None
    module = deepcopy(done.origin.module)
    done.now.mask.apply_(module)
    return Journey(replace(done.now, network=replace(done.now.network, module=module)), done.origin)


def _settings(job: Job, epochs: int) -> TrainingSection:
    """Those of the fine-tuning, for another number of epochs."""
    assert job.recipe.finetune is not None  # the recipe says so
    return job.recipe.finetune.model_copy(update={"epochs": epochs})
