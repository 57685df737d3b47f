"""How much must go so that what is left is fast enough, or small enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from sparsense.benchmark.latency import Latency
from sparsense.errors import InputError
from sparsense.networks.packing import packed_size
from sparsense.pruning.cost import measure_positions
from sparsense.pruning.mask import Mask
from sparsense.pruning.protect import Example
from sparsense.pruning.shares import smallest
from sparsense.recipe.prune import PruneSection

TIME_RESOLUTION = 1 / 64
SHARE_RESOLUTION = 1e-4


def amount_for_time(section: PruneSection, time: Callable[[float], Latency | None]) -> float:
    """The smallest share of channels that is fast enough.

    Args:
        section: Its `speedup` and `milliseconds`.
        time: Share -> latency of what is left, or None when so much cannot go.

    Raises:
        InputError: Nothing that can be cut is fast enough; it says how fast the fastest was.
    """
    seen: list[Latency] = []

    def enough(share: float) -> bool | None:
        latency = time(share)
        if latency is None:
            return None
        seen.append(latency)
        return fast_enough(section, latency)

    found = smallest(enough, resolution=TIME_RESOLUTION)
    if found is None:
        best = min(seen, key=lambda latency: latency.ratio, default=None)
        reached = "no cut was possible" if best is None else (
            f"the fastest cut took {best.median_ms:.3g} ms, {1 / best.ratio:.2f} times as fast as dense"
        )  # fmt: skip
        raise InputError(f"pruning to {asked_time(section)}: {reached}; ask for less, ignore fewer layers, or lower "
                         "the floor")  # fmt: skip
    return found


def fast_enough(section: PruneSection, latency: Latency) -> bool:
    """Whether all targets in time are reached."""
    by_ratio = section.speedup is None or latency.ratio <= 1 / section.speedup
    return by_ratio and (section.milliseconds is None or latency.median_ms <= section.milliseconds)


def asked_time(section: PruneSection) -> str:
    """The targets in time, in words."""
    asked = [f"{section.speedup:g} times as fast as dense"] if section.speedup else []
    asked += [f"{section.milliseconds:g} ms"] if section.milliseconds else []
    return " and ".join(asked)


def share_of_weights(module: nn.Module, example_input: Example, measure: str) -> Callable[[Mask], float]:
    """What a mask takes away of a network: Mask -> share of parameters, multiply-adds or bytes."""
    tensors = dict(module.named_parameters())
    if measure == "parameters":
        total = sum(tensor.numel() for tensor in tensors.values())
        return lambda mask: (mask.size - mask.kept) / total
    if measure == "multiply_adds":
        positions = measure_positions(module, example_input)
        dense = sum(count * tensors[f"{name}.weight"].numel() for name, count in positions.items())
        return lambda mask: sum(positions.get(n.rpartition(".")[0], 0) * _gone(k) for n, k in mask.keep.items()) / dense
    return _share_of_bytes(module.state_dict())


def _share_of_bytes(tensors: Mapping[str, Tensor]) -> Callable[[Mask], float]:
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    total = sum(sizes.values())

    def share(mask: Mask) -> float:
        packed = {name: packed_size(tensors[name], int(keep.sum())) for name, keep in mask.keep.items()}
        return 1 - sum({**sizes, **packed}.values()) / total

    return share


def _gone(keep: Tensor) -> int:
    return keep.numel() - int(keep.sum())


def mask_for_share(mask_at: Callable[[float], Mask | None], share: Callable[[Mask], float], asked: float) -> Mask:
    """The mask with the least zeros that takes away the asked share of a measure.

    Args:
        mask_at: Sparsity -> mask, or None when so much cannot go.
        share: What a mask takes away.
        asked: In [0, 1).

    Raises:
        InputError: No mask takes away so much.
    """

    def enough(sparsity: float) -> bool | None:
        mask = mask_at(sparsity)
        return None if mask is None else share(mask) >= asked

    found = smallest(enough, resolution=SHARE_RESOLUTION)
    mask = None if found is None else mask_at(found)
    if mask is None:
        raise InputError(f"no mask takes away {asked:.3f} of the asked measure: output and ignored layers stay, and "
                         "every layer keeps its floor; ask for less")  # fmt: skip
    return mask


def as_share(section: PruneSection, dense: Mapping[str, int]) -> float:
    """The share that `sparsity` or `at_most` asks to remove.

    Args:
        section: With one of the two.
        dense: Measure -> what the dense network has.

    Raises:
        InputError: Nothing can be that small.
    """
    if section.at_most is None:
        return section.sparsity or 0.0
    assert section.measure is not None
    return max(0.0, 1 - section.at_most / dense[section.measure])
