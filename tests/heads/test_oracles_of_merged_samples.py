"""Oracles of heads that look at channels, for modules that put windows into the batch or run a layer twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsense.autodiff import weighted_layers
from sparsense.data.dataset import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import fit_head
from sparsense.graph import forward_graph, load_graph
from sparsense.heads import HEADS
from sparsense.networks.network import Network
from sparsense.oracles import oracle_scores
from sparsense.to_onnx import export_forward

ROWS = Preprocessing("ND", "float32", 1.0)


class Windows(nn.Module):
    """3 windows of 2 numbers are rows of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x.reshape(-1, 2))).reshape(-1, 3, 4).mean(1))


class Twice(nn.Module):
    """One layer runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(torch.relu(self.first(x)))))


@pytest.mark.parametrize("make", [Windows, Twice])
@pytest.mark.parametrize("name", ["gram", "gaia_z", "gaia_a"])
def test_the_oracle_sees_all_parts_of_a_sample(name: str, make: type[nn.Module]) -> None:
    torch.manual_seed(3)
    network = Network(make().eval(), ROWS, (6,), source="merged")
    graph = forward_graph(load_graph(export_forward(network)), ROWS)
    first, _ = weighted_layers(graph)
    assert first.order in ("outer", "inner")
    rows = np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32)
    scored = fit_head(graph, HEADS[name](), Dataset("fit", rows), preprocessing=ROWS)
    expected = oracle_scores(scored, network, 3 * rows[:20])
    assert expected.std() > 0
    np.testing.assert_allclose(scored.scores(3 * rows[:20]), expected, rtol=1e-4, atol=1e-4)
