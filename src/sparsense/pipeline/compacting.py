"""Channels that a mask has emptied are removed from the finished network."""

from __future__ import annotations

from dataclasses import replace

from sparsense.networks.network import Network, example_input
from sparsense.pipeline.job import Job
from sparsense.pruning.compact import compact
from sparsense.pruning.proof import to_within


def compacted(job: Job, network: Network) -> tuple[Network, list[str]]:
    """The network without its dead channels where the recipe asks for it, and what went in words.

    Args:
        job: Whose recipe says whether.
        network: Masked and trained; it is not changed.
    """
    if not job.section.compact:
        return network, []
    if network.remembered:
        return network, ["Dead channels stay: what training remembers has the shapes of the weights."]
    found = compact(network.module, example_input(network.input_shape))
    share = 1 - found.after.multiply_adds / found.before.multiply_adds
    note = (f"{sum(found.removed.values())} dead channels were removed, and with them {share:.1%} of the multiply-adds "
            f"(outputs the same {to_within(found.proof)}).")  # fmt: skip
    return replace(network, module=found.module), [note]
