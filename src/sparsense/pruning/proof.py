"""The proof that a cut was right: the forward pass works, and removing equals masking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from sparsense.errors import UnsupportedLayerError
from sparsense.pruning.groups import Removal
from sparsense.pruning.protect import Example, as_arguments, tensors_of
from sparsense.pruning.surgery import cut_, mask_
from sparsense.recording.state import FORWARD_ERRORS, copy_of
from sparsense.recording.state import bare_copy as bare_copy

TOLERANCE = {True: 1e-6, False: 1e-5}
"""Largest relative difference in float64 (True; the cut weights themselves are float32) and in float32."""
ROUGHLY = 1e-3
"""Largest relative difference in float32 that may be rounding in a network of any depth."""
MASKING = "removing its channels differs from masking them"
CHANGING = "the changed network differs from the network"


def to_within(difference: float) -> str:
    """A largest relative difference, for people.

    Example:
        >>> to_within(3.2e-16), to_within(0.0)
        ('to 3e-16', 'exactly')
    """
    return f"to {difference:.0e}" if difference else "exactly"


class DisproofError(UnsupportedLayerError):
    """Why a cut network is not the masked network, and the layer where it showed."""


def prove(module: nn.Module, pruned: nn.Module, removal: Removal, example_input: Example) -> float:
    """The largest difference between removing channels and masking them, on random inputs.

    Masked are the weights and biases that make the channels, the norms on the way, and the weights that read
    them. The difference is relative to the largest output; computed in float64 where the network can.

    Args:
        module: The network before, not changed.
        pruned: The network after.
        removal: What was removed.
        example_input: Gives shape and type of the inputs.

    Raises:
        DisproofError: The forward pass fails, or the difference exceeds the tolerance.
    """
    masked = bare_copy(module)
    mask_(masked, removal)
    return _compared(masked, pruned, example_input, MASKING)


def same_outputs(module: nn.Module, changed: nn.Module, example_input: Example) -> float:
    """The largest relative difference between the outputs of two networks, on random inputs.

    Raises:
        DisproofError: The forward pass fails, or the difference exceeds the tolerance.
    """
    return _compared(bare_copy(module), changed, example_input, CHANGING)


def attempt(module: nn.Module, removal: Removal, example_input: Example) -> float:
    """Cut a copy of a network and prove the cut."""
    return prove(module, _cut(module, removal), removal, example_input)


def attempt_roughly(module: nn.Module, removal: Removal, example_input: Example) -> float:
    """The same in the network's own precision, which is quick but blind to small differences."""
    masked = bare_copy(module)
    mask_(masked, removal)
    worst = _worst(masked, _cut(module, removal), [random_like(example_input)])
    return _small(worst, ROUGHLY, masked, MASKING)


def attempt_to_run(module: nn.Module, removal: Removal, example_input: Example) -> float:
    """Cut a copy of a network and only run it."""
    _run(_cut(module, removal), random_like(example_input))
    return 0.0


def _cut(module: nn.Module, removal: Removal) -> nn.Module:
    pruned = bare_copy(module)
    cut_(pruned, removal)
    return pruned


def _compared(expected: nn.Module, changed: nn.Module, example_input: Example, complaint: str) -> float:
    examples = [random_like(example_input), as_arguments(example_input)]
    try:
        doubled = [_doubled(arguments) for arguments in examples]
        double, worst = True, _worst(copy_of(expected).double(), bare_copy(changed).double(), doubled)
    except DisproofError:
        # Networks that cast to float32 on the way do not run in float64; they are compared in their own precision.
        if _runs_in_double(expected, example_input):
            raise
        double, worst = False, _worst(expected, bare_copy(changed), examples)
    return _small(worst, TOLERANCE[double], expected, complaint)


def _worst(expected: nn.Module, changed: nn.Module, examples: list[tuple[Tensor, ...]]) -> float:
    worst, finite = 0.0, False
    for arguments in examples:
        right = tensors_of(_run(changed, arguments))  # first, as it is the one that may fail
        left = tensors_of(_run(expected, arguments))
        if not left or [t.shape for t in left] != [t.shape for t in right]:
            shapes = [list(t.shape) for t in right], [list(t.shape) for t in left]
            raise DisproofError("", type(expected).__name__, "the outputs have shapes {} instead of {}".format(*shapes))
        worst = max(worst, *(_difference(one, other) for one, other in zip(left, right, strict=True)))
        finite = finite or all(bool(output.isfinite().any()) for output in left if output.numel())
    if not finite:
        raise DisproofError("", type(expected).__name__, "its outputs are NaN or infinite, so nothing can be proved")
    return worst


def _small(worst: float, tolerance: float, module: nn.Module, complaint: str) -> float:
    if not worst <= tolerance:
        size = f"{worst:.2g} of the largest output, and rounding explains at most {tolerance:g}"
        reason = f"{complaint} by {size}" + (": something else depends on them" if complaint == MASKING else "")
        raise DisproofError("", type(module).__name__, reason)
    return worst


def random_like(example_input: Example, seed: int = 0) -> tuple[Tensor, ...]:
    """Standard normal inputs shaped like the example; integer inputs stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(argument.shape, generator=generator).to(argument) if argument.is_floating_point() else argument
        for argument in as_arguments(example_input)
    )


def _run(module: nn.Module, arguments: tuple[Tensor, ...]) -> object:
    with where(module) as running, torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # whatever the networks draw is the same for both
        try:
            return module(*arguments)
        except FORWARD_ERRORS as error:
            name = running[-1] if running else ""
            kind = type(module.get_submodule(name)).__name__
            reason = f"without its channels the forward pass fails there with {type(error).__name__}: {error}"
            raise DisproofError(name, kind, reason) from error


@contextmanager
def where(module: nn.Module) -> Iterator[list[str]]:
    """The names of the submodules that are running, the innermost last; after a failure, where it happened."""
    running: list[str] = []
    handles = []
    for name, part in module.named_modules():
        handles.append(part.register_forward_pre_hook(_enter(running, name)))
        handles.append(part.register_forward_hook(_leave(running)))
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()


def _enter(running: list[str], name: str) -> Callable[[nn.Module, Any], None]:
    def hook(_part: nn.Module, _inputs: Any) -> None:
        running.append(name)

    return hook


def _leave(running: list[str]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_part: nn.Module, _inputs: Any, _output: Any) -> None:
        running.pop()

    return hook


def _runs_in_double(module: nn.Module, example_input: Example) -> bool:
    try:
        _run(copy_of(module).double(), _doubled(as_arguments(example_input)))
    except DisproofError:
        return False
    return True


def _doubled(arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(argument.double() if argument.is_floating_point() else argument for argument in arguments)


def _difference(left: Tensor, right: Tensor) -> float:
    """Relative to the largest number; what is NaN or infinite must be so on both sides."""
    left, right = left.double(), right.double()
    finite = left.isfinite()
    if not torch.allclose(left[~finite], right[~finite], equal_nan=True):
        return inf
    left, right = left[finite], right[finite]
    if not left.numel():
        return 0.0
    difference = (left - right).abs().nan_to_num(nan=inf, posinf=inf)
    return float(difference.max() / left.abs().max().clamp_min(1e-12))
