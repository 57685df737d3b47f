"""Outliers that are diverse and telling: of every cluster of features those with the lowest and the highest energy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sparsense.errors import TrainingError
from sparsense.extras import need
from sparsense.training.objectives.energies import energy
from sparsense.training.objectives.parts import evaluation_mode, features_and_output

DOING = "sampling outliers by clusters"
STARTS = 3  # of k-means


def sample_outliers(module: nn.Module, candidates: Tensor, *, count: int, clusters: int) -> Tensor:
    """Choose 2 * count candidates by their features and energies, which the module gives in evaluation mode.

    Args:
        module: A classifier with a fully connected last layer.
        candidates: `[M, ...]`, M >= 2 * count.
        count: Samples of the batch.
        clusters: At most so many; never more than `count`.

    Returns:
        The chosen ones, `[2 * count, ...]`.

    Raises:
        TrainingError: Features or energies are not finite: the training diverged before.
    """
    with torch.no_grad(), evaluation_mode(module):
        features, logits = features_and_output(module, candidates, doing=DOING)
    energies = energy(logits)
    _check_finite({"features": features, "energies": energies})
    seed = int(torch.randint(2**31 - 1, ()))
    groups = cluster(functional.normalize(features.float(), dim=1).cpu().numpy(), min(clusters, count), seed)
    each = max(1, count // max(1, min(clusters, count)))
    chosen = extremes(energies.float().cpu().numpy(), groups, each)
    rest = np.setdiff1d(np.arange(len(candidates)), chosen)
    missing = max(0, 2 * count - len(chosen))
    filling = np.random.default_rng(seed).permutation(rest)[:missing]
    return candidates[torch.from_numpy(np.concatenate([chosen, filling])[: 2 * count]).to(candidates.device)]


def _check_finite(found: Mapping[str, Tensor]) -> None:
    for name, values in found.items():
        if not torch.isfinite(values).all():
            raise TrainingError(
                f"training diverged: {DOING}, the network's {name} of outliers hold NaN or infinity. Try a tenth "
                "of the learning rate, or schedule one_cycle, which warms up; and look for outliers like that."
            )


def extremes(energies: NDArray[np.float32], groups: NDArray[np.int64], each: int) -> NDArray[np.int64]:
    """Indices of the `each` lowest and `each` highest energies of every group, none twice.

    Example:
        >>> extremes(np.array([3., 1., 2., 5.], np.float32), np.array([0, 0, 0, 1]), 1)
        array([0, 1, 3])
    """
    chosen: set[int] = set()
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        order = members[np.argsort(energies[members], kind="stable")]
        chosen.update(order[:each].tolist(), order[-each:].tolist())
    return np.array(sorted(chosen), np.int64)


def cluster(features: NDArray[np.float32], clusters: int, seed: int) -> NDArray[np.int64]:
    """The cluster of each row by k-means, as many as there are distinct rows at most."""
    kmeans = need("sklearn.cluster", doing=DOING, extra="train").KMeans
    number = min(clusters, len(np.unique(features, axis=0)))
    groups: NDArray[np.int64] = kmeans(number, n_init=STARTS, random_state=seed).fit_predict(features)
    return groups.astype(np.int64)
