"""The forward graph: its form, its numbers, and what is refused."""

import logging
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from sparsense import to_onnx
from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import ExportError
from sparsense.networks import load_network
from sparsense.networks.network import Network, example_input
from sparsense.to_onnx import export_forward

OWN = "own_networks"


@pytest.fixture(scope="module")
def network():
    return load_network("digits_resnet", weights="bundled")


@pytest.fixture(scope="module")
def proto(network):
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    proto = export_forward(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.module.state_dict().items())
    assert not network.module.training
    return proto


@pytest.fixture(scope="module")
def small():
    return load_network(f"{OWN}:small_convolution")


def run(proto, inputs):
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": inputs.numpy()})[0]


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_numbers_are_those_of_torch_for_any_batch(network, proto, batch):
    inputs = example_input(network.input_shape, batch=batch, seed=11)
    with torch.no_grad():
        expected = network.module(inputs).numpy()
    np.testing.assert_allclose(run(proto, inputs), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_one_float_input_with_a_free_batch_and_one_output(proto):
    onnx.checker.check_model(proto, full_check=True)
    (given,), (output,) = proto.graph.input, proto.graph.output
    assert (given.name, output.name) == ("input", "output")
    dimensions = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
    assert dimensions == ["batch", 1, 16, 16]
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == ["batch", 10]
    assert given.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_initializers_are_the_parameters_by_name(network, proto):
    own = network.module.state_dict()
    named = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for name in dict(network.module.named_parameters()):
        np.testing.assert_array_equal(named[name], own[name].numpy())


def test_nodes_are_named_by_layer_and_only_compute_what_the_network_does(proto):
    names = [node.name for node in proto.graph.node]
    assert len(set(names)) == len(names)
    assert {"conv1/Conv", "stages.1.shortcut.0/Conv", "stages.0/Relu", "fc/Gemm"} <= set(names)
    kinds = {node.op_type for node in proto.graph.node}
    assert kinds == {"Conv", "BatchNormalization", "Relu", "Add", "ReduceMean", "Reshape", "Gemm"}
    assert {node.domain for node in proto.graph.node} == {""}
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 20)]


def test_no_paths_notes_or_code_of_its_making_are_left(proto):
    assert not proto.metadata_props
    assert not proto.functions
    everything = [proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.value_info]
    for item in (*everything, *proto.graph.initializer):
        assert not item.metadata_props
        assert not item.doc_string
    content = proto.SerializeToString()
    assert b".py" not in content
    assert b"pkg.torch" not in content
    assert (proto.producer_name, proto.graph.name) == ("sparsense", "digits_resnet")


def test_height_and_width_can_be_free(small):
    proto = export_forward(small, dynamic_spatial=True)
    dimensions = [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    assert dimensions == ["batch", 1, "height", "width"]
    inputs = example_input((1, 24, 40), batch=3)
    with torch.no_grad():
        np.testing.assert_allclose(run(proto, inputs), small.module(inputs).numpy(), rtol=1e-4, atol=1e-4)


def test_free_height_and_width_need_images():
    network = load_network("toycar_autoencoder", options={"features": 16})
    with pytest.raises(ExportError, match=r"dynamic_spatial needs inputs \(C, H, W\); found \(16,\)"):
        export_forward(network, dynamic_spatial=True)


def test_activations_in_place_are_exported_as_what_they_compute():
    network = load_network(f"{OWN}:inplace")
    inputs = example_input(network.input_shape, batch=3, seed=9)
    with torch.no_grad():
        expected = network.module(inputs).numpy()
    np.testing.assert_allclose(run(export_forward(network), inputs), expected, rtol=1e-5, atol=1e-6)
    assert network.module.activation.inplace is True


def test_a_changed_weight_is_noticed(small, monkeypatch):
    clean = to_onnx._clean

    def and_spoil(model, name):
        clean(model, name)
        bias = model.graph.initializers["3.bias"]
        bias.const_value = to_onnx.ir.tensor(bias.const_value.numpy() + np.float32(1e-3))

    monkeypatch.setattr(to_onnx, "_clean", and_spoil)
    with pytest.raises(ExportError, match=r"for 1 random inputs the graph differs .* relative") as caught:
        export_forward(small)
    assert 1e-5 < caught.value.worst < 1e-2


def test_a_network_with_random_output_is_refused():
    with pytest.raises(ExportError, match="depend on anything but its own sample") as caught:
        export_forward(load_network(f"{OWN}:random_output"))
    assert caught.value.worst > 0.01


@pytest.mark.parametrize(
    ("name", "reason"), [("reads_values", "data-dependent"), ("unsupported_operator", "No ONNX function found")]
)
def test_a_network_that_cannot_be_traced_is_refused_with_the_cause(name, reason):
    message = rf"network 'own_networks:{name}': torch could not trace it with free axes \(batch\): .*{reason}"
    with pytest.raises(ExportError, match=message) as caught:
        export_forward(load_network(f"{OWN}:{name}"))
    assert isinstance(caught.value.__cause__, torch.onnx.OnnxExporterError)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mixes_batch", r"for 2 random inputs the graph returns \[2, 4\], torch \[4, 2\] sample by sample"),
        ("looks_at_others", r"for 2 random inputs the graph differs from torch .* \(others of the batch"),
    ],
)
def test_a_network_whose_samples_know_of_each_other_is_refused(name, message):
    with pytest.raises(ExportError, match=message):
        export_forward(load_network(f"{OWN}:{name}"))


def test_after_a_failed_export_the_next_is_good_and_silent_and_warnings_and_logs_are_as_they_were(small, capfd, caplog):
    caplog.set_level(17, logger="torch")
    filters = list(warnings.filters)
    with pytest.raises(ExportError):
        export_forward(load_network(f"{OWN}:reads_values"))
    export_forward(small)
    assert capfd.readouterr() == ("", "")
    assert (logging.getLogger("torch").level, warnings.filters) == (17, filters)
    assert not caplog.records


@pytest.mark.parametrize(("bias", "refused"), [(-90.0, False), (0.0, True)])
def test_a_reconstruction_is_judged_on_the_scale_of_its_input(bias, refused, monkeypatch):
    """exp(-90) is 0 in ONNX Runtime's sigmoid and not in torch's, and nothing beside inputs of size 1."""
    layer = nn.Linear(6, 6)
    nn.init.constant_(layer.bias, bias)
    rows = Preprocessing("ND", "float32", 1.0, (0.0,), (1.0,))
    saturated = Network(nn.Sequential(layer, nn.Sigmoid()).eval(), rows, (6,), "reconstruction", "saturated", {})
    if not refused:
        export_forward(saturated)
        return
    monkeypatch.setattr(to_onnx, "_one_by_one", lambda module, inputs: module(inputs).detach().numpy() + 0.01)
    with pytest.raises(ExportError, match="the graph differs from torch"):
        export_forward(saturated)
