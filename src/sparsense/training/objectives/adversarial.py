"""Answers that stay when the input is attacked: cross entropy and the divergence of the attacked answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsense.data.preprocessing import Preprocessing
from sparsense.training.objectives.confidence import ScoredByConfidence
from sparsense.training.objectives.objective import OBJECTIVES
from sparsense.training.objectives.parts import evaluation_mode


@OBJECTIVES.register("adversarial")
@dataclass(frozen=True)
class Adversarial(ScoredByConfidence):
    """CE(f(x), y) + b KL(softmax f(x) || softmax f(x')), x' = x + e sign(dCE/dx) within the range of images.

    e is in units of images in [0, 1], whatever the preprocessing makes of them.

    Args:
        preprocessing: Of the network, to translate e and the range.
        epsilon: e >= 0, the largest change of a pixel.
        weight: b >= 0.

    Reference:
        H. Zhang et al., "Theoretically principled trade-off between robustness and accuracy", ICML 2019,
        arXiv:1901.08573; I. Goodfellow et al., "Explaining and harnessing adversarial examples", ICLR 2015,
        arXiv:1412.6572.
    """

    needs: ClassVar[tuple[str, ...]] = ("preprocessing",)
    preprocessing: Preprocessing
    epsilon: float = 8 / 255
    weight: float = 6.0

    def __post_init__(self) -> None:
        if not self.epsilon >= 0 or not self.weight >= 0:
            raise ValueError(f"adversarial needs epsilon >= 0 and weight >= 0; got {self.epsilon} and {self.weight}")

    def __call__(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch of inputs and labels."""
        inputs, labels = batch
        attacked = self.attacked(module, inputs, labels)
        logits = module(inputs)
        clean, other = functional.log_softmax(logits, 1), functional.log_softmax(module(attacked), 1)
        divergence = functional.kl_div(other, clean, reduction="batchmean", log_target=True)
        return functional.cross_entropy(logits, labels) + self.weight * divergence

    def attacked(self, module: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Inputs moved one step towards a larger loss, in evaluation mode, and kept within the range of images."""
        probe = inputs.detach().clone().requires_grad_()
        with evaluation_mode(module):
            (slope,) = torch.autograd.grad(functional.cross_entropy(module(probe), labels), probe)
        low, high, step = self._range(inputs)
        return torch.clamp(inputs + step * slope.sign(), low, high)

    def _range(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images of 0 and of 1, and a step of e, as the network sees them."""
        shape = (1, -1, *[1] * (inputs.ndim - 2))
        mean, std = (inputs.new_tensor(numbers).reshape(shape) for numbers in
                     (self.preprocessing.mean, self.preprocessing.std))  # fmt: skip
        return -mean / std, (1 - mean) / std, self.epsilon / std
