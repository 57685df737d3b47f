"""Reconstruction with an amplified error: a steeper loss around the data."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from sparsense.networks.network import Task
from sparsense.training.objectives.base_errors import BaseError
from sparsense.training.objectives.objective import OBJECTIVES


@OBJECTIVES.register("loss_amplification")
class LossAmplification:
    """Mean of -log(1 - e + 1e-12) over elements and samples, e the error of an element, within [0, 1).

    The equation is our reconstruction: of the publication only the abstract was read, and the logarithm is that of the
    same authors' earlier loss. Its slope by e is 1 / (1 - e): nearly that of e itself where errors are small, so with
    order `mean` little changes after the first epochs. Scores are the plain error, head `reconstruction_error`.

    Args:
        error: `l2`, `l1`, `ssim` or `ms_gms`.
        order: The logarithm is taken of every `element`, or of the sample's `mean` error.
        window: Side of the windows of `ssim`, in pixels.

    Reference:
        Y. Park et al., "Neural network training strategy to enhance anomaly detection performance: a perspective on
        reconstruction loss amplification", ICASSP 2024, arXiv:2308.14595 (inspiration, see above).
    """

    task: ClassVar[Task] = "reconstruction"

    def __init__(self, *, error: str = "l2", order: Literal["element", "mean"] = "element", window: int = 11) -> None:
        if order not in ("element", "mean"):
            raise ValueError(f"order must be element or mean; got {order!r}")
        self.error = BaseError(error, order, window)
        self.base = BaseError(error, None, window)

    def __call__(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch; labels are not looked at."""
        inputs, _ = batch
        return self.error(inputs, module(inputs)).mean()

    def scores(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """The error that is not amplified, [N]."""
        return self.base(inputs, module(inputs))
