"""Reconstruction with codes kept small."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from sparsense.networks.network import Task
from sparsense.training.objectives.base_errors import BaseError, length
from sparsense.training.objectives.objective import OBJECTIVES
from sparsense.training.objectives.parts import with_value


@OBJECTIVES.register("latent_norm")
class LatentNorm:
    """Mean over samples of || x - x' ||_2 + beta || z ||_2, plain norms (not squared) over all elements, z the code.

    With beta 0 it is a plain autoencoder. The head `latent_norm` scores with the same formula, never amplified: give it
    the same beta, which scales with the size of the input, and the same error.

    Args:
        beta: Weight of the code, >= 0; published are 1000 (MNIST), 100 (Fashion-MNIST), 10 (CIFAR-10, tables).
        latent: The part of the network whose output is the code.
        error: `norm`, or another base error (`l2`, `l1`, `ssim`, `ms_gms`), whose size is another: choose beta for it.
        amplify: `element` or `mean` amplifies that error, see `loss_amplification`.
        window: Side of the windows of `ssim`, in pixels.

    Reference:
        A. Ghafourian et al., "Targeted collapse regularized autoencoder for anomaly detection: black hole at the
        center", TNNLS 2024, arXiv:2306.12627.
    """

    task: ClassVar[Task] = "reconstruction"

    def __init__(
        self,
        *,
        beta: float = 10.0,
        latent: str = "encoder",
        error: str = "norm",
        amplify: Literal["element", "mean"] | None = None,
        window: int = 11,
    ) -> None:
        if not 0 <= beta < float("inf"):
            raise ValueError(f"latent_norm needs beta >= 0; got {beta}")
        self.beta, self.latent = beta, latent
        self.error, self.base = BaseError(error, amplify, window), BaseError(error, window=window)

    def __call__(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch; labels are not looked at."""
        inputs, _ = batch
        code, output = self._pass(module, inputs)
        return (self.error(inputs, output) + self.beta * length(code)).mean()

    def scores(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """What the head scores, [N]."""
        code, output = self._pass(module, inputs)
        return self.base(inputs, output) + self.beta * length(code)

    def _pass(self, module: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return with_value(module, self.latent, inputs, doing="training objective 'latent_norm'")
