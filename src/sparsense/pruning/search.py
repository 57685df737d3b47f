"""Learned masks: frozen weights, trained scores, the best-scored weights make the network."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sparsense.errors import InputError
from sparsense.pruning.mask import Mask
from sparsense.pruning.protect import Example, Ignore
from sparsense.pruning.select import select
from sparsense.pruning.weights import unprotected
from sparsense.recording.layers import Layout, layouts, prunable_weights

Init = Literal["hydra", "edge_popup", "magnitude"]
INITS: tuple[Init, ...] = get_args(Init)


class MaskSearch(nn.Module):
    """A network whose weights are frozen and whose mask is trained, as any module is by the training loop.

    Every weight has a score; the forward pass uses the weights with the highest (signed) scores, and the
    gradient goes straight through the choice: dL/dscore = w * dL/d(w m). What the scores are trained for (class
    loss, outlier exposure, robustness) is the objective's affair.

    Args:
        module: The pretrained network; a copy is searched, with all its parameters frozen. Batch norm
            statistics of the copy move while it trains, as the masked network's are others.
        sparsity: Share of the searched weights that is masked.
        init: `hydra` starts from the weights with their signs, so large negative ones begin masked; `magnitude`
            from their sizes, so a short search begins at a good mask; `edge_popup` from random scores.
        scope: `global` or `layer`, see `select`.
        ignore: Layers to leave alone; the output layer is protected.
        example_input: Finds the output layer, as for `unprotected`.
        seed: Of random scores.

    Raises:
        InputError: Nothing to search, or a target that cannot be reached.

    Reference:
        Ramanujan et al., "What's hidden in a randomly weighted neural network?", CVPR 2020, arXiv:1911.13299;
        Sehwag et al., "HYDRA: pruning adversarially robust neural networks", NeurIPS 2020, arXiv:2002.10509.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        sparsity: float,
        init: Init = "hydra",
        scope: Literal["global", "layer"] = "global",
        ignore: Ignore = (),
        example_input: Example | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if init not in INITS:
            raise InputError(f"init must be one of {', '.join(INITS)}; got {init!r}")
        self.inner = deepcopy(module).requires_grad_(False)
        self.sparsity, self.scope = sparsity, scope
        shapes = layouts(self.inner)
        searched = unprotected(self.inner, prunable_weights(self.inner), ignore=ignore, example_input=example_input)
        generator = torch.Generator().manual_seed(seed)
        self.names = list(searched)
        self.scores = nn.ParameterList(
            first_scores(init, weight, shapes[name], generator) for name, weight in searched.items()
        )
        self.mask()  # refuses a target that cannot be reached now, not in the first step

    def forward(self, *args: Any) -> Any:
        """The masked network's output."""
        keep, weights = self.mask().keep, prunable_weights(self.inner)
        masked = {
            name: weights[name] * (keep[name].to(score.device) + score - score.detach())
            for name, score in zip(self.names, self.scores, strict=True)
        }
        return functional_call(self.inner, masked, args)

    def mask(self) -> Mask:
        """The mask of the scores as they are; exactly the asked sparsity."""
        lowest = min(float(score.detach().min()) for score in self.scores)
        saliency = {n: score.detach() - lowest for n, score in zip(self.names, self.scores, strict=True)}
        return select(saliency, sparsity=self.sparsity, scope=self.scope)

    def result(self) -> tuple[nn.Module, Mask]:
        """A copy of the network with the mask in its weights, and the mask; measure its batch norms anew."""
        module, mask = deepcopy(self.inner), self.mask()
        mask.apply_(module)
        return module, mask


def first_scores(init: Init, weight: Tensor, layout: Layout, generator: torch.Generator) -> Tensor:
    """Of one weight, before anything is learnt."""
    if init == "edge_popup":
        return edge_popup_scores(weight, layout, generator)
    return hydra_scores(weight if init == "hydra" else weight.abs(), layout)


def hydra_scores(weight: Tensor, layout: Layout) -> Tensor:
    """Large weights begin with high scores, negative ones with low: w sqrt(6 / fan-in) / max |w|."""
    scale = weight.abs().max().clamp_min(torch.finfo(weight.dtype).tiny)
    return (weight * math.sqrt(6 / fan_in(weight, layout)) / scale).clone()


def edge_popup_scores(weight: Tensor, layout: Layout, generator: torch.Generator) -> Tensor:
    """Normal with variance 2 / fan-in."""
    draw = torch.randn(weight.shape, generator=generator) * math.sqrt(2 / fan_in(weight, layout))
    return draw.to(weight)


def fan_in(weight: Tensor, layout: Layout) -> int:
    """How many weights make one output."""
    return layout.filters(weight).shape[1]
