"""What a training objective is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from sparsense.registry import Registry

B = TypeVar("B", contravariant=True)


class Objective(Protocol[B]):
    """A number to make small: `(module, batch) -> loss`.

    The batch is whatever the batches of the run yield; the loss is a scalar that keeps its graph.
    """

    def __call__(self, module: nn.Module, batch: B, /) -> Tensor: ...  # noqa: D102


OBJECTIVES: Registry[Callable[..., Objective[Any]]] = Registry("training objective")
"""Name -> what makes the objective from its options."""
