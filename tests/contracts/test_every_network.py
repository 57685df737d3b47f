"""Every registered network is tested by being registered."""

import pytest
import torch

from sparsense.networks import NETWORKS, load_checkpoint, load_network, save_network
from sparsense.networks.network import example_input
from sparsense.to_onnx import export_forward

SMALL = (
    "mnist_convnet",
    "toycar_autoencoder",
    "gradcon_autoencoder",
    "latent_norm_table",
)  # digits_resnet is exported in test_to_onnx.py
COLOURS = {"channels": 2}
OPTIONS = {  # of those that do not count classes
    "toycar_autoencoder": {"features": 32}, "latent_norm_table": {"features": 32}, "latent_norm_grey28": COLOURS,
    "latent_norm_colour32": COLOURS, "gradcon_autoencoder": COLOURS, "gradcon_vae": COLOURS,
    "unet_autoencoder": {**COLOURS, "side": 32, "skips": 2},
}  # fmt: skip
EXPORTS = [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]

every_network = pytest.mark.parametrize("name", NETWORKS)


@every_network
def test_it_declares_what_it_sees_and_keeps_samples_apart(name):
    network = load_network(name)
    inputs = example_input(network.input_shape, batch=3, seed=5)
    with torch.no_grad():
        together, alone = network.module(inputs), network.module(inputs[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))
    assert network.task in ("classifier", "reconstruction")


@every_network
def test_it_saves_and_reloads_exactly(name, tmp_path):
    network = load_network(name)
    with torch.no_grad():
        for parameter in network.module.parameters():
            parameter.mul_(1.01)
        restored = load_checkpoint(save_network(network, tmp_path))
        inputs = example_input(network.input_shape, seed=5)
        assert torch.equal(restored.module(inputs), network.module(inputs))


@every_network
def test_its_options_shape_it(name):
    options = OPTIONS.get(name, {"classes": 7})
    network = load_network(name, options=options)
    with torch.no_grad():
        output = network.module(example_input(network.input_shape))
    assert output.shape[1] == next(iter(options.values()))


@pytest.mark.parametrize("name", EXPORTS)
def test_it_exports_with_the_numbers_of_torch(name):
    network = load_network(name)
    proto = export_forward(network)
    initializers = {tensor.name for tensor in proto.graph.initializer}
    assert {name for name, _ in network.module.named_parameters()} <= initializers
