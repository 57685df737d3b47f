"""GradCon: reconstruction whose gradients keep pointing where they pointed before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sparsense.errors import TrainingError
from sparsense.networks.network import Task
from sparsense.training.objectives.base_errors import BaseError
from sparsense.training.objectives.energies import in_full
from sparsense.training.objectives.objective import OBJECTIVES
from sparsense.training.objectives.parts import weights_of, with_value
from sparsense.training.objectives.twice import differentiated_twice

DOING = "training objective 'gradcon'"
TINY = 1e-20  # of a squared length: a perfect reconstruction has no direction


@OBJECTIVES.register("gradcon")
class GradCon:
    """J = L - alpha * mean over the decoder's weights of cos(dL/dw, G_w), L the mean squared error.

    G_w is the mean of dJ/dw over all iterations so far, of the whole J; in the first one there is none and J = L. J is
    differentiated through dL/dw (double backward), at about twice the cost of L. With `kl`, for a network whose
    part `posterior` gives mean and log variance of the code (such as `gradcon_vae`), J has the divergence of the code
    from the standard normal on top, and L does not. The head `gradcon` scores L - beta * mean cos, beta 0.12.

    Args:
        alpha: Weight of the alignment in training, >= 0.
        beta: Its weight in scores, for models chosen by validation scores.
        layers: Name patterns of the weights, or one of them.
        error: What L is: `l2`, or another base error, which the head then does not share.
        amplify: `element` or `mean` amplifies it, see `loss_amplification`.
        kl: Weight of the divergence, >= 0.

    Reference:
        G. Kwon et al., "Backpropagated gradient representations for anomaly detection", ECCV 2020, arXiv:2007.09507.
    """

    task: ClassVar[Task] = "reconstruction"

    def __init__(
        self,
        *,
        alpha: float = 0.03,
        beta: float = 0.12,
        layers: str | Sequence[str] = ("decoder.*",),
        error: str = "l2",
        amplify: Literal["element", "mean"] | None = None,
        kl: float = 0.0,
    ) -> None:
        if not min(alpha, beta, kl) >= 0:
            raise ValueError(f"gradcon needs alpha, beta and kl >= 0; got {alpha}, {beta} and {kl}")
        self.alpha, self.beta, self.kl = alpha, beta, kl
        self.layers = (layers,) if isinstance(layers, str) else tuple(layers)
        if not self.layers:
            raise ValueError(
                "gradcon needs the gradients of some weights: name at least one pattern in layers; got none"
            )
        self.error = BaseError(error, amplify)
        self.average: Callable[[Tensor], Tensor] = _alone
        self.steps, self.means = 0, dict[str, Tensor]()

    def __call__(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """J of one batch; labels are not looked at."""
        inputs, _ = batch
        with differentiated_twice():
            posterior, output = self._pass(module, inputs)
        error = self.error(inputs, output).mean()
        total = error - self.alpha * self.alignment(module, error) if self.steps and self.alpha else error
        return total if posterior is None else total + self.kl * divergence(posterior)

    def alignment(self, module: nn.Module, error: Tensor) -> Tensor:
        """Mean cosine of the gradients of an error with the means, between -1 and 1; keeps its graph."""
        weights = weights_of(module, self.layers, doing=DOING)
        _check_shapes(weights, self.means)
        found = torch.autograd.grad(error, list(weights.values()), create_graph=True)
        pairs = zip(found, (self.means[name] for name in weights), strict=True)
        return torch.stack([cosine(self.average(gradient), mean) for gradient, mean in pairs]).mean()

    def after_backward(self, module: nn.Module) -> None:
        """Take the gradients of J, which lie in the parameters, into the means."""
        weights = weights_of(module, self.layers, doing=DOING)
        self.steps += 1
        for name, weight in weights.items():
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad.detach()
            mean = self.means.setdefault(name, torch.zeros_like(gradient))
            mean.add_((gradient - mean) / self.steps)

    def scores(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """L - beta * mean cos, [N]: one backward pass per sample."""
        return torch.stack([self._score(module, sample[None]) for sample in inputs])

    def _score(self, module: nn.Module, sample: Tensor) -> Tensor:
        with torch.enable_grad():
            error = self.error(sample, module(sample)).mean()
            return (error - self.beta * self.alignment(module, error) if self.steps else error).detach()

    def _pass(self, module: nn.Module, inputs: Tensor) -> tuple[Tensor | None, Tensor]:
        if not self.kl:
            return None, module(inputs)
        return with_value(module, "posterior", inputs, doing=f"{DOING} with kl")

    def remembers(self, module: nn.Module) -> dict[str, Tensor]:
        """What `remembered` will be like after a training of a network: ones in the place of means."""
        return {name: torch.ones_like(weight) for name, weight in weights_of(module, self.layers, doing=DOING).items()}

    def remembered(self) -> dict[str, Tensor]:
        """The means, for the head `gradcon` with `reference: training`; they go into the network's checkpoint."""
        return dict(self.means)

    def state(self) -> dict[str, Tensor]:
        """The means by the names of the weights, and after how many steps."""
        return {"steps": torch.tensor(self.steps), **self.means}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.steps = int(state["steps"])
        self.means = {name: mean.clone() for name, mean in state.items() if name != "steps"}


def cosine(gradient: Tensor, mean: Tensor) -> Tensor:
    """Of the angle between two tensors; 0 where one of them is zero."""
    lengths = gradient.square().sum().clamp_min(TINY).sqrt() * mean.square().sum().clamp_min(TINY).sqrt()
    return (gradient * mean).sum() / lengths


def divergence(posterior: Tensor) -> Tensor:
    """KL(N(m, exp v) || N(0, 1)) of codes `[N, m and v]`, summed over the code, averaged over samples.

    Example:
        >>> float(divergence(torch.zeros(2, 6)))
        0.0
    """
    mean, log_variance = in_full(posterior).chunk(2, 1)
    each = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
    return each.flatten(1).sum(1).mean()


def _alone(gradient: Tensor) -> Tensor:
    return gradient


def _check_shapes(weights: Mapping[str, Tensor], means: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        if name not in means or means[name].shape != weight.shape:
            found = list(means[name].shape) if name in means else "nothing"
            raise TrainingError(
                f"{DOING}: the mean gradient of {name!r} is of {found}, the weight of {list(weight.shape)}; after "
                "pruning start a new objective, whose means are those of the smaller network"
            )
