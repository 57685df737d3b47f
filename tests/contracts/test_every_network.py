"""Every registered network is tested by being registered."""

import pytest
import torch

from sparsense.graph import forward_graph, load_graph
from sparsense.heads.bottleneck import decoder_layers, find_code
from sparsense.networks import NETWORKS, load_checkpoint, load_network, save_network
from sparsense.networks.network import example_input
from sparsense.to_onnx import export_forward
from sparsense.training.objectives.gradcon import GradCon
from sparsense.training.objectives.parts import weights_of

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


AUTOENCODERS = [name for name in NETWORKS if getattr(NETWORKS[name], "task", "") == "reconstruction"]
IN_PARTS = [name for name in AUTOENCODERS if name != "toycar_autoencoder"]  # which has the names of published weights


@pytest.mark.parametrize("name", IN_PARTS)
def test_gradcon_is_trained_on_the_layers_that_its_head_looks_at(name):
    network = load_network(name)
    graph = forward_graph(load_graph(export_forward(network)), network.preprocessing, task="reconstruction")
    looked_at = {f"{layer.name}.weight" for layer in decoder_layers(graph, find_code(graph))}
    assert weights_of(network.module, GradCon().layers, doing="test").keys() == looked_at
