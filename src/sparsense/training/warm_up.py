"""The first epochs of a run make something simpler small."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparsense.errors import TrainingError
from sparsense.training.objectives import Objective

HOOKS = ("state", "load_state", "after_backward", "average")


class WarmUp:
    """An objective that is another one for the first epochs; held-out samples are always judged by the later one.

    Args:
        first: For the first epochs.
        then: From then on; one without a memory of its own.
        epochs: How many are the first.

    Raises:
        TrainingError: `then` remembers gradients or samples, which would be missing.
    """

    def __init__(self, first: Objective[Any], then: Objective[Any], *, epochs: int) -> None:
        if found := [hook for hook in HOOKS if hasattr(then, hook)]:
            raise TrainingError(
                f"warming up for {type(then).__name__}: it has {found[0]}, so it has to see every epoch; "
                "set warm_up to 0"
            )
        self.first, self.then, self.epochs = first, then, epochs
        self.warm = epochs == 0

    def begin(self, epoch: int) -> None:
        """Told before every epoch how many are over."""
        self.warm = epoch >= self.epochs

    def __call__(self, module: nn.Module, batch: Any) -> Tensor:
        """The loss of one batch."""
        return (self.then if self.warm or not module.training else self.first)(module, batch)

    def scores(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """Those of the later objective, `[N]`."""
        found: Tensor = self.then.scores(module, inputs)  # type: ignore[attr-defined]
        return found
