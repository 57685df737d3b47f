"""Channels in the order in which an N:M pattern keeps most, as a recipe asks for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from sparsense.networks.network import example_input
from sparsense.pipeline.job import Job
from sparsense.pipeline.kept_cuts import Journey, load_journey, save_journey
from sparsense.pruning.permute import permute_for_pattern
from sparsense.pruning.proof import to_within
from sparsense.pruning.weights import unprotected

PIECE, FACTS = "permuted", "permutation.json"


def in_better_order(job: Job, before: Journey) -> Journey:
    """The same network with its channels reordered; as it was when the recipe does not ask for it."""
    section = job.section
    if not section.permute or section.pattern is None:
        return before
    n, m = map(int, section.pattern.split(":"))

    def write(folder: Path) -> None:
        network = before.now.network
        example = example_input(network.input_shape)
        saliency = job.scorer.saliency(network)
        saliency = unprotected(network.module, saliency, ignore=section.ignore, example_input=example)
        job.progress("reordering channels", 0, 1)
        found = permute_for_pattern(network.module, example, saliency, n=n, m=m)
        save_journey(Journey(replace(before.now, network=replace(network, module=found.module))), folder)
        facts = {"kept": found.kept, "groups": len(found.groups), "error": found.error}
        (folder / FACTS).write_text(json.dumps(facts))

    return load_journey(job.state.piece(PIECE, write), job.dense)


def told_order(job: Job) -> list[str]:
    """What reordering has brought, for people."""
    file = job.state.folder / PIECE / FACTS
    if not job.section.permute or not file.is_file():
        return []
    facts = json.loads(file.read_text())
    before, after = facts["kept"]
    kept = f"{job.section.pattern} keeps {after:.1%} of the saliency, {before:.1%} in the order before"
    same = f"outputs the same {to_within(facts['error'])}"
    return [f"Channels of {facts['groups']} groups were put into another order ({same}): {kept}."]
