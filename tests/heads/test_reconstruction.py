"""Heads of autoencoders: metrics, code and alignment against formulas."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from sparsense.data import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import fit_head
from sparsense.errors import GraphError, InputError, NotFittedError
from sparsense.graph import Builder, Session, forward_graph, load_graph
from sparsense.heads import HEADS
from sparsense.heads.bottleneck import decoder_layers, find_code
from sparsense.heads.similarity import gradient_dissimilarity, structural_dissimilarity
from sparsense.networks import Network, load_network
from sparsense.oracles import oracle_scores
from sparsense.to_onnx import export_forward
from sparsense.training.objectives import LatentNorm
from tiny_autoencoder import tiny_autoencoder, tiny_autoencoder_graph
from tiny_classifier import tiny_data, tiny_graph, tiny_images, tiny_network

IMAGES = tiny_images("fit", 40, seed=0, side=16)


def scored(name: str, **options: Any) -> Any:
    preprocessing = tiny_autoencoder().preprocessing
    return fit_head(tiny_autoencoder_graph(), HEADS[name](**options), IMAGES, preprocessing=preprocessing)


@pytest.mark.parametrize("metric", ["l1", "l2", "ssim", "ms_gms"])
def test_every_metric_agrees_with_its_oracle(metric: str) -> None:
    found = scored("reconstruction_error", metric=metric, window=7)
    expected = oracle_scores(found, tiny_autoencoder(), IMAGES.inputs)
    np.testing.assert_allclose(found.scores(IMAGES.inputs), expected, rtol=1e-5)


def dissimilarity(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = [ir.val(name, ir.DataType.FLOAT, ["N", *x.shape[1:]]) for name in "xy"]
    graph = ir.Graph(values, [], nodes=[], opset_imports={"": 20}, name="alike")
    op = Builder(graph)
    structural = structural_dissimilarity(op, *values, window=7, value_range=1.0)
    session = Session(ir.Model(graph, ir_version=10), [structural, gradient_dissimilarity(op, *values)])
    found = session({"x": x.astype(np.float32), "y": y.astype(np.float32)})
    return found[0], found[1]


def test_an_image_is_like_itself_and_unlike_its_negative() -> None:
    x = np.random.default_rng(0).random((3, 2, 24, 24))
    for found in dissimilarity(x, x):
        np.testing.assert_allclose(found, 0, atol=1e-6)
    structural, gradients = dissimilarity(x, 1 - x)
    assert (structural > 0.5).all()  # negative correlation
    np.testing.assert_allclose(gradients, 0, atol=1e-5)  # magnitudes do not know the sign


def test_dissimilarities_are_symmetric_and_grow_with_noise() -> None:
    random = np.random.default_rng(0)
    x, noise = random.random((3, 1, 24, 24)), random.standard_normal((3, 1, 24, 24))
    noisy = x + 0.5 * noise
    near, far, back = dissimilarity(x, x + 0.05 * noise), dissimilarity(x, noisy), dissimilarity(noisy, x)
    for near_, far_, back_ in zip(near, far, back, strict=True):
        assert (near_ < far_).all()
        np.testing.assert_allclose(back_, far_, rtol=1e-5)


def test_similarity_keeps_its_digits_where_images_are_bright_and_nearly_equal() -> None:
    from sparsense.oracles import reconstruction as oracle

    noise = np.random.default_rng(0).random((2, 3, 1, 24, 24)).astype(np.float32)
    x, y = np.float32(0.95) - np.float32(1e-3) * noise
    expected = oracle._ssim_error(torch.from_numpy(x).double(), torch.from_numpy(y).double(), 7, 1.0)
    np.testing.assert_allclose(dissimilarity(x, y)[0], expected, rtol=2e-5)


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(GraphError, match=r"expected \[N, C, H, W\] with sides of at least 17, found .*16, 16"):
        scored("reconstruction_error", metric="ssim", window=17)


def test_the_code_is_the_narrowest_value_and_can_be_named() -> None:
    network = tiny_autoencoder_graph()
    code = find_code(network)
    assert list(code.shape)[1:] == [2, 4, 4]
    assert [layer.name for layer in decoder_layers(network, code)] == ["decode1", "decode2"]
    assert find_code(network, code.name) is code
    with pytest.raises(GraphError, match="looking for the code 'z' of the autoencoder: found only"):
        scored("latent_norm", latent="z")


def test_the_code_may_be_wider_than_the_table() -> None:
    options = {"features": 3, "hidden": [16, 12], "latent": 5, "output": "sigmoid"}
    network = load_network("latent_norm_table", options=options)
    graph = forward_graph(load_graph(export_forward(network)), network.preprocessing, task="reconstruction")
    assert list(find_code(graph).shape)[1:] == [5]
    assert len(decoder_layers(graph, find_code(graph))) == 3
    table = Dataset("table", np.random.default_rng(0).random((9, 3), np.float32))
    found = fit_head(graph, HEADS["latent_norm"](beta=2.0), table, preprocessing=network.preprocessing)
    with torch.no_grad():
        expected = LatentNorm(beta=2.0).scores(network.module, torch.from_numpy(table.inputs))
    np.testing.assert_allclose(found.scores(table.inputs), expected.numpy(), rtol=1e-4)


def test_a_code_that_is_not_the_narrowest_value_is_named_by_its_part() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 5))
    decoder = nn.Sequential(nn.ReLU(), nn.Linear(5, 3), nn.Linear(3, 6))
    module = nn.Sequential(OrderedDict(encoder=encoder, decoder=decoder)).eval()
    network = Network(module, Preprocessing("ND", "float32", 1.0, (0.0,), (1.0,)), (6,), "reconstruction", "own")
    graph = forward_graph(load_graph(export_forward(network)), network.preprocessing, task="reconstruction")
    assert list(find_code(graph).shape)[1:] == [3]
    table = Dataset("table", np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32))
    found = fit_head(
        graph, HEADS["latent_norm"](beta=2.0, latent="encoder"), table, preprocessing=network.preprocessing
    )
    with torch.no_grad():
        expected = LatentNorm(beta=2.0).scores(module, torch.from_numpy(table.inputs)).numpy()
    np.testing.assert_allclose(found.scores(table.inputs), expected, rtol=1e-5)
    assert find_code(graph, "encoder.0").producer() is not find_code(graph, "encoder").producer()
    with pytest.raises(GraphError, match="code 'encode' of the autoencoder: found only"):
        find_code(graph, "encode")


def test_a_value_with_another_first_axis_than_the_samples_is_no_code() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.encoder, self.decoder = layer, nn.Linear(8, 3), nn.Linear(3, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.decoder(self.encoder(self.block(x.reshape(-1, 6, 8)))).reshape(-1, 48)

    torch.manual_seed(0)
    preprocessing = Preprocessing("ND", "float32", 1.0, (0.0,), (1.0,))
    network = Network(Tokens().eval(), preprocessing, (48,), "reconstruction", "own")
    graph = forward_graph(load_graph(export_forward(network)), preprocessing, task="reconstruction")
    assert list(find_code(graph).shape)[1:] == [6, 3]


def test_latent_norm_weighs_the_code() -> None:
    module = tiny_autoencoder().module
    x = torch.from_numpy(tiny_autoencoder().preprocessing.apply(IMAGES.inputs))
    with torch.no_grad():
        code = module.encode2(torch.relu(module.encode1(x))).flatten(1).norm(dim=1)
        error = (x - module(x)).flatten(1).norm(dim=1)
    for beta in (0, 0.5, 10):
        found = scored("latent_norm", beta=beta).scores(IMAGES.inputs)
        np.testing.assert_allclose(found, (error + beta * code).numpy(), rtol=1e-5)


@pytest.mark.parametrize("error", ["l1", "l2", "ssim", "ms_gms"])
def test_latent_norm_takes_the_error_of_its_training(error: str) -> None:
    network = tiny_autoencoder()
    objective = LatentNorm(beta=0.1, latent="encode2", error=error, amplify="element", window=5)
    x = torch.from_numpy(network.preprocessing.apply(IMAGES.inputs))
    with torch.no_grad():
        expected = objective.scores(network.module, x).numpy()
    found = scored("latent_norm", beta=0.1, error=error, window=5)
    np.testing.assert_allclose(found.scores(IMAGES.inputs), expected, rtol=2e-5)
    np.testing.assert_allclose(found.scores(IMAGES.inputs), oracle_scores(found, network, IMAGES.inputs), rtol=1e-5)


def test_gradcon_without_alignment_is_the_error() -> None:
    found = scored("gradcon", beta=0).scores(IMAGES.inputs)
    np.testing.assert_allclose(found, scored("reconstruction_error").scores(IMAGES.inputs), rtol=1e-5)


def test_gradcon_rewards_gradients_that_point_the_usual_way() -> None:
    one = IMAGES.subset([0])
    preprocessing = tiny_autoencoder().preprocessing
    head = HEADS["gradcon"](beta=1.0)
    found = fit_head(tiny_autoencoder_graph(), head, one, preprocessing=preprocessing)
    error = scored("reconstruction_error").scores(one.inputs)
    np.testing.assert_allclose(found.scores(one.inputs), error - 1, rtol=1e-4, atol=1e-5)  # its own gradient: cosine 1
    assert (found.scores(IMAGES.inputs) >= scored("reconstruction_error").scores(IMAGES.inputs) - 1 - 1e-5).all()


def test_gradcon_references_have_length_one_and_belong_to_the_decoder() -> None:
    state = scored("gradcon").head.state()
    assert list(state) == ["reference.decode1", "reference.decode2"]
    for direction in state.values():
        assert np.linalg.norm(direction) == pytest.approx(1)
    assert list(scored("gradcon", layers=["encode1"]).head.state()) == ["reference.encode1"]


def test_gradcon_asks_for_its_first_pass() -> None:
    network = tiny_autoencoder_graph().copy()
    with pytest.raises(NotFittedError, match="head 'gradcon' has no mean gradient"):
        HEADS["gradcon"]().observe(network)


def test_heads_and_networks_of_different_kinds_are_kept_apart() -> None:
    with pytest.raises(InputError, match="it is for a classifier, and this network is a reconstruction"):
        scored("energy")
    with pytest.raises(InputError, match="it is for a reconstruction, and this network is a classifier"):
        fit_head(
            tiny_graph(),
            HEADS["gradcon"](),
            tiny_data("fit", 20, seed=0),
            preprocessing=tiny_network().preprocessing,
        )
    with pytest.raises(ValueError, match="for the same kind of network; got classifier, reconstruction"):
        HEADS["fusion"](members=["energy", "gradcon"])


def test_heads_of_autoencoders_can_be_fused() -> None:
    found = scored("fusion", members=["reconstruction_error", "latent_norm", "gradcon"])
    expected = oracle_scores(found, tiny_autoencoder(), IMAGES.inputs)
    scale = np.maximum(np.abs(expected), expected.std())
    assert (np.abs(found.scores(IMAGES.inputs) - expected) / scale).max() < 2e-5


@pytest.mark.parametrize("options", [{"structure": "channel"}, {"p": [1.0, float("inf")], "layers": ["encode1"]}])
def test_every_option_of_the_profile_agrees_with_its_oracle(options: dict[str, Any]) -> None:
    found = scored("reconstruction_profile", **options)
    expected = oracle_scores(found, tiny_autoencoder(), IMAGES.inputs)
    np.testing.assert_allclose(found.scores(IMAGES.inputs), expected, rtol=1e-5)


def test_the_profile_is_a_distance_to_its_fitting_data_in_either_direction() -> None:
    found = scored("reconstruction_profile", shrinkage=0.0)
    width = found.head.state()["means"].shape[1]
    assert found.scores(IMAGES.inputs).mean() == pytest.approx(width, rel=0.05)  # E (v - mu)^T C^-1 (v - mu)
    v = Session(found.network.model, [found.observed])(IMAGES.inputs)[0]
    errors = scored("reconstruction_error").scores(IMAGES.inputs)
    np.testing.assert_allclose(v[:, 0], np.log(errors), rtol=1e-5)
    mirrored = 2 * found.head.state()["means"] - v.astype(np.float64)
    centred = (mirrored - found.head.state()["means"]) @ found.head.state()["whitening"].T
    np.testing.assert_allclose(np.square(centred).sum(1), found.scores(IMAGES.inputs), rtol=1e-3)
