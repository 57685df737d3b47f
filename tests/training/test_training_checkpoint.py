"""A run that was stopped between epochs and goes on in fresh objects ends like one that was not, bit for bit."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sparsense.errors import InputError
from sparsense.training.batches import Batches
from sparsense.training.checkpoint import load_training, save_training
from sparsense.training.loop import Training, train
from sparsense.training.objectives import CrossEntropy
from sparsense.training.settings import TrainingSettings


def start(optimizer, epochs=4):
    torch.manual_seed(3)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 3)
    )
    inputs, labels = torch.randn(30, 1, 8, 8), torch.arange(30) % 3
    batches = Batches(inputs, labels, batch_size=8, augment=["shift", "flip"], seed=5)
    settings = TrainingSettings(epochs=epochs, learning_rate=0.01, optimizer=optimizer, seed=7)
    return Training(module, CrossEntropy(), batches, settings)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_going_on_ends_the_same_bit_for_bit(optimizer, tmp_path):
    whole = start(optimizer)
    losses = train(whole.module, whole.objective, whole.batches, settings=whole.settings)
    for _ in range(4):
        part = start(optimizer)
        if (tmp_path / "t.safetensors").exists():
            assert load_training(part, tmp_path / "t.safetensors") == {"step": 3}
        torch.randn(11)  # what else the process draws does not matter
        part.epoch()
        save_training(part, tmp_path / "t.safetensors", step=3)
    assert part.done
    assert part.losses == losses
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(part.module.state_dict()[name], tensor), name


def test_random_numbers_outside_are_left_alone():
    torch.manual_seed(1)
    expected = torch.randn(3)
    training = start("sgd")
    torch.manual_seed(1)
    training.epoch()
    assert torch.equal(torch.randn(3), expected)
    assert not any(part.training for part in training.module.modules())


def test_another_file_is_refused(tmp_path):
    save_file({"module/0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"is not in the format 'sparsense\.training\.1'"):
        load_training(start("sgd"), tmp_path / "other.safetensors")
