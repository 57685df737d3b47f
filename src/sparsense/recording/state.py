"""A network that is run here is as it was afterwards, and can be copied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from sparsense.errors import InputError

FORWARD_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, NotImplementedError)
"""What the forward pass of somebody else's module may raise when its widths or inputs do not fit."""
COPY_ERRORS = (TypeError, RuntimeError, AttributeError, NotImplementedError)
"""What copying raises where a module holds something that has no copy: a lock, a file, a generator."""


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Whatever happens to a network in the block, but training, is undone.

    That is what its forward pass writes into it (buffers that count, attributes that keep activations or attention
    maps), and the random numbers that it draws.
    """
    parts = [(part, dict(part.__dict__), dict(part._buffers)) for part in module.modules()]
    values = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            for part, attributes, buffers in parts:
                part.__dict__.clear()
                part.__dict__.update(attributes)
                part._buffers.clear()
                part._buffers.update(buffers)
            with torch.no_grad():
                for buffer, value in values:
                    if not torch.equal(buffer, value):
                        buffer.copy_(value)


def copy_of(module: nn.Module) -> nn.Module:
    """A copy of a network and of all it holds; activations that it keeps are copied as plain numbers.

    Raises:
        InputError: It holds something that cannot be copied.
    """
    kept = {id(tensor): tensor.detach().clone() for tensor in _kept_activations(module)}
    try:
        return deepcopy(module, kept)
    except COPY_ERRORS as error:
        raise InputError(
            f"copying the network ({type(module).__name__}), which pruning leaves as it is: {type(error).__name__}: "
            f"{error}; take out of its modules what cannot be copied, such as locks, open files or generators"
        ) from error


def bare_copy(module: nn.Module) -> nn.Module:
    """A copy without hooks, in evaluation mode: what the network computes by itself."""
    twin = copy_of(module).eval()
    for part in twin.modules():
        for table in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            part.__dict__[table].clear()
    return twin


def first_output(module: nn.Module, inputs: Tensor) -> Tensor:
    """What a network gives for a batch; the first tensor where it gives several.

    Raises:
        InputError: It does not run on the inputs, or gives no tensor.
    """
    try:
        outputs = module(inputs)
    except FORWARD_ERRORS as error:
        raise InputError(
            f"recording: running the network ({type(module).__name__}) on inputs {described(inputs)}: its forward pass "
            f"failed with {type(error).__name__}: {error}; give inputs as the network takes them, in one tensor"
        ) from error
    found = next(_tensors(outputs), None)
    if found is None:
        kinds = type(module).__name__, type(outputs).__name__
        raise InputError("recording: the network ({}) gives {} instead of a tensor; wrap it in a module that returns "
                         "what is to be differentiated".format(*kinds))  # fmt: skip
    return found


def described(*tensors: Tensor) -> str:
    """Types and shapes.

    Example:
        >>> described(torch.zeros(2, 3))
        'float32 [2, 3]'
    """
    return ", ".join(f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}" for x in tensors)


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a module was called with first, by position or by name."""
    return args[0] if args else next(iter(kwargs.values()))


def _kept_activations(module: nn.Module) -> Iterator[Tensor]:
    for part in module.modules():
        for value in (*part.__dict__.values(), *part._buffers.values()):
            yield from (tensor for tensor in _tensors(value) if not tensor.is_leaf)


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
