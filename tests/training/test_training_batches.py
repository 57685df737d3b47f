"""Batches cover the data once per epoch; augmentations move pixels and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsense.data import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import InputError, UnknownNameError
from sparsense.training import AUGMENTATIONS, Batches


def numbered(count, size=8):
    """Images that are all different, in every pixel."""
    return torch.arange(count * size * size, dtype=torch.float32).reshape(count, 1, size, size), torch.arange(count)


@given(count=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 100))
def test_every_epoch_holds_every_sample_once_in_even_batches(count, batch_size, seed):
    batches = Batches(torch.arange(count)[:, None], torch.arange(count), batch_size=batch_size, seed=seed)
    for _ in range(2):
        epoch = list(batches)
        assert len(epoch) == len(batches)
        assert sorted(torch.cat([labels for _, labels in epoch]).tolist()) == list(range(count))
        assert all(torch.equal(inputs[:, 0], labels) for inputs, labels in epoch)
        sizes = [len(labels) for _, labels in epoch]
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1


def test_epochs_differ_and_the_same_seed_repeats_them():
    inputs, labels = numbered(50)
    orders = []
    for seed in (0, 0, 1):
        batches = Batches(inputs, labels, batch_size=50, seed=seed)
        orders.append([next(iter(batches))[1].tolist() for _ in range(2)])
    assert orders[0][0] != orders[0][1]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_a_data_set_is_preprocessed_once():
    dataset = Dataset("two", np.full((2, 4, 4, 3), 255, np.uint8), np.array([1, 0]))
    batches = Batches.of(dataset, Preprocessing(mean=(0.5,), std=(0.25,)), batch_size=2)
    inputs, _ = next(iter(batches))
    assert inputs.shape == (2, 3, 4, 4)
    torch.testing.assert_close(inputs, torch.full_like(inputs, 2.0))


def test_flip_mirrors_about_half_of_the_samples_as_a_whole():
    inputs, _ = numbered(400)
    flipped = AUGMENTATIONS["flip"](inputs, torch.Generator().manual_seed(0))
    mirrored = (flipped == inputs.flip(3)).flatten(1).all(1)
    kept = (flipped == inputs).flatten(1).all(1)
    assert bool((mirrored ^ kept).all())
    assert 150 < int(mirrored.sum()) < 250


def test_shift_moves_by_up_to_an_eighth_and_repeats_the_border():
    inputs, _ = numbered(300, size=16)
    shifted = AUGMENTATIONS["shift"](inputs, torch.Generator().manual_seed(0))
    padded = np.pad(inputs.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), "edge")
    crops = {(y, x): padded[:, :, y : y + 16, x : x + 16] for y in range(5) for x in range(5)}
    found = [next(at for at, crop in crops.items() if (crop[i] == shifted[i].numpy()).all()) for i in range(300)]
    assert set(found) == set(crops)


def test_augmentations_apply_in_order_and_leave_the_data_alone():
    inputs, labels = numbered(20)
    before = inputs.clone()
    batches = Batches(inputs, labels, batch_size=20, augment=["flip", "shift"], seed=3)
    first, second = next(iter(batches))[0], next(iter(batches))[0]
    assert torch.equal(inputs, before)
    assert first.shape == second.shape == inputs.shape
    assert not torch.equal(first.sort(0).values, second.sort(0).values)


def test_an_unknown_augmentation_is_named():
    with pytest.raises(UnknownNameError, match=r"unknown augmentation 'shfit'\. Did you mean 'shift'"):
        Batches(*numbered(2), batch_size=2, augment=["shfit"])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.zeros(3, 2), torch.zeros(2)), {"batch_size": 1}, "found 3 inputs, 2 labels"),
        ((torch.zeros(0, 2), torch.zeros(0)), {"batch_size": 1}, "found 0 inputs"),
        ((torch.zeros(3, 2), torch.zeros(3)), {"batch_size": 0}, "batch_size must be at least 1; found 0"),
        (
            (torch.zeros(3, 2), torch.zeros(3)),
            {"batch_size": 1, "augment": ["flip"]},
            r"for images \[N, C, H, W\]; found \[3, 2\]",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_refused(arguments, options, message):
    with pytest.raises(InputError, match=message):
        Batches(*arguments, **options)


def test_a_data_set_without_labels_is_refused():
    dataset = Dataset("bare", np.zeros((2, 4, 4, 1), np.uint8))
    with pytest.raises(InputError, match="training on 'bare': it has no labels"):
        Batches.of(dataset, Preprocessing(), batch_size=1)
