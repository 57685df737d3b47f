"""The precision that a section of a recipe asks for is the one that is trained in."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from sparsense.recipe.training import TrainingSection
from sparsense.training.run import make_training
from tiny_classifier import tiny_data, tiny_network


@pytest.mark.parametrize(("precision", "dtype"), [("32", torch.float32), ("bf16", torch.bfloat16)])
def test_forward_passes_are_of_the_asked_precision(precision: str, dtype: torch.dtype) -> None:
    network = deepcopy(tiny_network())  # other tests share it
    seen: set[torch.dtype] = set()  # in training; what is checked after an epoch is always in single precision

    def note(layer: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        if layer.training:
            seen.add(output.dtype)

    for layer in network.module.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(note)
    section = TrainingSection.model_validate({"epochs": 1, "precision": precision})
    make_training(network, network.module, tiny_data("train", 40, seed=0), section, seed=0).epoch()
    assert seen == {dtype}
    assert all(parameter.dtype == torch.float32 for parameter in network.module.parameters())
