"""From saliency to a mask: the least salient weights go, exactly as many as asked, and no layer is emptied."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from sparsense.errors import InputError
from sparsense.pruning.mask import Mask
from sparsense.pruning.shares import block_of
from sparsense.recording.layers import Layout

Scope = Literal["global", "layer", "block", "row", "erk"]
SCOPES = ("global", "layer", "block", "row", "erk")


def select(
    saliency: Mapping[str, Tensor],
    *,
    sparsity: float,
    scope: Scope = "global",
    floor: float | None = None,
    layouts: Mapping[str, Layout] | None = None,
    gone: Mask | None = None,
) -> Mask:
    """Remove the least salient weights.

    The number removed is exactly round(sparsity * weights). Of equal saliencies the one that comes first goes first.
    Scopes:

    - `global` compares all weights with each other;
    - `block` those of layers in the same submodule, and gives every submodule the same sparsity;
    - `layer` gives every layer the same sparsity; `row` every output channel the same within `layer`;
    - `erk` (Erdos-Renyi kernel) gives a layer a density in proportion to (sum of its sizes) / (product of its
      sizes), so large layers become the sparsest.

    Args:
        saliency: Parameter name -> saliency, finite and `>= 0`; the names given are those that are pruned.
        sparsity: Share to remove, in [0, 1).
        scope: Which weights compete with each other.
        floor: Least density of a layer (always at least one weight); by default a tenth of the asked density.
            Only `global` and `block` need it.
        layouts: How output channels lie in weights, for `row`; output channels first by default.
        gone: What was removed before; it goes first and counts towards the sparsity.

    Returns:
        The mask over the names given.

    Raises:
        InputError: A target that cannot be reached, an unknown scope, or saliency that is not one.

    Example:
        >>> select({"w": torch.tensor([3.0, 1.0, 2.0, 4.0])}, sparsity=0.5).keep["w"].tolist()
        [True, False, False, True]
    """
    saliency = {name: _ranked(checked(name, values), name, gone) for name, values in saliency.items()}
    flat = {name: values.flatten() for name, values in saliency.items()}
    sizes = {name: len(values) for name, values in flat.items()}
    removed = target_count(sizes, sparsity)
    if scope == "global":
        keep = _global(flat, removed, floor_counts(sizes, sparsity, floor))
    elif scope == "block":
        keep = _by_block(flat, removed, floor_counts(sizes, sparsity, floor))
    elif scope == "erk":
        keep = _per_layer(flat, erk_counts({n: tuple(s.shape) for n, s in saliency.items()}, removed))
    elif scope == "layer":
        keep = _per_layer(flat, proportional_counts(sizes, removed))
    elif scope == "row":
        return _per_row(saliency, proportional_counts(sizes, removed), layouts or {})
    else:
        raise InputError(f"scope must be one of {', '.join(SCOPES)}; got {scope!r}")
    return Mask({name: keep[name].reshape(values.shape) for name, values in saliency.items()})


def select_shares(saliency: Mapping[str, Tensor], shares: Mapping[str, float], *, gone: Mask | None = None) -> Mask:
    """Remove given shares of the weights of each layer, the least salient ones; at least one weight stays.

    Args:
        saliency: Parameter name -> saliency, finite and `>= 0`.
        shares: Parameter name -> share to remove, in [0, 1); those not named keep all.
        gone: What was removed before; it goes first.

    Example:
        >>> select_shares({"w": torch.tensor([3.0, 1.0, 2.0, 4.0])}, {"w": 0.25}).keep["w"].tolist()
        [True, False, True, True]
    """
    ranked = {name: _ranked(checked(name, values), name, gone) for name, values in saliency.items()}
    counts = {n: min(round(shares.get(n, 0.0) * values.numel()), values.numel() - 1) for n, values in ranked.items()}
    keep = _per_layer({name: values.flatten() for name, values in ranked.items()}, counts)
    return Mask({name: keep[name].reshape(values.shape) for name, values in ranked.items()})


def checked(name: str, saliency: Tensor) -> Tensor:
    """The saliency as float64, refused when it is not finite or negative."""
    values = saliency.detach().double()
    if not bool(torch.isfinite(values).all()):
        raise InputError(f"the saliency of {name!r} holds NaN or infinity; check the record and the network")
    if bool((values < 0).any()):
        raise InputError(f"the saliency of {name!r} is negative somewhere ({float(values.min()):.3g}); a criterion "
                         "must give values >= 0, higher = keep")  # fmt: skip
    return values


def _ranked(values: Tensor, name: str, gone: Mask | None) -> Tensor:
    # What is gone already ranks below everything that is left, zeros included.
    keep = None if gone is None else gone.keep.get(name)
    return values if keep is None else values.masked_fill(~keep.to(values.device), -1.0)


def target_count(sizes: Mapping[str, int], sparsity: float) -> int:
    """How many weights go: round(sparsity * all), refused when nothing would be left or nothing is there."""
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity must lie in [0, 1); got {sparsity}")
    total = sum(sizes.values())
    if not total:
        raise InputError("selecting weights to prune: there is nothing prunable (every layer is protected or "
                         "ignored, or the network has no convolution and no fully connected layer)")  # fmt: skip
    return round(sparsity * total)


def floor_counts(sizes: Mapping[str, int], sparsity: float, floor: float | None) -> dict[str, int]:
    """The least number of weights every layer keeps."""
    least = (1 - sparsity) / 10 if floor is None else floor
    if not 0 <= least <= 1:
        raise InputError(f"floor is the least density of a layer and must lie in [0, 1]; got {floor}")
    counts = {name: min(size, max(1, math.ceil(least * size - 1e-9))) for name, size in sizes.items()}
    kept = sum(sizes.values()) - round(sparsity * sum(sizes.values()))
    if sum(counts.values()) > kept:
        raise InputError(f"sparsity {sparsity} leaves {kept} of {sum(sizes.values())} weights, fewer than the "
                         f"{sum(counts.values())} that the floor keeps in {len(sizes)} layers; ask for less "
                         "sparsity, a lower floor, or ignore small layers")  # fmt: skip
    return counts


def proportional_counts(sizes: Mapping[str, int], removed: int) -> dict[str, int]:
    """The same sparsity for every layer, exact in sum (largest remainders), and one weight left in each."""
    total = sum(sizes.values())
    return _rounded({name: removed * size / total for name, size in sizes.items()}, sizes, removed)


def erk_counts(shapes: Mapping[str, tuple[int, ...]], removed: int) -> dict[str, int]:
    """How many weights each layer loses when densities are in proportion to (sum of sizes) / (product)."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        open_names = [name for name in sizes if name not in dense]
        kept = sum(sizes[name] for name in open_names) - removed
        scale = kept / sum(sum(shapes[name]) for name in open_names)
        full = {name for name in open_names if scale * sum(shapes[name]) > sizes[name] * (1 + 1e-9)}
        if not full:
            break
        dense |= full
    wanted = {name: 0.0 if name in dense else sizes[name] - scale * sum(shapes[name]) for name in sizes}
    return _rounded(wanted, sizes, removed)


def _rounded(wanted: Mapping[str, float], sizes: Mapping[str, int], removed: int) -> dict[str, int]:
    counts = {name: min(math.floor(value + 1e-9), sizes[name] - 1) for name, value in wanted.items()}
    missing = removed - sum(counts.values())
    by_remainder = sorted(wanted, key=lambda name: counts[name] - wanted[name])
    while missing > 0:
        open_names = [name for name in by_remainder if counts[name] < sizes[name] - 1]
        if not open_names:
            raise InputError(f"removing {removed} of {sum(sizes.values())} weights would empty a layer; ask for "
                             "less sparsity")  # fmt: skip
        for name in open_names[:missing]:
            counts[name] += 1
        missing = removed - sum(counts.values())
    return counts


def _global(flat: Mapping[str, Tensor], removed: int, floors: Mapping[str, int]) -> dict[str, Tensor]:
    candidates = []
    for name, values in flat.items():
        candidates.append(~among_least(-values.cpu(), floors[name]))
    everything = torch.cat([values.cpu() for values in flat.values()])
    allowed = torch.cat(candidates).nonzero().flatten()
    keep = torch.ones(len(everything), dtype=torch.bool)
    keep[allowed] = ~among_least(everything[allowed], removed)
    parts = torch.tensor_split(keep, list(accumulate(len(values) for values in flat.values())))
    return dict(zip(flat, parts, strict=False))


def _by_block(flat: Mapping[str, Tensor], removed: int, floors: Mapping[str, int]) -> dict[str, Tensor]:
    blocks: dict[str, list[str]] = {}
    for name in flat:
        blocks.setdefault(block_of([name.rpartition(".")[0]]), []).append(name)
    sizes = {block: sum(len(flat[name]) for name in names) for block, names in blocks.items()}
    counts = proportional_counts(sizes, removed)
    keep: dict[str, Tensor] = {}
    for block, names in blocks.items():
        keep |= _global({name: flat[name] for name in names}, counts[block], floors)
    return keep


def _per_layer(flat: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Tensor]:
    return {name: ~among_least(values.cpu(), counts[name]) for name, values in flat.items()}


def _per_row(saliency: Mapping[str, Tensor], counts: Mapping[str, int], layouts: Mapping[str, Layout]) -> Mask:
    keep = {}
    for name, values in saliency.items():
        layout = layouts.get(name, Layout())
        rows = layout.filters(values.cpu())
        each, extra = divmod(counts[name], len(rows))
        ranks = rows.argsort(dim=1, stable=True).argsort(1)
        gone = ranks < each
        # The rest of an exact count: the least salient next candidate of as many rows.
        following = torch.where(ranks == each, rows, math.inf).flatten()
        gone.view(-1)[least(following, extra)] = True
        keep[name] = layout.unfilter(~gone, values).contiguous()
    return Mask(keep)


def among_least(values: Tensor, count: int) -> Tensor:
    """Whether each is one of the `count` smallest, bool `[n]`; of equal ones the first are. Nothing is sorted.

    Example:
        >>> among_least(torch.tensor([3.0, 1.0, 2.0, 1.0, 2.0]), 3).tolist()
        [False, True, True, True, False]
    """
    if not count:
        return torch.zeros(len(values), dtype=torch.bool)
    edge = values.kthvalue(count).values
    found = values < edge
    equal = (values == edge).nonzero().flatten()
    found[equal[: count - int(found.sum())]] = True
    return found


def least(values: Tensor, count: int) -> Tensor:
    """The indices of the `count` smallest values; of equal ones the first."""
    return values.argsort(stable=True)[:count]
