"""The error of an autoencoder."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from sparsense.networks.network import Task
from sparsense.training.objectives.base_errors import BaseError
from sparsense.training.objectives.objective import OBJECTIVES


@OBJECTIVES.register("reconstruction")
class Reconstruction:
    """Mean over samples of the error between f(x) and x; labels are not looked at.

    Args:
        error: `l2` (mean squared error), `l1`, `ssim` or `ms_gms`.
        window: Side of the windows of `ssim`, in pixels.

    Example:
        >>> import torch
        >>> float(Reconstruction()(nn.Identity(), (torch.rand(2, 3), torch.zeros(2))))
        0.0
    """

    task: ClassVar[Task] = "reconstruction"

    def __init__(self, *, error: str = "l2", window: int = 11) -> None:
        self.error = BaseError(error, None, window)

    def __call__(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch of inputs and labels."""
        inputs, _ = batch
        return self.error(inputs, module(inputs)).mean()

    def scores(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """The error of each sample, [N]."""
        return self.error(inputs, module(inputs))
