"""What an objective may need besides the batch: the dense network, the preprocessing, outliers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import TrainingError
from sparsense.training.batches import Augmented
from sparsense.training.objectives.objective import OBJECTIVES, Objective

MISSING = {
    "teacher": "a dense network to learn from, which only pruning has",
    "preprocessing": "the network's preprocessing",
    "outliers": "outliers to learn from; name them in the recipe under data.outliers",
}


@dataclass(frozen=True)
class Context:
    """What is there besides the batches.

    Args:
        teacher: The dense network.
        preprocessing: Of the network that is trained.
        outliers: Anomalous inputs as the network sees them, `[M, ...]`, that nothing else is measured on; `Augmented`
            ones are drawn anew every time.
    """

    teacher: nn.Module | None = None
    preprocessing: Preprocessing | None = None
    outliers: Tensor | Augmented | None = None


def make_objective(name: str, options: Mapping[str, Any], context: Context) -> Objective[tuple[Tensor, Tensor]]:
    """The objective of that name, given what it needs from the context.

    Raises:
        UnknownNameError: No objective has that name.
        TrainingError: The context lacks what it needs, or an option is unknown or out of range.
    """
    factory = OBJECTIVES[name]
    needed = {key: getattr(context, key) for key in getattr(factory, "needs", ())}
    for key, value in needed.items():
        if value is None:
            raise TrainingError(f"training objective {name!r} needs {MISSING[key]}")
    try:
        return factory(**options, **needed)
    except (TypeError, ValueError) as error:
        raise TrainingError(f"training objective {name!r} with options {dict(options)}: {error}") from error
