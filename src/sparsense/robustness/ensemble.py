"""The members of the ensemble attack, from the Adversarial Robustness Toolbox, on the graph of a detector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.extras import need
from sparsense.robustness.attack import Array
from sparsense.robustness.victim import Victim

Member = Callable[[Array, NDArray[Any]], Array]
DOING = "the attack 'ensemble'"
NORMS = {"linf": np.inf, "l2": 2}
LOSSES = ("cross_entropy", "difference_logits_ratio")


def members(victim: Victim, asked: Any) -> Iterator[Member]:
    """One after the other, each as inputs, labels -> moved inputs."""
    attacks: Any = need("art.attacks.evasion", doing=DOING, extra="attacks")
    classifier, ball = _classifier(victim), asked.ball
    common = {"norm": NORMS[ball.norm], "eps": ball.radius, "batch_size": 64, "verbose": False}
    for loss in LOSSES:
        attack = attacks.AutoProjectedGradientDescent(
            classifier, eps_step=2 * ball.radius, max_iter=asked.steps, nb_random_init=1, loss_type=loss, **common
        )
        yield _seeded(attack, asked.seed)
    yield _seeded(attacks.SquareAttack(classifier, max_iter=5 * asked.steps, nb_restarts=1, **common), asked.seed)


def _seeded(attack: Any, seed: int) -> Member:
    """The toolbox draws from numpy's global generator, which is put back afterwards."""

    def member(inputs: Array, labels: NDArray[Any]) -> Array:
        before = np.random.get_state()  # noqa: NPY002
        np.random.seed(seed)  # noqa: NPY002
        try:
            with np.errstate(divide="ignore", invalid="ignore"):  # of images without contrast, in its Square
                moved = attack.generate(x=inputs.astype(np.float32), y=labels)
        finally:
            np.random.set_state(before)  # noqa: NPY002
        return np.where(np.isfinite(moved), moved, inputs).astype(np.float64)

    return member


def _classifier(victim: Victim) -> Any:
    """The detector's network as the toolbox takes classifiers."""
    import torch

    estimators: Any = need("art.estimators.classification", doing=DOING, extra="attacks")

    class Logits(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, inputs: torch.Tensor) -> torch.Tensor:
            context.inputs = inputs.detach().double().numpy()
            return torch.from_numpy(victim(context.inputs).output).float()

        @staticmethod
        def backward(context: Any, weights: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(victim.pull(context.inputs, weights.double().numpy())).float()

    class Network(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = Logits.apply(inputs)  # type: ignore[no-untyped-call]
            return found

    shape = [1 if size is None else size for size in victim.sample_shape]
    limits = (0.0, 1.0) if victim.is_image else None
    return estimators.PyTorchClassifier(
        Network(), loss=torch.nn.CrossEntropyLoss(), input_shape=tuple(shape), nb_classes=victim.classes,
        clip_values=limits, device_type="cpu", channels_first=False,
    )  # fmt: skip
