"""The network of a recipe, before anything is done with it."""

from __future__ import annotations

from pathlib import Path

from sparsense.errors import InputError
from sparsense.networks import Network, load_network
from sparsense.recipe.schema import NetworkSection
from sparsense.training.loop import seeded


def open_network(section: NetworkSection, root: str | None, layout: str | None, *, seed: int = 0) -> Network:
    """The network of a recipe; its weights may lie below the data root, its input takes the asked layout.

    Without weights it is the same for the same seed.

    Args:
        section: Which one.
        root: The data root.
        layout: `NHWC` or `NCHW`; None: that of the network's preprocessing.
        seed: Of weights that are drawn.

    Raises:
        InputError: The weights are neither here nor in the data root.
    """
    with seeded(seed):
        network = load_network(
            section.source,
            weights=_weights(section, root),
            options=section.options,
            preprocessing=None if section.preprocessing is None else section.preprocessing.build(),
            input_shape=None if section.input_shape is None else tuple(section.input_shape),
            task=section.task,
        )
    return network if layout is None else network.in_layout(layout)


def _weights(section: NetworkSection, root: str | None) -> str | None:
    weights = section.weights
    if weights in (None, "bundled") or Path(weights).is_file():
        return weights
    if root is None or not (Path(root) / weights).is_file():
        raise InputError(
            f"loading the weights of network {section.source!r}: expected the file {weights}, found it neither "
            f"here nor in the data root ({root or 'not set'}). Set the data root with --data-root, the environment "
            "variable SPARSENSE_DATA, or the recipe key data_root; docs/data.md describes the files"
        )
    return str(Path(root) / weights)
