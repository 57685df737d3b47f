"""Random saliency: the baseline every criterion must beat."""

from __future__ import annotations

from hashlib import sha256

import torch

from sparsense.criteria.criterion import Saliency, Weights, criterion
from sparsense.sensitivity import SensitivityRecord


@criterion("random", advice="The baseline; nothing that is not better than this is a criterion.")
def random(weights: Weights, _record: SensitivityRecord | None = None, /, *, seed: int = 0) -> Saliency:
    """Uniform numbers in [0, 1), drawn per weight name, so other layers do not change a layer's draw.

    Args:
        weights: Parameter name -> weight.
        seed: The same seed gives the same numbers.

    Returns:
        Parameter name -> saliency in [0, 1).

    Example:
        >>> weights = {"w": torch.zeros(3)}
        >>> bool((random(weights, seed=1)["w"] == random(weights, seed=1)["w"]).all())
        True
    """
    return {name: _draw(weight.shape, f"{seed} {name}").to(weight.device) for name, weight in weights.items()}


def _draw(shape: torch.Size, key: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int.from_bytes(sha256(key.encode()).digest()[:7], "big"))
    return torch.rand(shape, generator=generator, dtype=torch.float64)
