"""From a name, weights and options to a network that was seen to work."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from torch import nn

from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import InputError, UnknownNameError
from sparsense.networks.learnt_behind import read_encoding
from sparsense.networks.network import FORWARD_ERRORS, NETWORKS, Network, Task, check_forward, example_input
from sparsense.networks.packing import unpack_like
from sparsense.networks.shortcuts import rewrite_pad_shortcuts
from sparsense.networks.tensors import check_finite, load_weights, read_weights, without_remembered
from sparsense.networks.zoo import ZOOS


def load_network(
    source: str,
    *,
    weights: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    input_shape: tuple[int, ...] | None = None,
    task: Task | None = None,
) -> Network:
    """Make a network, in evaluation mode and float32, with its shortcuts prunable and its forward pass tried.

    Shortcuts that pad channels are replaced by convolutions that equal them bit for bit
    (see `rewrite_pad_shortcuts`), so the parameter count grows by those identity weights.

    Args:
        source: A registered name, `package.module:function`, `timm:NAME`, `torchvision:NAME` or
            `transformers:NAME`.
        weights: A `.safetensors` file, a `torch.save`d state dict, `"bundled"` (the weights that come with
            sparsense), or None: as the function made them.
        options: Keyword arguments of the function.
        preprocessing: Default: what the module declares as `preprocessing`; else pixels to [0, 1].
        input_shape: `(C, H, W)` or `(D,)`. Default: what the module declares as `input_shape`.
        task: Default: what the module declares as `task`; else `classifier`.

    Raises:
        UnknownNameError: `source` is not registered.
        InputError: The function, its options, the weights or the forward pass do not fit.
        UnsafeFileError: The weights are a pickle of more than tensors.
        MissingExtraError: A source that is not installed.

    Example:
        >>> load_network("digits_resnet", weights="bundled").input_shape
        (1, 16, 16)
    """
    network, rewritten = build(source, options or {}, preprocessing, input_shape, task)
    if weights is not None:
        path = bundled_weights(source) if weights == "bundled" else Path(weights)
        optional = [f"{name}.weight" for name in rewritten]
        doing = f"loading {path} into {source!r}"
        given, network.remembered = without_remembered(read_weights(path))
        network = network.for_columns(read_encoding(path))
        tensors = unpack_like(network.module.state_dict(), given, doing=doing)
        check_finite({**tensors, **network.remembered}, network.module, doing=doing)
        load_weights(network.module, tensors, optional=optional, doing=doing)
    check_forward(network)
    return network


def build(
    source: str,
    options: Mapping[str, Any],
    preprocessing: Preprocessing | None = None,
    input_shape: tuple[int, ...] | None = None,
    task: Task | None = None,
) -> tuple[Network, list[str]]:
    """The network before its weights, and the names of its rewritten shortcuts."""
    module = make_module(source, options).float().eval()
    shape = input_shape or getattr(module, "input_shape", None)
    if shape is None:
        raise InputError(
            f"network {source!r} does not declare an input shape: give input_shape=(C, H, W), or (D,), "
            "or set the attribute input_shape of the module"
        )
    network = Network(
        module,
        preprocessing or getattr(module, "preprocessing", None) or _default_preprocessing(shape),
        tuple(shape),
        task or cast(Task, getattr(module, "task", "classifier")),
        source,
        dict(options),
    )
    _check_preprocessing(network)
    check_forward(network)
    return network, rewrite_pad_shortcuts(module, example_input(network.input_shape))


def make_module(source: str, options: Mapping[str, Any]) -> nn.Module:
    """Call the function that `source` names.

    Raises:
        InputError: No such module or function, wrong options, or not an `nn.Module` came back.
    """
    function = _find_function(source)
    try:
        inspect.signature(function).bind(**options)
    except TypeError as error:
        raise InputError(
            f"making network {source!r} with options {dict(options)}: {error}; "
            f"the function takes {inspect.signature(function)}"
        ) from error
    try:
        module = function(**options)
    except FORWARD_ERRORS as error:
        raise InputError(
            f"making network {source!r} with options {dict(options)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise InputError(f"making network {source!r}: expected an nn.Module; found {type(module).__name__}")
    return module


def _find_function(source: str) -> Callable[..., Any]:
    prefix, colon, name = source.partition(":")
    if not colon:
        return _registered(source)
    if prefix in ZOOS:
        return ZOOS[prefix](name)
    if not all(part.isidentifier() for part in (*prefix.split("."), name)):
        raise InputError(f"making network {source!r}: expected a registered name or package.module:function")
    try:
        found = getattr(import_module(prefix), name, None)
    except ModuleNotFoundError as error:
        raise InputError(
            f"making network {source!r}: there is no module {error.name!r}; install it, or put its folder on PYTHONPATH"
        ) from error
    if not callable(found):
        kind = "has no function" if found is None else f"has a {type(found).__name__}, not a function,"
        raise InputError(f"making network {source!r}: module {prefix!r} {kind} {name!r}")
    return found  # type: ignore[no-any-return]


def _registered(name: str) -> Callable[..., nn.Module]:
    try:
        return NETWORKS[name]
    except UnknownNameError as error:
        error.add_note("A network of your own is named package.module:function.")
        raise


def bundled_weights(name: str) -> Path:
    """The weights that come with sparsense.

    Raises:
        InputError: There are none for this network.
    """
    folder = Path(str(files("sparsense.networks") / "weights"))
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.safetensors")))
        raise InputError(f"no bundled weights for {name!r}; there are some for: {known}. Give a file instead.")
    return path


def _default_preprocessing(shape: tuple[int, ...]) -> Preprocessing:
    return Preprocessing(layout="ND", dtype="float32", scale=1.0) if len(shape) == 1 else Preprocessing()


def _check_preprocessing(network: Network) -> None:
    table = network.preprocessing.layout == "ND"
    axes = 1 if table else 3
    if len(network.input_shape) != axes:
        raise InputError(
            f"network {network.source!r}: its preprocessing ({network.preprocessing.layout}) needs an "
            f"input shape of {axes} numbers; found {network.input_shape}"
        )
    for name in ("mean", "std"):
        count = len(getattr(network.preprocessing, name))
        if count not in (1, network.input_shape[0]):
            raise InputError(
                f"network {network.source!r}: preprocessing {name} has {count} numbers; "
                f"expected 1 or {network.input_shape[0]}, as the input shape is {network.input_shape}"
            )
