"""Masking single weights of a network: saliency in, zeros in place or a mask out."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sparsense.errors import InputError
from sparsense.pruning.mask import Mask
from sparsense.pruning.protect import Example, Ignore, ignored_layers, last_layer, output_layers
from sparsense.pruning.select import Scope, select
from sparsense.recording.layers import layouts, prunable_layers


def unprotected(
    module: nn.Module,
    saliency: Mapping[str, Tensor],
    *,
    ignore: Ignore = (),
    example_input: Example | None = None,
    protect_output: bool = True,
) -> dict[str, Tensor]:
    """The saliencies of the weights that may be pruned.

    Args:
        module: The network.
        saliency: Of all its prunable weights.
        ignore: Name patterns, types or modules to leave alone.
        example_input: Finds the output layer by running the network; without it the prunable layer that was
            registered last counts as the output.
        protect_output: Whether the output layer keeps all its weights.

    Raises:
        InputError: A name the network does not have, or nothing is left to prune.
    """
    layers = prunable_layers(module)
    unknown = [name for name in saliency if name not in layers]
    if unknown:
        raise InputError(f"the saliency names {', '.join(map(repr, unknown))}, which the network does not have; "
                         f"its prunable weights are {', '.join(layers) or '(none)'}")  # fmt: skip
    kept = ignored_layers(module, ignore)
    if protect_output:
        kept |= last_layer(module) if example_input is None else output_layers(module, example_input)
    open_names = {name: values for name, values in saliency.items() if name.rpartition(".")[0] not in kept}
    if not open_names:
        raise InputError(f"nothing can be pruned: of the prunable weights {', '.join(layers) or '(none)'} all are "
                         "ignored or belong to the output layer (protect_output=False opens it)")  # fmt: skip
    return open_names


def select_weights(
    module: nn.Module,
    saliency: Mapping[str, Tensor],
    *,
    sparsity: float,
    scope: Scope = "global",
    floor: float | None = None,
    ignore: Ignore = (),
) -> Mask:
    """The mask for a sparsity of the weights that may be pruned; the last layer is protected.

    Frozen weights are pruned like others and stay frozen. See `select` for the scopes, and `unprotected`
    followed by `select` for other protections.

    Raises:
        InputError: A target that cannot be reached, or nothing to prune.
    """
    open_saliency = unprotected(module, saliency, ignore=ignore)
    return select(open_saliency, sparsity=sparsity, scope=scope, floor=floor, layouts=layouts(module))
