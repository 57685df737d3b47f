"""What pruning has reached, as a row of the card."""

from __future__ import annotations

from sparsense.benchmark.card import Pruning
from sparsense.benchmark.latency import Latency
from sparsense.networks.network import Network, example_input
from sparsense.networks.packing import packed_size
from sparsense.pipeline.alignment_facts import alignment_row
from sparsense.pipeline.amount import asked_time, fast_enough, share_of_weights
from sparsense.pipeline.cuts import Cut
from sparsense.pipeline.job import Job
from sparsense.pruning.cost import measure_cost
from sparsense.pruning.proof import to_within
from sparsense.recipe.prune import PruneSection
from sparsense.recipe.training import SearchSection

UNITS = {"channel": "channels", "weight": "weights", "head": "attention heads"}


def pruning_row(job: Job, cut: Cut, latency: Latency | None) -> Pruning:
    """Asked, reached and proved."""
    section = job.section
    missed = latency is not None and not fast_enough(section, latency)
    return Pruning(
        criterion=section.criterion if section.search is None else _learnt(section.search),
        structure="weight" if section.structure == "weight" else "channel",
        scope=section.scope,
        target=_target(section) + (" (missed)" if missed else ""),
        reached=_reached(job, cut, latency),
        proof=_proof(section, cut),
        alignment=alignment_row(job),
    )


def _learnt(search: SearchSection) -> str:
    objective = "cross_entropy" if search.objective is None else search.objective.name
    return f"learnt mask ({objective}, from {search.init})"


def _target(section: PruneSection) -> str:
    """What was asked, in words."""
    things = (section.measure or UNITS[section.structure]).replace("_", "-")
    if section.pattern is not None and ":" in section.pattern:
        asked = f"{section.pattern} of the weights stay"
    elif section.ratios:
        asked = "given shares of layers"
    elif section.at_most is not None:
        asked = f"at most {section.at_most:,} {things}"
    elif section.sparsity is not None:
        asked = f"{section.sparsity:.0%} of the {things}"
    else:
        asked = asked_time(section)
    rounding = "" if section.round_to is None else f", widths rounded to multiples of {section.round_to}"
    blocks = f", in blocks of {section.pattern}" if section.pattern is not None and "x" in section.pattern else ""
    steps = (
        "" if section.schedule.name == "one_shot" else f", in {section.schedule.steps} steps ({section.schedule.name})"
    )
    return asked + rounding + blocks + steps


def _reached(job: Job, cut: Cut, latency: Latency | None) -> dict[str, float]:
    section, example = job.section, example_input(job.dense.input_shape)
    reached = {"sparsity" if section.structure == "weight" else UNITS[section.structure]: cut.reached}
    if section.structure == "weight":
        for measure in ("parameters", "multiply_adds"):
            if section.measure == measure:
                reached[measure] = share_of_weights(job.dense.module, example, measure)(cut.mask)
    else:
        before, after = (measure_cost(network.module, example) for network in (job.dense, cut.network))
        reached["parameters"] = 1 - after.parameters / before.parameters
        reached["multiply_adds"] = 1 - after.multiply_adds / before.multiply_adds
    reached["bytes"] = 1 - _stored(cut.network) / _stored(job.dense)
    if latency is not None:
        reached |= {"speedup": 1 / latency.ratio, "milliseconds": latency.median_ms}
    return reached


def _stored(network: Network) -> int:
    """Bytes of the tensors of a checkpoint."""
    return sum(packed_size(tensor, int(tensor.count_nonzero())) for tensor in network.module.state_dict().values())


def _proof(section: PruneSection, cut: Cut) -> str:
    if section.structure != "weight":
        return f"the forward pass works, and removing equals masking {to_within(cut.proof)} on random inputs"
    zeros, size = cut.mask.size - cut.mask.kept, cut.mask.size
    return f"{zeros:,} of {size:,} prunable weights are 0; zeros alone do not make it faster"
