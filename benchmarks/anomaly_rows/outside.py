"""PyOD's detectors beside, with their defaults, on rows of mean 0 and standard deviation 1."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from anomaly_rows.cases import Case
from anomaly_rows.measure import evaluate

DETECTORS = {"IForest": "iforest", "ECOD": "ecod", "AutoEncoder": "auto_encoder", "DeepSVDD": "deep_svdd"}


def outside(case: Case, seed: int) -> Iterator[tuple[str, float]]:
    """Name and AUROC (in %) of every detector; none where PyOD is not installed."""
    if find_spec("pyod") is None:
        return
    mean, std = case.train.inputs.mean(0), case.train.inputs.std(0)
    known, unknown = ((part.inputs - mean) / np.where(std > 0, std, 1) for part in (case.train, case.test))
    for name, module in DETECTORS.items():
        kind = getattr(import_module(f"pyod.models.{module}"), name)
        torch.manual_seed(seed)
        yield (
            f"PyOD {name}",
            evaluate(case, kind(**_options(name, known.shape[1], seed)).fit(known).decision_function(unknown)),
        )


def _options(name: str, features: int, seed: int) -> dict[str, Any]:
    return {
        "IForest": {"random_state": seed},
        "ECOD": {},
        "AutoEncoder": {"random_state": seed, "verbose": 0},
        "DeepSVDD": {"n_features": features, "random_state": seed, "verbose": 0},
    }[name]
