"""Weights from files: formats, wrappers, mismatches, hostile ones."""

import contextlib
import io
import os
import tempfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import safetensors.torch
import torch

from own_networks import masked, undeclared
from sparsense.errors import InputError, UnsafeFileError
from sparsense.networks import load_network, tensors

SHAPE = (3, 2, 2)


@pytest.fixture
def state():
    torch.manual_seed(1)
    return {name: tensor.clone() for name, tensor in undeclared().state_dict().items()}


def load(path):
    return load_network("own_networks:undeclared", input_shape=SHAPE, weights=path)


def test_safetensors_and_torch_files_give_the_same_numbers(state, tmp_path):
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        loaded = load(tmp_path / name).module.state_dict()
        assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {f"module.{name}": tensor for name, tensor in s.items()},
        lambda s: {"model": {f"module.{name}": tensor for name, tensor in s.items()}},
        lambda s: {f"_orig_mod.{name}": tensor for name, tensor in s.items()},
        lambda s: {name: tensor.double() for name, tensor in s.items()},
    ],
)
def test_common_wrappers_are_taken_off(state, tmp_path, wrap):
    torch.save(wrap(state), tmp_path / "w.pt")
    loaded = load(tmp_path / "w.pt").module.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path):
    torch.save({"weight": Bomb(tmp_path / "owned")}, tmp_path / "w.pt")
    with pytest.raises(UnsafeFileError, match=r"would run code \(it asks for posix.system\).*safetensors") as caught:
        load(tmp_path / "w.pt")
    assert not (tmp_path / "owned").exists()
    assert "weights_only=False" not in str(caught.value)


def test_a_whole_pickled_module_is_refused_with_the_way_out(tmp_path):
    torch.save(undeclared(), tmp_path / "w.pt")
    with pytest.raises(UnsafeFileError, match=r"holds more than tensors.*save its tensors alone"):
        load(tmp_path / "w.pt")


def test_differences_are_listed_a_few_at_a_time(state, tmp_path):
    state["1.bias"] = torch.zeros(4)
    for index in range(5):
        state[f"extra{index}"] = torch.zeros(1)
    del state["1.weight"]
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    message = (
        r"1 missing \(1.weight\); 5 unexpected \(extra0, extra1, extra2, ...\); "
        r"1 of another shape \(1.bias \[4\] instead of \[3\]\)"
    )
    with pytest.raises(InputError, match=message):
        load(tmp_path / "w.safetensors")


def test_missing_counters_of_batch_norms_are_fine_and_missing_statistics_are_not(tmp_path):
    state = load_network("digits_resnet").module.state_dict()
    slim = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    safetensors.torch.save_file(slim, tmp_path / "w.safetensors")
    load_network("digits_resnet", weights=tmp_path / "w.safetensors")
    del slim["bn1.running_var"]
    safetensors.torch.save_file(slim, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"1 missing \(bn1.running_var\)"):
        load_network("digits_resnet", weights=tmp_path / "w.safetensors")


def test_weights_from_before_and_after_the_rewriting_of_shortcuts_both_load(tmp_path):
    after = load_network("cifar_resnet20").module.state_dict()
    before = {name: tensor for name, tensor in after.items() if "shortcut" not in name}
    inputs = torch.randn(2, 3, 32, 32)
    outputs = []
    for name, state in (("before", before), ("after", after)):
        safetensors.torch.save_file(state, tmp_path / f"{name}.safetensors")
        outputs.append(load_network("cifar_resnet20", weights=tmp_path / f"{name}.safetensors").module(inputs))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_damaged_file_is_named(tmp_path, state, suffix):
    path = tmp_path / f"w.{suffix}"
    if suffix == "pt":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(InputError, match=rf"reading weights from .*w.{suffix}: not a whole"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken"])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_what_is_no_file_of_weights_is_refused(tmp_path, content, suffix):
    (tmp_path / f"w.{suffix}").write_bytes(content)
    with pytest.raises(InputError, match="reading weights from"):
        load(tmp_path / f"w.{suffix}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no\.safetensors: there is no such file"):
        load(tmp_path / "no.safetensors")


def test_what_is_not_a_state_dict_is_described(tmp_path):
    torch.save({"epoch": 3, "history": [1, 2]}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="expected tensors by name; found a dictionary with the keys epoch, history"):
        load(tmp_path / "w.pt")
    torch.save([1, 2], tmp_path / "w.pt")
    with pytest.raises(InputError, match="found list"):
        load(tmp_path / "w.pt")


def test_numbers_that_are_not_finite_are_named(tmp_path, state):
    state["1.bias"][1] = float("nan")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"tensor '1\.bias' holds NaN or infinity"):
        load(tmp_path / "w.safetensors")


def test_masks_of_infinity_are_read_where_the_network_has_them_itself(tmp_path):
    state = {name: tensor.clone() for name, tensor in masked().state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    read = load_network("own_networks:masked", weights=tmp_path / "w.safetensors").module.state_dict()
    assert all(torch.equal(read[key], state[key]) for key in state)
    for place, number in (((0, 0), float("-inf")), ((0, 1), float("inf")), ((1, 1), float("nan"))):
        spoiled = {**state, "mask": state["mask"].clone()}
        spoiled["mask"][place] = number
        safetensors.torch.save_file(spoiled, tmp_path / "w.safetensors")
        with pytest.raises(InputError, match="tensor 'mask' holds NaN or infinity"):
            load_network("own_networks:masked", weights=tmp_path / "w.safetensors")


def test_a_file_above_the_limit_is_refused_unread(tmp_path, state, monkeypatch):
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    monkeypatch.setattr(tensors, "MAX_BYTES", 100)
    with pytest.raises(UnsafeFileError, match="expected at most 100 bytes; found"):
        load(tmp_path / "w.safetensors")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@hypothesis.given(where=st.integers(0, 10**6), byte=st.integers(0, 255), legacy=st.booleans())
@hypothesis.settings(max_examples=60, deadline=None)
def test_a_file_with_a_wrong_byte_is_read_or_refused_and_never_crashes(where, byte, legacy):
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(3)}, buffer, _use_new_zipfile_serialization=not legacy)
    content = bytearray(buffer.getvalue())
    content[where % len(content)] = byte
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.pt"
        path.write_bytes(content)
        with contextlib.suppress(InputError):
            assert all(isinstance(value, torch.Tensor) for value in tensors.read_weights(path).values())
