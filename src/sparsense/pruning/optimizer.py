"""An optimiser that follows its network when channels are removed."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsense.errors import InputError
from sparsense.pruning.axes import along
from sparsense.pruning.groups import Removal
from sparsense.pruning.surgery import places


def rebind_optimizer_(optimizer: Optimizer, before: nn.Module, after: nn.Module, removal: Removal) -> None:
    """Make an optimiser work on the pruned network: the same groups, momenta cut like their weights.

    It is changed in place, so learning-rate schedulers that hold it go on. Without this it would go on training
    the parameters of the network before, which nothing uses any more.

    Args:
        optimizer: Of (some of) the parameters of `before`.
        before: The network before.
        after: The pruned network, as from `prune_channels`.
        removal: What was removed, `PruneReport.removal`.

    Raises:
        InputError: The optimiser holds a parameter that `before` does not have; nothing was changed.
    """
    names = {id(parameter): name for name, parameter in before.named_parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if strangers := [list(parameter.shape) for parameter in held if id(parameter) not in names]:
        raise InputError(
            f"rebinding the optimiser: it holds {len(strangers)} parameters that the network before pruning does not "
            f"have, of shapes {strangers[:3]}; give the network it was built for"
        )
    new, kept = dict(after.named_parameters()), _kept(before, removal)
    state: dict[Tensor, dict[str, Any]] = {}
    for old in held:
        if old in optimizer.state:
            entries = optimizer.state[old].items()
            state[new[names[id(old)]]] = {key: _cut(value, old, kept.get(id(old), {})) for key, value in entries}
    for group in optimizer.param_groups:
        group["params"] = [new[names[id(old)]] for old in group["params"]]
    optimizer.state.clear()
    optimizer.state.update(state)


def _kept(module: nn.Module, removal: Removal) -> dict[int, dict[int, Tensor]]:
    """Parameter (by its id) -> axis -> the indices that stay."""
    kept: dict[int, dict[int, Tensor]] = {}
    for side, axis, _, tensor in places(module, removal):
        stays = ~along(removal[side], tensor.shape[axis.dim])
        kept.setdefault(id(tensor), {})[axis.dim] = stays.nonzero().flatten()
    return kept


def _cut(value: Any, parameter: Tensor, kept: dict[int, Tensor]) -> Any:
    """What belongs to single weights is cut like them; step counts and the like stay."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    for axis, indices in kept.items():
        value = value.index_select(axis, indices.to(value.device))
    return value
