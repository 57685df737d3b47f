"""Parts of a module: the code of an autoencoder, the weights of its decoder, features, modes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsense.errors import TrainingError
from sparsense.training.settings import is_weight


def with_value(module: nn.Module, name: str, inputs: Tensor, *, doing: str) -> tuple[Tensor, Tensor]:
    """What a submodule gives on the way, and the output: one forward pass.

    Raises:
        TrainingError: There is no such submodule, or it was not called exactly once.
    """
    parts = dict(module.named_modules())
    if name not in parts or not name:
        known = ", ".join(key for key in parts if key)
        raise TrainingError(f"{doing}: the network has no part {name!r}; it has {known}. Name the one that is meant")
    seen: list[Tensor] = []
    handle = parts[name].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        output: Tensor = module(inputs)
    finally:
        handle.remove()
    if len(seen) != 1:
        raise TrainingError(f"{doing}: expected the part {name!r} to be called once per pass, found {len(seen)} calls")
    return seen[0], output


def weights_of(module: nn.Module, patterns: Sequence[str], *, doing: str) -> dict[str, nn.Parameter]:
    """Trainable weights (not biases, of any shape, not norms) whose names match a pattern, in the module's order.

    Raises:
        TrainingError: A pattern matches none.
    """
    weights = {name: p for name, p in module.named_parameters() if is_weight(name, p) and p.requires_grad}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in weights):
            known = ", ".join(weights)
            raise TrainingError(f"{doing}: no trainable weight is called {pattern!r}; there are {known}")
    return {name: w for name, w in weights.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


def features_and_output(module: nn.Module, inputs: Tensor, *, doing: str) -> tuple[Tensor, Tensor]:
    """What goes into the last fully connected layer, [N, F], and the output.

    Raises:
        TrainingError: There is no such layer.
    """
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise TrainingError(f"{doing}: the network has no fully connected layer, whose input are the features")
    seen: list[Tensor] = []
    handle = linear[-1].register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    try:
        output: Tensor = module(inputs)
    finally:
        handle.remove()
    return seen[-1].flatten(1), output


@contextmanager
def evaluation_mode(module: nn.Module, *, batch_norms_only: bool = False) -> Iterator[None]:
    """Parts in evaluation mode inside, each in its own mode afterwards."""
    parts = [part for part in module.modules() if not batch_norms_only or isinstance(part, _BatchNorm)]
    modes = [part.training for part in parts]
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
