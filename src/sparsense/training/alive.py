"""Has a training left a network that still looks at its input?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsense.errors import TrainingError
from sparsense.training.engine import device_of

SEEN = 256
"""Samples that are looked at."""
SAME, SHUT = 1e-7, 1e-10
"""The spread of answers, relative to what it could be, that is none at the end, and from which no training returns."""


@torch.no_grad()
def check_alive(module: nn.Module, inputs: Tensor, *, rate: float, same: float = SAME) -> None:
    """Refuse a network that answers the same to every training sample: its loss stands still, and so it looks finished.

    Units that no sample reaches pass no gradient. An autoencoder of dark images may shut all of its last units in the
    first steps, and then draws black for the rest of its training.

    Args:
        module: Trained.
        inputs: Training samples as the network sees them, `[N, ...]`.
        rate: The learning rate, for the message.
        same: `SHUT` for a training that still goes on.

    Raises:
        TrainingError: The answers differ by less than `same` of what the samples do (where they are shaped alike), or
            of their own size.
    """
    seen = inputs[torch.linspace(0, len(inputs) - 1, min(SEEN, len(inputs))).long()]
    if len(seen) < 2 or _spread(seen) == 0:
        return
    answers = module.eval()(seen.to(device_of(module))).float().cpu()
    possible = _spread(seen) if answers.shape == seen.shape else float(answers.abs().max())
    if possible > 0 and _spread(answers) < same * possible:
        raise TrainingError(
            "training led to a network that answers the same to every training sample: its units are shut, and "
            f"pass no gradient. Try another seed, or a tenth of the learning rate {rate:.3g}, or schedule one_cycle, "
            "which warms up",
            learning_rate=rate,
        )


def _spread(values: Tensor) -> float:
    """The largest standard deviation over samples."""
    return float(values.std(0).max())
