"""Mean squared error of an autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from sparsense.training.objectives.objective import OBJECTIVES


@OBJECTIVES.register("reconstruction")
@dataclass(frozen=True)
class Reconstruction:
    """Mean of (f(x) - x)^2 over all numbers of the batch; labels are not looked at.

    Example:
        >>> import torch
        >>> float(Reconstruction()(nn.Identity(), (torch.rand(2, 3), torch.zeros(2))))
        0.0
    """

    def __call__(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch of inputs and labels."""
        inputs, _ = batch
        return functional.mse_loss(module(inputs), inputs)

    def scores(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """The error of each sample, [N]."""
        errors: Tensor = (module(inputs) - inputs).square().flatten(1).mean(1)
        return errors
