"""GReg: energies on the right side of their margin, and flat there; GReg+ with outliers sampled by clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsense.networks.network import Task
from sparsense.training.batches import Augmented
from sparsense.training.objectives.base_errors import length
from sparsense.training.objectives.energies import Margins, energy
from sparsense.training.objectives.objective import OBJECTIVES
from sparsense.training.objectives.outlier_sampling import sample_outliers
from sparsense.training.objectives.parts import evaluation_mode
from sparsense.training.objectives.twice import differentiated_twice


@OBJECTIVES.register("gradient_regularization")
@dataclass(frozen=True)
class GradientRegularization:
    """CE + w_S L_S + w_G L_G, with the energy S = -log sum exp f of samples x and outliers o, and margins m_in < m_out.

    L_S = mean max(0, S(x) - m_in)^2 + mean max(0, m_out - S(o))^2
    L_G = mean || 1[S(x) <= m_in] dS/dx || + mean || 1[S(o) >= m_out] dS/do ||

    L_G is zero for whoever is on the wrong side of its margin; with w_G 0 it is energy fine-tuning. The released code
    computes L_G / (number of samples + outliers) at the same w_G: ask for it with `scaling: released` (each of several
    processes divides by the number in its own share, which the formula does not depend on). Batch norms in training
    mode let the gradient of one input pass through others; `batch_norm: eval` takes it with fixed statistics,
    in a pass of its own.

    Args:
        outliers: Inputs `[M, ...]` as the network sees them; keep them apart from what is measured later.
        energy_weight: w_S >= 0.
        gradient_weight: w_G >= 0.
        margin_in: m_in.
        margin_out: m_out.
        scaling: `formula` or `released`.
        batch_norm: Mode of batch norms while gradients are taken: `train` or `eval`.
        sampling: `random`: as many outliers as samples; `clusters` (GReg+): twice as many, of every cluster of
            candidates' features those with the lowest and the highest energy. Needs scikit-learn.
        clusters: k of `clusters`.
        candidates: For every sample, so many outliers are drawn to choose from; 6 is 300,000 for 50,000 samples.

    Reference:
        S. Sharifi et al., "Gradient-regularized out-of-distribution detection", ECCV 2024, arXiv:2404.12368.
    """

    needs: ClassVar[tuple[str, ...]] = ("outliers",)
    task: ClassVar[Task] = "classifier"

    outliers: Tensor | Augmented
    energy_weight: float = 0.1
    gradient_weight: float = 1.0
    margin_in: float = -25.0
    margin_out: float = -7.0
    scaling: Literal["formula", "released"] = "formula"
    batch_norm: Literal["train", "eval"] = "train"
    sampling: Literal["random", "clusters"] = "random"
    clusters: int = 64
    candidates: int = 6

    def __post_init__(self) -> None:
        if not min(self.energy_weight, self.gradient_weight) >= 0:
            raise ValueError(f"weights must be >= 0; got {self.energy_weight} and {self.gradient_weight}")
        if not _whole(self.clusters, 1) or not _whole(self.candidates, 2):
            raise ValueError(
                "clusters must be a whole number of at least 1 and candidates one of at least 2; got "
                f"{self.clusters!r} and {self.candidates!r}"
            )
        _one_of("scaling", self.scaling, ("formula", "released"))
        _one_of("batch_norm", self.batch_norm, ("train", "eval"))
        _one_of("sampling", self.sampling, ("random", "clusters"))
        Margins(self.margin_in, self.margin_out)

    @property
    def margins(self) -> Margins:
        """Both of them."""
        return Margins(self.margin_in, self.margin_out)

    def __call__(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch of inputs and labels."""
        inputs, labels = batch
        together = torch.cat([inputs, self.drawn(module, inputs)]).requires_grad_(bool(self.gradient_weight))
        with differentiated_twice():
            logits = module(together)
        energies, count = energy(logits), len(inputs)
        loss = functional.cross_entropy(logits[:count], labels)
        loss = loss + self.energy_weight * self.margins.loss(energies[:count], energies[count:])
        if not self.gradient_weight:
            return loss
        return loss + self.gradient_weight * self._flatness(module, together, energies, count)

    def drawn(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """The outliers that go with a batch."""
        count = len(inputs)
        if self.sampling == "random":
            return self.outliers[torch.randint(len(self.outliers), (count,))].to(inputs)
        order = torch.randperm(len(self.outliers))[: self.candidates * count]
        return sample_outliers(module, self.outliers[order].to(inputs), count=count, clusters=self.clusters)

    def _flatness(self, module: nn.Module, together: Tensor, energies: Tensor, count: int) -> Tensor:
        if self.batch_norm == "eval":
            with evaluation_mode(module, batch_norms_only=True), differentiated_twice():
                energies = energy(module(together))
        term = flatness(together, energies, count, self.margins)
        return term / len(together) if self.scaling == "released" else term

    def scores(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """The energy, [N]."""
        return energy(module(inputs))


def flatness(together: Tensor, energies: Tensor, count: int, margins: Margins) -> Tensor:
    """L_G of `count` samples and the outliers behind them; keeps its graph."""
    (slopes,) = torch.autograd.grad(energies.sum(), together, create_graph=True)
    known = length(slopes[:count][energies[:count] <= margins.inner]).sum() / count
    unknown = length(slopes[count:][energies[count:] >= margins.outer]).sum()
    return known + unknown / max(1, len(together) - count)


def _whole(number: object, least: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= least


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
