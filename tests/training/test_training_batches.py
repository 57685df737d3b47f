"""Batches cover the data once per epoch; augmentations move pixels and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsense.data import SOURCES, Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import InputError, UnknownNameError
from sparsense.networks import load_network
from sparsense.recipe.training import ObjectiveSection, TrainingSection
from sparsense.training import AUGMENTATIONS, Batches
from sparsense.training.batches import Augmented
from sparsense.training.objectives import Context
from sparsense.training.run import training_parts


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


def test_outliers_are_augmented_anew_whenever_they_are_taken():
    images = torch.rand(6, 1, 16, 16)
    chosen = torch.tensor([4, 4, 1, 4, 4, 4, 4, 4])
    found = Augmented(images, ["flip"])[chosen]
    mirrored = [bool((sample != images[index]).any()) for sample, index in zip(found, chosen, strict=True)]
    assert 0 < sum(mirrored) < len(chosen)
    for sample, index, other_way in zip(found, chosen, mirrored, strict=True):
        torch.testing.assert_close(sample.flip(2) if other_way else sample, images[index])
    assert len(Augmented(images, ["flip"])) == 6
    torch.testing.assert_close(Augmented(images, [])[chosen], images[chosen])
    with pytest.raises(InputError, match=r"augmentations shift are for images"):
        Augmented(torch.rand(3, 4), ["shift"])


@pytest.mark.parametrize("name", ["outlier_exposure", "energy_fine_tuning", "gradient_regularization"])
def test_a_section_augments_its_outliers_like_its_samples(name):
    """One outlier, an image that is not its own mirror: both of its forms are seen, none other."""
    outlier, seen = torch.arange(256.0).reshape(1, 1, 16, 16), []

    def module(inputs):
        seen.extend(inputs[4:].detach())
        return inputs.flatten(1)[:, :10] * 0 + torch.arange(10.0)

    network = load_network("digits_resnet")
    section = TrainingSection(batch_size=4, augment=["flip"], objective=ObjectiveSection(name=name))
    data = SOURCES["digits"]("train", limit=40)
    made, batches, _ = training_parts(network, data, section, seed=0, context=Context(outliers=outlier))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for batch in batches:
            made(module, batch)
    forms = [bool(torch.equal(sample, outlier[0])) for sample in seen]
    assert 0 < sum(forms) < len(forms)
    assert all(form or torch.equal(sample.flip(2), outlier[0]) for form, sample in zip(forms, seen, strict=True))
