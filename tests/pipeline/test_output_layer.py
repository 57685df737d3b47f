"""The layer that makes the output keeps its weights, wherever the network registered it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsense.criteria import CRITERIA
from sparsense.data.preprocessing import Preprocessing
from sparsense.networks.network import Network
from sparsense.pipeline.masks import step_mask
from sparsense.pruning.dry_run import dry_run_weights
from sparsense.pruning.mask import Mask
from sparsense.pruning.search import MaskSearch
from sparsense.recipe.prune import PruneSection
from sparsense.recording.layers import prunable_weights


class HeadFirst(nn.Module):
    """Registered in another order than it runs in."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.hidden, self.first = nn.Linear(6, 3), nn.Linear(8, 6), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.first(x).relu()).relu())


def network() -> Network:
    torch.manual_seed(0)
    return Network(HeadFirst().eval(), Preprocessing(layout="ND", dtype="float32"), (4,), "classifier", "own", {})


def test_masks_of_recipes_leave_it_alone():
    dense = network()
    saliency = CRITERIA["magnitude"](prunable_weights(dense.module))
    section = PruneSection(structure="weight", sparsity=0.5)
    mask = step_mask(dense, saliency, section, 0.5, gone=Mask({}))
    assert set(mask.keep) == {"hidden.weight", "first.weight"}


def test_the_dry_run_says_so():
    dense = network()
    reasons = {row.producers[0]: row.left_alone for row in dry_run_weights(dense.module, torch.zeros(1, 4)).rows}
    assert reasons["head"]
    assert not reasons["first"]
    assert not reasons["hidden"]


def test_learnt_masks_leave_it_alone():
    search = MaskSearch(network().module, sparsity=0.5, example_input=torch.zeros(1, 4))
    assert set(search.names) == {"hidden.weight", "first.weight"}
