"""Pruning jobs on the bundled network, small enough to run in a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sparsense.pipeline.data import load_data
from sparsense.pipeline.job import Job
from sparsense.pipeline.prune import Pruned, make_smaller
from sparsense.pipeline.records import Scorer, kept_record
from sparsense.pipeline.state import State, passing_state
from sparsense.recipe.load import read_recipe
from sparsense.recipe.names import check_names
from sparsense.recipe.schema import Recipe
from sparsense.training.initial import open_network

RECIPE = """
name: tiny
network: {source: digits_resnet, weights: bundled}
data:
  train: {source: digits, split: train, limit: 160}
  calibration: {source: digits, split: calibration, limit: 30}
  test: {source: digits, split: test, limit: 60}
sensitivity: {samples: 40}
batch_norm: {samples: 100}
finetune: null
benchmark: {rounds: 6, batch_sizes: [1]}
"""
FINE_TUNING = {"finetune": {"epochs": 1, "batch_size": 32}}


def recipe(changes: dict[str, Any]) -> Recipe:
    """Without padding, which takes seconds to measure."""
    plain = {} if "prune.structure" in changes else {"prune.align": "none"}
    return check_names(read_recipe(RECIPE, plain | changes))


@contextmanager
def job(changes: dict[str, Any], state: State | None = None, progress: Any = lambda *_: None) -> Iterator[Job]:
    torch.manual_seed(0)
    asked = recipe(changes)
    data, network = load_data(asked, None), open_network(asked.network, None, asked.export.layout)
    record = kept_record(network, asked, data.train, progress, state)
    with passing_state() as passing:
        scorer = Scorer(asked, data.train, record)
        yield Job(asked, network, data.samples(), scorer, state or passing, progress)


def pruned(changes: dict[str, Any], state: State | None = None, progress: Any = lambda *_: None) -> Pruned:
    with job(changes, state, progress) as made:
        return make_smaller(made, stage=lambda *_: None)


def zeros(result: Pruned) -> dict[str, float]:
    """Weight -> share of zeros, output layer left out."""
    from sparsense.recording.layers import prunable_weights

    weights = prunable_weights(result.network.module)
    return {name: float((weight == 0).double().mean()) for name, weight in weights.items() if name != "fc.weight"}


def same(one: Pruned, other: Pruned) -> bool:
    """Whether two results are the same, bit for bit."""
    left, right = one.network.module.state_dict(), other.network.module.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
