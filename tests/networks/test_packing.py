"""Bits and values instead of zeros: the same tensors, smaller files, and nothing hostile goes through."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from sparsense.errors import InputError, UnsafeFileError
from sparsense.networks import load_checkpoint, load_network, save_network
from sparsense.networks.packing import pack, packed_size, unpack
from sparsense.pruning.weights import select_weights
from sparsense.recording.layers import prunable_weights

DTYPES = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64])


def sparse(shape, zeros, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * 10
    return torch.where(torch.rand(shape, generator=generator) < zeros, 0.0, values).to(dtype)


@given(st.lists(st.integers(1, 9), max_size=4), st.floats(0, 1), DTYPES, st.integers(0, 99))
def test_what_is_packed_comes_back_bit_for_bit(shape, zeros, dtype, seed):
    tensors = {"a": sparse(shape, zeros, dtype, seed), "b/values": torch.ones(3), "c": torch.tensor(5)}
    stored, shapes = pack(tensors)
    found = unpack(stored, shapes, limit=2**20, doing="testing")
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_special_numbers_survive():
    tensor = torch.zeros(4096)
    tensor[:5] = torch.tensor([-0.0, float("inf"), float("nan"), -1e-45, 1e-45])
    stored, shapes = pack({"w": tensor})
    assert shapes == {"w": (4096,)}
    found = unpack(stored, shapes, limit=2**20, doing="testing")["w"]
    assert torch.equal(found.view(torch.int32), tensor.view(torch.int32))


@pytest.mark.parametrize("zeros", [0.0, 0.02, 0.5, 0.9, 0.99])
def test_the_predicted_size_is_that_of_the_file(zeros):
    tensor = sparse((64, 64, 3, 3), zeros, torch.float32, 0)
    stored, _ = pack({"w": tensor})
    predicted = packed_size(tensor, int(tensor.count_nonzero()))
    assert len(save(stored)) == pytest.approx(predicted, abs=200)
    assert predicted <= tensor.numel() * 4


def masked(sparsity):
    network = load_network("cifar_resnet20")
    saliency = {name: weight.abs() for name, weight in prunable_weights(network.module).items()}
    select_weights(network.module, saliency, sparsity=sparsity).apply_(network.module)
    return network


def test_a_masked_network_takes_less_room_and_computes_the_same(tmp_path):
    dense, network = masked(0.0), masked(0.9)
    whole, small = save_network(dense, tmp_path / "dense"), save_network(network, tmp_path / "masked")
    assert small.stat().st_size < 0.25 * whole.stat().st_size
    again = load_checkpoint(small)
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(again.module(x), network.module(x))
    for name, tensor in network.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], tensor), name


def test_a_masked_network_gives_its_weights_to_one_that_is_not(tmp_path):
    network = masked(0.9)
    again = load_network("cifar_resnet20", weights=save_network(network, tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(again.module.parameters(), network.module.parameters(), strict=True))
    with pytest.raises(InputError, match=r"into 'cifar_resnet32'.*"):
        load_network("cifar_resnet32", weights=tmp_path / "network.safetensors")


def test_it_can_be_pruned_again(tmp_path):
    again = load_checkpoint(save_network(masked(0.5), tmp_path))
    saliency = {name: weight.abs() for name, weight in prunable_weights(again.module).items()}
    mask = select_weights(again.module, saliency, sparsity=0.8)
    mask.apply_(again.module)
    assert mask.sparsity == pytest.approx(0.8, abs=1e-4)
    assert torch.isfinite(load_checkpoint(save_network(again, tmp_path)).module(torch.zeros(1, 3, 32, 32))).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w/values": torch.ones(3)}, "4 bits are set for 3 values"),
        ({"w/mask": torch.ones(1, dtype=torch.uint8)}, "should be 64 bits and a row of values"),
        ({"w/mask": torch.zeros(8)}, "should be 64 bits and a row of values"),
        ({"w/mask": None}, "the bits or values of 'w' are missing"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    mask = torch.tensor([15, 0, 0, 0, 0, 0, 0, 0], dtype=torch.uint8)
    stored = {"w/mask": mask, "w/values": torch.ones(4), **change}
    stored = {name: tensor for name, tensor in stored.items() if tensor is not None}
    with pytest.raises(InputError, match=f"testing: .*{message}"):
        unpack(stored, {"w": (8, 8)}, limit=2**20, doing="testing")


def test_bits_behind_the_end_are_refused():
    stored = {"w/mask": torch.tensor([128], dtype=torch.uint8), "w/values": torch.ones(1)}
    with pytest.raises(InputError, match="1 bits are set for 1 values"):
        unpack(stored, {"w": (3,)}, limit=100, doing="testing")


def test_a_manifest_cannot_ask_for_all_memory(tmp_path):
    save_network(masked(0.9), tmp_path)
    manifest = json.loads((tmp_path / "network.json").read_text())
    manifest["packed"]["linear.weight"] = [2**20, 2**20]
    (tmp_path / "network.json").write_text(json.dumps(manifest))
    with pytest.raises(UnsafeFileError, match="packed tensors would take up to"):
        load_checkpoint(tmp_path)
    assert any(key.endswith("/mask") for key in load_file(tmp_path / "network.safetensors"))
