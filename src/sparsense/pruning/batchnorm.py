"""Batch-norm statistics measured anew: after pruning the old ones describe a network that is gone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsense.errors import InputError
from sparsense.recording.layers import evaluating


@torch.no_grad()
def reestimate_batch_norm(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace every batch norm's running mean and variance by averages over the batches, in place.

    Batches count by their size, so the order and a short last batch do not matter to the means. Other layers
    (dropout) stay in evaluation mode; train/eval flags and momenta are as before afterwards. Costs one forward
    pass, and is worth tens of points of accuracy after strong one-shot pruning.

    Args:
        module: A network; one without batch norms is left alone.
        batches: Inputs `[n, ...]`, n >= 2, as the network sees them.

    Raises:
        InputError: There are no batches; the statistics are as before, as after any failure.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not norms:
        return
    before = [(norm, norm.momentum, {k: v.clone() for k, v in norm.named_buffers()}) for norm in norms]
    seen = 0
    try:
        with evaluating(module):
            for norm in norms:
                norm.train()
            for batch in batches:
                seen += len(batch)
                for norm in norms:
                    norm.momentum = len(batch) / seen  # an average that is exact at every step
                module(batch)
        if not seen:
            raise InputError("measuring batch-norm statistics: expected at least one batch, found none; give samples")
    except BaseException:
        for norm, _, buffers in before:
            for name, value in buffers.items():
                norm.get_buffer(name).copy_(value)
        raise
    finally:
        for norm, momentum, _ in before:
            norm.momentum = momentum
