"""A subnetwork without training: the mask is learnt, the weights stay those of the dense network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sparsense.networks.network import example_input
from sparsense.pipeline.cuts import Cut
from sparsense.pipeline.job import Job
from sparsense.pipeline.kept_cuts import Journey, load_journey, save_journey
from sparsense.pruning.search import MaskSearch
from sparsense.training.chosen import how_chosen, why_chosen
from sparsense.training.run import make_search_run

CHOSEN = "chosen.json"


def searched(job: Job, share: float) -> tuple[Journey, list[str]]:
    """The network with a learnt mask, and how the mask was chosen."""
    folder = job.state.piece("search", lambda folder: _search(job, share, folder))
    return load_journey(folder, job.dense), [_told(json.loads((folder / CHOSEN).read_text()))]


def _search(job: Job, share: float, folder: Path) -> None:
    section, search = job.section, job.section.search
    assert search is not None
    scope: Literal["global", "layer"] = "layer" if section.scope == "layer" else "global"
    module = MaskSearch(
        job.dense.module,
        sparsity=share,
        init=search.init,
        scope=scope,
        ignore=section.ignore,
        example_input=example_input(job.dense.input_shape),
        seed=job.recipe.seed,
    )
    training = make_search_run(job.dense, module, job.samples, search, seed=job.recipe.seed, teacher=job.dense.module)
    job.train("learning the mask", training, lambda: replace(job.dense, module=module.result()[0]))
    masked, mask = module.result()
    masked.requires_grad_(True)
    save_journey(Journey(Cut(replace(job.dense, module=masked), mask, reached=mask.sparsity)), folder)
    (folder / CHOSEN).write_text(json.dumps({**how_chosen(training), "epochs": len(training.losses)}))


def _told(chosen: dict[str, Any]) -> str:
    """How the mask was chosen, for people."""
    if chosen["select"] == "last":
        return f"The mask is that of the last of {chosen['epochs']} epochs."
    return f"The mask is that of epoch {chosen['epoch']} of {chosen['epochs']}, after which {why_chosen(chosen)}."
