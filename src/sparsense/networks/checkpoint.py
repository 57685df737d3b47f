"""A pruned network in two files without a pickle: its tensors, and how to make the class they belong to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as write_safetensors
from torch import Tensor, nn

from sparsense.errors import InputError, UnsafeFileError
from sparsense.files import atomic_write
from sparsense.networks.learnt_behind import encoding_metadata
from sparsense.networks.load import build
from sparsense.networks.manifest import Manifest, Setting, check_source, read_manifest, to_json
from sparsense.networks.network import Network, check_forward
from sparsense.networks.packing import pack, unpack
from sparsense.networks.tensors import (
    MAX_BYTES,
    load_weights,
    parse_tensors,
    read_limited,
    with_remembered,
    without_remembered,
)


def save_network(network: Network, path: str | Path) -> Path:
    """Write a network as tensors (`.safetensors`) and a manifest (`.json`) beside them.

    Tensors with many zeros are stored as one bit per number and the numbers that are not zero, where that is smaller.

    Before anything takes its place on disk, the network is made again from the two and must give the same
    numbers, bit for bit.

    Args:
        network: As it came from `load_network`; pruned, trained, or not.
        path: A folder (the files are called `network`), or the name of the `.safetensors` file.

    Returns:
        The file of tensors.

    Raises:
        InputError: The module has changed in a way that tensors and plain attributes cannot tell.
    """
    tensors_path, manifest_path = _paths(path)
    stored, shapes = pack(with_remembered(network.module.state_dict(), network.remembered))
    content = write_safetensors(stored, encoding_metadata(network.preprocessing.columns))
    text = to_json(_describe(network, content, shapes))
    _check_same(network, _restore(Manifest.model_validate_json(text), content, tensors_path), tensors_path)
    with atomic_write(tensors_path) as tensors_file, atomic_write(manifest_path) as manifest_file:
        tensors_file.write_bytes(content)
        manifest_file.write_text(text, "utf-8")
    return tensors_path


def load_checkpoint(path: str | Path, *, source: str | None = None) -> Network:
    """Make a saved network again; its parameters get the shapes they have in the file.

    Args:
        path: What `save_network` was given, or returned.
        source: Needed when the manifest names a function of your own, `package.module:function`: importing
            it runs code, so it must be named by you, not only by the file.

    Raises:
        UnsafeFileError: A source that was not named, a file above its limit, or tensors of another manifest.
        InputError: Files missing, damaged, or not made by a version that wrote this format.
    """
    tensors_path, manifest_path = _paths(path)
    manifest = read_manifest(manifest_path)
    check_source(manifest, source, manifest_path)
    content = read_limited(tensors_path, MAX_BYTES, doing="loading the network from")
    if hashlib.sha256(content).hexdigest() != manifest.sha256:
        raise UnsafeFileError(
            f"loading the network from {tensors_path}: its SHA-256 is not the one in {manifest_path.name}; "
            "one of the two files was changed or belongs to another network"
        )
    network = _restore(manifest, content, tensors_path)
    _check_probe(network, manifest, tensors_path)
    return network


def _paths(path: str | Path) -> tuple[Path, Path]:
    path = Path(path)
    tensors = path if path.suffix == ".safetensors" else path / "network.safetensors"
    return tensors, tensors.with_suffix(".json")


def _describe(network: Network, content: bytes, packed: dict[str, tuple[int, ...]]) -> Manifest:
    fresh = build(network.source, network.options, network.preprocessing, network.input_shape, network.task)[0]
    return Manifest(
        source=network.source,
        options=dict(network.options),
        task=network.task,
        input_shape=network.input_shape,
        preprocessing=network.preprocessing,
        attributes=dict(_changed_attributes(fresh.module, network.module)),
        sha256=hashlib.sha256(content).hexdigest(),
        packed=packed,
        probe=_probe(network),
    )


def _changed_attributes(fresh: nn.Module, module: nn.Module) -> Iterator[tuple[str, dict[str, Setting]]]:
    """Per module, the plain attributes that differ: out_channels, groups, num_heads and the like."""
    originals = dict(fresh.named_modules())
    for name, changed in module.named_modules():
        original = originals.get(name)
        if original is None or type(original) is not type(changed):
            raise InputError(
                f"saving the network: module {name!r} is a {type(changed).__name__}, where the source makes "
                f"{'none' if original is None else f'a {type(original).__name__}'}; make the source return it"
            )
        settings = {key: value for key, value in _settings(changed) if vars(original).get(key) != value}
        if settings:
            yield name, settings


def _settings(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for key, value in vars(module).items():
        plain = isinstance(value, bool | int | float | str | None) or (
            isinstance(value, tuple | list) and all(isinstance(item, int | float) for item in value)
        )
        if plain and not key.startswith("_") and key != "training":
            yield key, value


def _restore(manifest: Manifest, content: bytes, path: Path) -> Network:
    network, _ = build(manifest.source, manifest.options, manifest.preprocessing, manifest.input_shape, manifest.task)
    doing = f"loading the network from {path}"
    unpacked = unpack(parse_tensors(content, path), manifest.packed, limit=MAX_BYTES, doing=doing)
    tensors, network.remembered = without_remembered(unpacked)
    _resize(network.module, tensors)
    _set_attributes(network.module, manifest.attributes, path)
    load_weights(network.module, tensors, optional=(), doing=doing)
    return network


def _resize(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give every parameter and buffer the shape of its tensor; tied parameters stay tied."""
    for name, own in module.state_dict(keep_vars=True).items():
        if name in tensors and own.shape != tensors[name].shape:
            own.data = torch.empty_like(tensors[name], dtype=own.dtype)


def _set_attributes(module: nn.Module, attributes: Mapping[str, Mapping[str, Setting]], path: Path) -> None:
    modules = dict(module.named_modules())
    for name, settings in attributes.items():
        known = dict(_settings(modules[name])) if name in modules else {}
        for key, value in settings.items():
            if key not in known:
                raise InputError(f"loading the network from {path}: its class has no plain attribute {name}.{key}")
            container = type(known[key]) if isinstance(known[key], list) else tuple
            setattr(modules[name], key, container(value) if isinstance(value, list) else value)


def _probe(network: Network) -> list[float]:
    output: list[float] = check_forward(network).flatten()[:32].tolist()
    return output


def _check_same(network: Network, restored: Network, path: Path) -> None:
    if _probe(network) != _probe(restored):
        raise InputError(
            f"saving the network to {path}: made again from its tensors it computes something else; "
            "does a module keep state outside its parameters, buffers and plain attributes?"
        )


def _check_probe(network: Network, manifest: Manifest, path: Path) -> None:
    expected, found = torch.tensor(manifest.probe), torch.tensor(_probe(network))
    if expected.shape != found.shape or not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * _scale(expected)):
        raise InputError(
            f"loading the network from {path}: {manifest.source!r} no longer computes what was saved "
            f"(sparsense {manifest.sparsense}); has its code changed?"
        )


def _scale(tensor: Tensor) -> float:
    return float(tensor.abs().max())
