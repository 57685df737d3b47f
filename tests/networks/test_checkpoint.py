"""A pruned network saved and made again: the same numbers, no pickle, nothing imported because a file says so."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from sparsense.errors import InputError, UnsafeFileError
from sparsense.networks import load_checkpoint, load_network, manifest, save_network
from sparsense.networks.network import example_input
from sparsense.pruning.groups import Side
from sparsense.pruning.surgery import cut_


def keep(parameter, indices, axis=0):
    parameter.data = parameter.data.index_select(axis, torch.as_tensor(indices)).clone()


def cut_norm(norm, indices):
    for name in ("weight", "bias", "running_mean", "running_var"):
        keep(getattr(norm, name), indices)
    norm.num_features = len(indices)


def cut_block(block, indices):
    """Keep these inner channels of a residual block."""
    keep(block.conv1.weight, indices)
    block.conv1.out_channels = len(indices)
    cut_norm(block.bn1, indices)
    keep(block.conv2.weight, indices, axis=1)
    block.conv2.in_channels = len(indices)


def pruned_digits():
    network = load_network("digits_resnet", weights="bundled")
    for block, width in zip(network.module.stages, (10, 11, 17), strict=True):
        cut_block(block, range(width))
    return network


def pruned_autoencoder():
    """From 8 to 4 channels: convolution, depthwise groups, group norm and transposed convolution."""
    network = load_network("own_networks:DepthwiseAutoencoder")
    module, indices = network.module, [0, 2, 4, 6]
    for parameter in (module.down.weight, module.down.bias, module.depthwise.weight, module.depthwise.bias):
        keep(parameter, indices)
    for parameter in (module.norm.weight, module.norm.bias, module.up.weight):
        keep(parameter, indices)
    module.down.out_channels = module.depthwise.in_channels = module.depthwise.out_channels = 4
    module.depthwise.groups = module.norm.num_channels = module.up.in_channels = 4
    module.norm.num_groups = 2
    return network


def pruned_attention():
    """One of four heads is gone: no shape says how many heads the rest is."""
    network = load_network("own_networks:Attention", options={"width": 16, "num_heads": 4})
    module, indices = network.module, list(range(12))
    for parameter in (module.patch.weight, module.patch.bias, module.norm.weight, module.norm.bias):
        keep(parameter, indices)
    rows = [16 * part + index for part in range(3) for index in indices]
    keep(module.qkv.weight, rows)
    keep(module.qkv.bias, rows)
    keep(module.qkv.weight, indices, axis=1)
    keep(module.head.weight, indices, axis=1)
    module.patch.out_channels = module.qkv.in_features = module.head.in_features = 12
    module.norm.normalized_shape = (12,)
    module.qkv.out_features, module.num_heads = 36, 3
    return network


PRUNED = {"digits": pruned_digits, "autoencoder": pruned_autoencoder, "attention": pruned_attention}


def named(network):
    return None if network.source == "digits_resnet" else network.source


@pytest.fixture
def saved(tmp_path):
    return save_network(pruned_digits(), tmp_path)


def edit(path, **changes):
    fields = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(fields | changes))


@torch.no_grad()
@pytest.mark.parametrize("make", PRUNED.values(), ids=PRUNED)
def test_the_reloaded_network_equals_the_saved_one_bit_for_bit(make, tmp_path):
    network = make()
    restored = load_checkpoint(save_network(network, tmp_path), source=named(network))
    inputs = example_input(network.input_shape, batch=5, seed=3)
    assert torch.equal(restored.module(inputs), network.module(inputs))
    assert {k: v.shape for k, v in restored.module.state_dict().items()} == {
        k: v.shape for k, v in network.module.state_dict().items()
    }
    for field in ("preprocessing", "input_shape", "task", "source", "options"):
        assert getattr(restored, field) == getattr(network, field)
    assert not restored.module.training


def test_every_attribute_matches_its_tensor(tmp_path):
    module = load_checkpoint(save_network(pruned_digits(), tmp_path)).module
    for block, width in zip(module.stages, (10, 11, 17), strict=True):
        assert (block.conv1.out_channels, block.bn1.num_features, block.conv2.in_channels) == (width,) * 3
    restored = load_checkpoint(save_network(pruned_attention(), tmp_path / "a"), source="own_networks:Attention").module
    assert (restored.num_heads, restored.norm.normalized_shape) == (3, (12,))
    assert repr(restored.qkv) == repr(nn.Linear(12, 36))


def test_it_can_be_pruned_and_saved_again(tmp_path):
    once = load_checkpoint(save_network(pruned_digits(), tmp_path / "once"))
    cut_block(once.module.stages[2], range(8))
    twice = load_checkpoint(save_network(once, tmp_path / "twice"))
    inputs = example_input(once.input_shape)
    assert torch.equal(twice.module(inputs), once.module(inputs))
    assert twice.module.stages[2].conv1.out_channels == 8


def test_it_can_be_trained_again(saved):
    module = load_checkpoint(saved).module
    module(example_input((1, 16, 16))).sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in module.parameters())


def test_tied_weights_stay_tied(tmp_path):
    network = load_network("own_networks:Tied")
    restored = load_checkpoint(save_network(network, tmp_path), source="own_networks:Tied").module
    assert restored.second.weight is restored.first.weight
    assert torch.equal(restored.first.weight, network.module.first.weight)


def test_a_fresh_process_needs_only_the_original_class(tmp_path):
    network = pruned_attention()
    save_network(network, tmp_path / "net")
    expected = network.module(example_input(network.input_shape, batch=3)).flatten().tolist()
    code = (
        "import sys, json; from sparsense.networks import load_checkpoint;"
        "from sparsense.networks.network import example_input;"
        "n = load_checkpoint(sys.argv[1], source='own_networks:Attention');"
        "assert 'torch_pruning' not in sys.modules;"
        "print(json.dumps(n.module(example_input(n.input_shape, batch=3)).flatten().tolist()))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(tmp_path / "net")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == pytest.approx(expected, rel=1e-6)


def test_a_path_may_be_a_folder_or_the_file_itself(tmp_path):
    network = pruned_digits()
    assert save_network(network, tmp_path / "run") == tmp_path / "run" / "network.safetensors"
    assert save_network(network, tmp_path / "small.safetensors") == tmp_path / "small.safetensors"
    assert {file.name for file in tmp_path.iterdir()} == {"run", "small.safetensors", "small.json"}
    assert load_checkpoint(tmp_path / "run").parameters == load_checkpoint(tmp_path / "small.safetensors").parameters


def test_a_class_that_keeps_hidden_state_is_refused_and_nothing_is_written(tmp_path):
    network = load_network("own_networks:Forgetful")
    network.module.hidden["scale"] = 2.0
    with pytest.raises(InputError, match="it computes something else; does a module keep state outside"):
        save_network(network, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_replaced_module_is_named(tmp_path):
    network = load_network("digits_resnet")
    network.module.stages[1].bn1 = nn.Identity()
    with pytest.raises(InputError, match=r"module 'stages.1.bn1' is a Identity, where the source makes a BatchNorm2d"):
        save_network(network, tmp_path)


def test_an_added_module_is_named(tmp_path):
    network = load_network("digits_resnet")
    network.module.extra = nn.Identity()
    with pytest.raises(InputError, match="module 'extra' is a Identity, where the source makes none"):
        save_network(network, tmp_path)


def test_options_that_are_no_plain_values_are_refused(tmp_path):
    network = load_network("digits_resnet")
    network.options = {"widths": (16, 32, 64), "classes": torch.tensor(10)}
    with pytest.raises(InputError, match="are not plain numbers and texts"):
        save_network(network, tmp_path)


def test_a_failed_write_leaves_the_old_network(saved, monkeypatch):
    before = {file: file.read_bytes() for file in saved.parent.iterdir()}
    network = pruned_digits()
    network.module.fc.bias.data += 1
    write = Path.write_text

    def full_disk(self, *arguments):
        write(self, "half")
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_network(network, saved)
    assert {file: file.read_bytes() for file in saved.parent.iterdir()} == before


def test_a_source_of_ones_own_is_not_imported_because_a_file_says_so(tmp_path):
    path = save_network(pruned_attention(), tmp_path)
    with pytest.raises(
        UnsafeFileError, match=r"asks to import 'own_networks:Attention'.*source='own_networks:Attention'"
    ):
        load_checkpoint(path)
    with pytest.raises(InputError, match="was made by 'own_networks:Attention', not by 'digits_resnet'"):
        load_checkpoint(path, source="digits_resnet")


@pytest.mark.parametrize("source", ["os:system", "subprocess:run", "timm:resnet18", "builtins:exec"])
def test_a_hostile_source_is_refused(saved, source, tmp_path):
    edit(saved, source=source, options={"command": f"touch {tmp_path}/owned"})
    with pytest.raises(UnsafeFileError, match="which runs code"):
        load_checkpoint(saved)
    assert not (tmp_path / "owned").exists()


def test_a_network_too_big_for_memory_is_refused_before_it_is_made(saved):
    edit(saved, options={"widths": [60000, 60000, 60000]})
    with pytest.raises(UnsafeFileError, match=r"it would need .* bytes for inputs of"):
        load_checkpoint(saved)
    edit(saved, options={}, input_shape=[1, 100000, 100000])
    with pytest.raises(UnsafeFileError, match=r"it would need .* bytes for inputs of"):
        load_checkpoint(saved)


def test_changed_tensors_are_noticed(saved):
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    with pytest.raises(UnsafeFileError, match=r"SHA-256 is not the one in network\.json"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, r"format: Input should be 1"),
        ({"surprise": 1}, r"surprise: Extra inputs are not permitted"),
        ({"task": "both"}, r"task: Input should be 'classifier' or 'reconstruction'"),
        ({"attributes": {"nowhere": {"groups": 3}}}, r"no plain attribute nowhere\.groups"),
        ({"attributes": {"conv1": {"groups": 3}}}, r"forward pass failed"),
        ({"input_shape": [1, -16, 16]}, r"input_shape\.1: Input should be greater than 0"),
        ({"options": {"widths": ["a", "b"]}}, r"with options .*: TypeError"),
        ({"options": {"nonsense": 1}}, r"unexpected keyword argument 'nonsense'"),
        ({"preprocessing": {"layout": "WWW"}}, r"preprocessing\.layout: Input should be 'NHWC'"),
        ({"preprocessing": {"nonsense": 1}}, r"preprocessing\.nonsense: Unexpected keyword"),
        ({"probe": [1.0, 2.0]}, r"'digits_resnet' no longer computes what was saved .*has its code changed\?"),
    ],
)
def test_a_manifest_that_cannot_be_followed_is_named(saved, changes, message):
    edit(saved, **changes)
    with pytest.raises(InputError, match=message):
        load_checkpoint(saved)


def test_a_file_sets_widths_and_nothing_else_unless_it_is_trusted(saved):
    edit(saved, attributes={"conv1": {"padding": [30000, 30000]}})
    with pytest.raises(UnsafeFileError, match=r"it sets conv1\.padding, which is no width.*source='digits_resnet'"):
        load_checkpoint(saved)
    for attribute in ("forward", "_buffers"):
        edit(saved, attributes={"fc": {attribute: 3}})
        with pytest.raises(InputError, match=rf"no plain attribute fc\.{attribute}"):
            load_checkpoint(saved, source="digits_resnet")


@pytest.fixture
def cut_decoder(tmp_path):
    """A decoder that unflattens 64 channels of 3 x 3, cut to 40 by pruning itself."""
    network = load_network("gradcon_vae")
    gone = torch.arange(64) >= 40
    cut_(network.module, {Side("decoder.0", "out"): gone.repeat_interleave(9), Side("decoder.3", "in"): gone})
    assert network.module.decoder[2].unflattened_size == (-1, 3, 3)
    return network, save_network(network, tmp_path)


def test_a_decoder_that_was_cut_comes_back_without_being_trusted(cut_decoder):
    network, path = cut_decoder
    restored = load_checkpoint(path)
    assert restored.module.decoder[2].unflattened_size == (-1, 3, 3)
    inputs = example_input(network.input_shape, batch=3, seed=1)
    assert torch.equal(restored.module(inputs)[0], network.module(inputs)[0])


@pytest.mark.parametrize(
    ("module", "size"),
    [
        ("decoder.2", [-1, 3000, 3000]),
        ("decoder.2", [64, -1, 3]),
        ("decoder.2", [-1, -1, 3]),
        ("decoder.2", [-1, 3]),
        ("decoder.2", [-1, 3, 3, 1]),
        ("decoder.2", [30000, 3, 3]),
        ("decoder.2", [-1.0, 3.0, 3.0]),
        ("decoder.2", []),
        ("decoder.2", -1),
        ("decoder.2", "(-1, 3, 3)"),
        ("decoder.1", [-1, 3, 3]),
        ("decoder", [-1, 3, 3]),
        ("nowhere", [-1, 3, 3]),
    ],
)
def test_other_sizes_of_an_unflattening_are_refused(cut_decoder, module, size):
    path = cut_decoder[1]
    edit(path, attributes={module: {"unflattened_size": size}})
    with pytest.raises(UnsafeFileError, match=rf"it sets {module}\.unflattened_size, which is no width"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["network.json", "network.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved.parent / name).unlink()
    with pytest.raises(InputError, match=f"{name}: there is no such file"):
        load_checkpoint(saved)


def test_limits_hold_for_both_files(saved, monkeypatch):
    monkeypatch.setattr(manifest, "MAX_MANIFEST_BYTES", 10)
    with pytest.raises(UnsafeFileError, match=r"network\.json: expected at most 10 bytes"):
        load_checkpoint(saved)


def test_loading_does_not_work_for_nothing(tmp_path, monkeypatch):
    """Files are read once; the network is made twice (once without memory, to see its size) and run three times."""
    network = load_network("cifar_resnet56")
    path = save_network(network, tmp_path)
    counts = Counter()

    def counted(owner, name):
        function = getattr(owner, name)

        def counting(*args, **options):
            counts[name] += 1
            return function(*args, **options)

        monkeypatch.setattr(owner, name, counting)

    counted(nn.Conv2d, "forward")
    counted(nn.Conv2d, "__init__")
    counted(Path, "read_bytes")
    load_checkpoint(path)
    layers = sum(isinstance(part, nn.Conv2d) for part in network.module.modules())
    assert layers == 57
    assert counts["forward"] <= 3 * layers
    assert counts["__init__"] <= 2 * layers
    assert counts["read_bytes"] == 2
