"""The energy of logits, and the two margins between which it should not lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


def energy(logits: Tensor) -> Tensor:
    """-log sum exp of the logits, [N], at least in float32, as the head `energy` scores. Low is in-distribution."""
    return -torch.logsumexp(in_full(logits), 1)


def in_full(logits: Tensor) -> Tensor:
    """Logits in float32 where they have fewer bits: near 25, a usual margin, bfloat16 goes in steps of 1/8."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@dataclass(frozen=True)
class Margins:
    """In-distribution energies should be at most `inner`, those of outliers at least `outer`.

    Args:
        inner: Negative; energies go down to minus the largest logit.
        outer: Larger than `inner`.
    """

    inner: float = -25.0
    outer: float = -7.0

    def __post_init__(self) -> None:
        if not self.inner < self.outer:
            raise ValueError(
                f"the margin of samples must lie below that of outliers; got margin_in {self.inner} and "
                f"margin_out {self.outer}"
            )

    def loss(self, known: Tensor, unknown: Tensor) -> Tensor:
        """Mean squared distance of energies on the wrong side to their margin, of samples plus of outliers."""
        inner: Tensor = functional.relu(known - self.inner).square().mean()
        return inner + functional.relu(self.outer - unknown).square().mean()
