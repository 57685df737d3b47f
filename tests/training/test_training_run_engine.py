"""The precision and the accelerator that a section of a recipe asks for are those of the training."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from sparsense.recipe.training import TrainingSection
from sparsense.training.engine import Alone, Distributed
from sparsense.training.evaluate import accuracy
from sparsense.training.objectives import Context
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


def test_finetuning_goes_where_the_section_says() -> None:
    """`auto` takes what is there, through Fabric; the teacher of the distillation comes along."""
    pytest.importorskip("lightning_fabric")
    found = {}
    for accelerator, kind in (("cpu", Alone), ("auto", Distributed)):
        network, context = deepcopy(tiny_network()), Context(teacher=deepcopy(tiny_network().module))
        section = TrainingSection.model_validate(
            {"epochs": 1, "learning_rate": 0.01, "accelerator": accelerator, "objective": "distillation"}
        )
        data = tiny_data("train", 40, seed=0)
        training = make_training(network, network.module, data, section, seed=0, context=context)
        assert isinstance(training.engine, kind)
        found[accelerator] = training.epoch(), accuracy(network, data), network.module.cpu().state_dict()
    assert found["cpu"][:2] == pytest.approx(found["auto"][:2], rel=1e-3)
    torch.testing.assert_close(found["cpu"][2], found["auto"][2], rtol=1e-3, atol=1e-4)
