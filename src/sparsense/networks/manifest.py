"""What a checkpoint says besides its tensors, and how far a stranger's is believed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError
from pydantic_core import PydanticSerializationError
from torch import nn

from sparsense import __version__
from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import InputError, UnsafeFileError
from sparsense.networks.load import make_module
from sparsense.networks.network import NETWORKS, Task
from sparsense.networks.tensors import MAX_BYTES, read_limited

MAX_MANIFEST_BYTES = 4 * 2**20
MAX_INPUT = 2**22  # numbers in one sample
WIDTHS = {"in_channels", "out_channels", "groups", "num_features", "in_features", "out_features"}
Setting = bool | int | float | str | None | list[int] | list[float]


class Manifest(BaseModel):
    """How to make the module again: everything about it that its tensors do not tell."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    sparsense: str = __version__
    source: str
    options: dict[str, Any]
    task: Task
    input_shape: tuple[PositiveInt, ...] = Field(min_length=1, max_length=4)
    preprocessing: Preprocessing
    attributes: dict[str, dict[str, Setting]] = Field(description="module -> attribute -> value that was changed")
    sha256: str = Field(description="of the file of tensors")
    packed: dict[str, tuple[NonNegativeInt, ...]] = Field(
        default={}, description="tensors stored as bits and values -> their shapes"
    )
    probe: list[float] = Field(description="outputs for a fixed input, to recognise a class that has changed")


def to_json(manifest: Manifest) -> str:
    """The text of a manifest; `read_manifest` reads it back."""
    try:
        return manifest.model_dump_json(indent=1)
    except PydanticSerializationError as error:
        raise InputError(
            f"saving the network: its options {manifest.options} are not plain numbers and texts ({error}); "
            "let the source take plain ones"
        ) from error


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file, checked key by key."""
    content = read_limited(path, MAX_MANIFEST_BYTES, doing="reading the manifest")
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"reading the manifest {path}: {where}: {first['msg']}") from error


def check_source(manifest: Manifest, named: str | None, path: Path) -> None:
    """Nothing is imported because a file says so: what is not registered must be named by the caller as well."""
    found = manifest.source
    if named is not None and named != found:
        raise InputError(f"loading the network of {path}: it was made by {found!r}, not by {named!r}")
    if named is None and found not in NETWORKS:
        raise UnsafeFileError(
            f"loading the network of {path}: it asks to import {found!r}, which runs code. "
            f"Where you trust it, say so with source={found!r}."
        )
    if named is None:
        _check_size(manifest, path)


def _check_size(manifest: Manifest, path: Path) -> None:
    """Nothing big is made, and no module set to compute something big, because a file says so."""
    with torch.device("meta"):
        fresh = make_module(manifest.source, manifest.options)
    size = sum(tensor.nbytes for tensor in fresh.state_dict().values())
    if size > MAX_BYTES or math.prod(manifest.input_shape) > MAX_INPUT:
        raise UnsafeFileError(
            f"loading the network of {path}: it would need {size} bytes for inputs of {manifest.input_shape}; "
            f"allowed are {MAX_BYTES} bytes and inputs of {MAX_INPUT} numbers"
        )
    modules = dict(fresh.named_modules())
    for name, settings in manifest.attributes.items():
        known = {key for key in settings if key in WIDTHS or _follows_width(modules.get(name), key, settings[key])}
        if beyond := sorted(settings.keys() - known):
            raise UnsafeFileError(
                f"loading the network of {path}: it sets {name}.{beyond[0]}, which is no width. "
                f"Where you trust it, say so with source={manifest.source!r}."
            )


def _follows_width(module: nn.Module | None, key: str, value: Setting) -> bool:
    """Whether it is what a cut leaves of the sizes of an `Unflatten`: as many channels as the others allow, -1."""
    if key != "unflattened_size" or not isinstance(module, nn.Unflatten) or module.dim != 1:
        return False
    first, *others = module.unflattened_size
    plain = isinstance(value, list) and all(type(size) is int for size in value)
    return plain and isinstance(first, int) and -1 not in (first, *others) and value == [-1, *others]
