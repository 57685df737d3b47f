"""Has a training left a network that still looks at its input?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsense.errors import TrainingError
from sparsense.training.engine import device_of

SEEN = 256
"""Samples that are looked at."""
ROUNDING = 2 * torch.finfo(torch.float32).eps
"""Answers that differ by no more than this part of their size are equal: kernels may round their ends otherwise."""
SAME = torch.finfo(torch.float32).eps
"""Reconstructions that differ by less than this part of what the samples do are one picture, and not worth shipping."""
SHUT = 1e-10
"""While training goes on: a sigmoid's slope is as small as its answer, and Adam makes no steps of such gradients."""


@torch.no_grad()
def check_alive(module: nn.Module, inputs: Tensor, *, rate: float, same: float = SAME) -> None:
    """Refuse a network that answers the same to every training sample: its loss stands still, and so it looks finished.

    Units that no sample reaches pass no gradient. An autoencoder of dark images may shut all of its last units in the
    first steps, and then draws black for the rest of its training.

    Args:
        module: Trained.
        inputs: Training samples as the network sees them, `[N, ...]`.
        rate: The learning rate, for the message.
        same: For a training that still goes on it is `SHUT`.

    Raises:
        TrainingError: The answers differ by no more than `ROUNDING` of their own size or, where they are shaped like
            the samples, by less than `same` of what these do.
    """
    seen = inputs[torch.linspace(0, len(inputs) - 1, min(SEEN, len(inputs))).long()]
    if len(seen) < 2 or _reach(seen) == 0:
        return
    answers = module.eval()(seen.to(device_of(module))).float().cpu()
    possible = _reach(seen) if answers.shape == seen.shape else 0.0
    if _reach(answers) <= max(ROUNDING * float(answers.abs().max()), same * possible):
        raise TrainingError(
            "training led to a network that answers the same to every training sample: its units are shut, and "
            f"pass no gradient. Try another seed, or a tenth of the learning rate {rate:.3g}, or schedule one_cycle, "
            "which warms up",
            learning_rate=rate,
        )


def _reach(values: Tensor) -> float:
    """The largest difference between two samples; of equal ones exactly 0, which a standard deviation is not."""
    return float((values.amax(0) - values.amin(0)).max())
