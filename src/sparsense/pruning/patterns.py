"""Masks with a pattern: N of every M consecutive inputs, or whole blocks."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from sparsense.errors import InputError
from sparsense.pruning.mask import Mask
from sparsense.pruning.select import checked, least, target_count
from sparsense.recording.layers import Layout


def select_n_of_m(
    saliency: Mapping[str, Tensor], *, n: int = 2, m: int = 4, layouts: Mapping[str, Layout] | None = None
) -> Mask:
    """Keep the N most salient of every M consecutive inputs of an output channel (2:4, 4:8 ...).

    Consecutive inputs are input channels at one offset of the kernel, as sparse matrix hardware wants them.

    Args:
        saliency: Parameter name -> saliency.
        n: Kept of every m.
        m: Length of a run; must divide the number of input channels of every layer.
        layouts: How channels lie in weights; output channels first by default.

    Raises:
        InputError: n is not in [1, m], or a layer's inputs cannot be cut into runs of m.

    Example:
        >>> select_n_of_m({"w": torch.tensor([[1.0, 4.0, 3.0, 2.0]])}).keep["w"].tolist()
        [[False, True, True, False]]
    """
    if not 1 <= n <= m:
        raise InputError(f"an N:M pattern needs 1 <= N <= M; got {n}:{m}")
    keep = {}
    for name, values in saliency.items():
        layout = (layouts or {}).get(name, Layout())
        runs = _runs(name, checked(name, values), m, layout)
        ranks = runs.argsort(dim=-1, stable=True).argsort(-1)
        keep[name] = _unruns(ranks >= m - n, values, layout)
    return Mask(keep)


def follows_n_of_m(mask: Mask, *, n: int, m: int, layouts: Mapping[str, Layout] | None = None) -> bool:
    """Whether a mask keeps at most N of every M consecutive inputs everywhere."""
    runs = (_runs(name, keep, m, (layouts or {}).get(name, Layout())) for name, keep in mask.keep.items())
    return all(bool((run.sum(-1) <= n).all()) for run in runs)


def select_blocks(
    saliency: Mapping[str, Tensor],
    *,
    sparsity: float,
    block: tuple[int, int] = (4, 4),
    layouts: Mapping[str, Layout] | None = None,
) -> Mask:
    """Remove whole blocks of `[output channels, weights of a channel]`, the least salient on average first.

    Blocks at the edges may be smaller. Every layer keeps its best block. As blocks go whole, the sparsity is
    the largest that does not exceed the asked one.

    Args:
        saliency: Parameter name -> saliency.
        sparsity: Share to remove, in [0, 1).
        block: Rows and columns of a block.
        layouts: How channels lie in weights; output channels first by default.

    Raises:
        InputError: A block smaller than 1 x 1, or a target that cannot be reached.
    """
    if min(block) < 1:
        raise InputError(f"a block needs at least 1 row and 1 column; got {block}")
    removed = target_count({name: values.numel() for name, values in saliency.items()}, sparsity)
    rows = {n: (layouts or {}).get(n, Layout()).filters(checked(n, v).cpu()) for n, v in saliency.items()}
    means = {name: _block_sums(matrix, block) / _block_sums(torch.ones_like(matrix), block)
             for name, matrix in rows.items()}  # fmt: skip
    sizes = {name: _block_sums(torch.ones_like(matrix), block) for name, matrix in rows.items()}
    gone = _least_blocks(means, sizes, removed)
    keep = {}
    for name, values in saliency.items():
        wide = (~gone[name]).repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
        fitted = wide[: rows[name].shape[0], : rows[name].shape[1]]
        keep[name] = (layouts or {}).get(name, Layout()).unfilter(fitted, values).contiguous()
    return Mask(keep)


def _least_blocks(means: Mapping[str, Tensor], sizes: Mapping[str, Tensor], removed: int) -> dict[str, Tensor]:
    values = torch.cat([mean.flatten() for mean in means.values()])
    counts = torch.cat([size.flatten() for size in sizes.values()])
    best, offset = [], 0
    for mean in means.values():
        best.append(offset + int(mean.flatten().argmax()))
        offset += mean.numel()
    order = [int(i) for i in least(values, len(values)) if int(i) not in set(best)]
    gone, budget = torch.zeros(len(values), dtype=torch.bool), removed
    for index in order:
        if counts[index] > budget:
            break
        gone[index] = True
        budget -= int(counts[index])
    parts = torch.tensor_split(gone, list(accumulate(mean.numel() for mean in means.values())))
    return {name: part.reshape(means[name].shape) for name, part in zip(means, parts, strict=False)}


def _block_sums(matrix: Tensor, block: tuple[int, int]) -> Tensor:
    rows, columns = (-size % step for size, step in zip(matrix.shape, block, strict=True))
    padded = functional.pad(matrix, (0, columns, 0, rows))
    return padded.unfold(0, block[0], block[0]).unfold(1, block[1], block[1]).sum((2, 3))


def _runs(name: str, weight: Tensor, m: int, layout: Layout) -> Tensor:
    inputs = weight.shape[0] // layout.groups if layout.transposed else weight.shape[1]
    if inputs % m:
        raise InputError(f"an N:M pattern with M = {m} needs a multiple of {m} inputs per output channel; "
                         f"{name!r} has {inputs}; ignore {name.rpartition('.')[0]!r}")  # fmt: skip
    rows = layout.filters(weight)
    return rows.reshape(len(rows), inputs, -1).transpose(1, 2).reshape(len(rows), -1, inputs // m, m)


def _unruns(runs: Tensor, like: Tensor, layout: Layout) -> Tensor:
    return layout.unfilter(runs.flatten(-2).transpose(1, 2).flatten(1), like).contiguous()
