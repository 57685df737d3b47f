"""Predictions in batches, and the share of right ones."""

import numpy as np
import pytest
import torch

from sparsense.data import Dataset
from sparsense.errors import InputError
from sparsense.networks import load_network
from sparsense.training import accuracy, predict


@pytest.fixture(scope="module")
def network():
    return load_network("digits_resnet", weights="bundled")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (10, 16, 16, 1), np.uint8)


def test_predictions_are_those_of_the_module_for_any_batch_size(network, images):
    with torch.no_grad():
        expected = network.module(torch.from_numpy(network.preprocessing.apply(images))).numpy()
    for batch_size in (1, 3, 10, 100):
        np.testing.assert_allclose(predict(network, images, batch_size=batch_size), expected, rtol=1e-4, atol=1e-4)


def test_accuracy_is_the_share_of_right_answers(network, images):
    labels = predict(network, images).argmax(1).astype(np.int64)
    labels[:3] = (labels[:3] + 1) % 10
    assert accuracy(network, Dataset("some", images, labels)) == pytest.approx(0.7)


def test_accuracy_needs_labels(network, images):
    with pytest.raises(InputError, match="measuring accuracy on 'bare': it has no labels"):
        accuracy(network, Dataset("bare", images))


def test_a_module_left_in_training_mode_is_measured_in_evaluation_mode(network, images):
    expected = predict(network, images)
    network.module.train()
    np.testing.assert_array_equal(predict(network, images), expected)
