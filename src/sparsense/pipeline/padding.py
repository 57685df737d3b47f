"""Zero channels that the file carries because the runtime is faster with them; the checkpoint has none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sparsense.networks.checkpoint import load_checkpoint, save_network
from sparsense.networks.network import Network, example_input
from sparsense.pipeline.alignment_facts import read_facts, write_facts
from sparsense.pipeline.cuts import FAST_WIDTHS
from sparsense.pipeline.job import Job
from sparsense.pipeline.timing import Stopwatch
from sparsense.pruning.align import LEAST_GAIN, align_widths


def padded_for_export(job: Job, network: Network, watch: Stopwatch) -> tuple[Network, list[str]]:
    """The network as it is exported: with zero channels where they measure faster, outputs the same.

    Widths that suit no block of the runtime can make a smaller network slower than the dense one.

    Args:
        job: Whose recipe says whether; a recipe with other ideas about widths gets the network as it is.
        network: Pruned and trained; it is not changed.
        watch: Times it.

    Returns:
        The network, and what was measured in words.
    """
    section = job.section
    if section.structure != "channel" or section.align not in (None, "pad") or network.remembered:
        return network, []  # what training remembers has the shapes of the weights

    def write(folder: Path) -> None:
        alignment = align_widths(
            network.module,
            example_input(network.input_shape),
            measure=lambda modules: watch.side_by_side(modules) if len(modules) > 1 else dict.fromkeys(modules, 0.0),
            multiple=section.round_to or (FAST_WIDTHS, 2 * FAST_WIDTHS),
            exact=True,
        )
        times = {name: variant.milliseconds for name, variant in alignment.variants.items()}
        best = alignment.best if times[alignment.best] < (1 - LEAST_GAIN) * times["kept"] else "kept"
        save_network(replace(network, module=alignment.variants[best].module), folder / "padded.safetensors")
        write_facts(alignment, folder, batch=watch.batch, best=best)

    folder = job.state.piece("padded", write)
    told = read_facts(folder)
    if told["best"] == "kept":
        return network, []
    times = ", ".join(f"{name} {time:.3g} ms" for name, time in told["milliseconds"].items())
    note = (f"The files carry zero channels, as ONNX Runtime is faster with them at batch {watch.batch}: "
            f"{told['best']} ({times}). Outputs are those of the network without.")  # fmt: skip
    padded = load_checkpoint(folder / "padded.safetensors", source=job.dense.source)
    return replace(network, module=padded.module), [note]
