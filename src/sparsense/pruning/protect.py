"""Which layers keep all they have: the ones that were named, and the output."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from sparsense.errors import InputError, UnsupportedLayerError
from sparsense.recording.capture import capturing
from sparsense.recording.layers import prunable_layers
from sparsense.recording.state import FORWARD_ERRORS, bare_copy, described

Ignore = Iterable[str | type[nn.Module] | nn.Module]
Example = Tensor | tuple[Tensor, ...]


def ignored_layers(module: nn.Module, ignore: Ignore) -> set[str]:
    """The names of all submodules that are meant by patterns, types or modules, with what is inside them.

    Args:
        module: The network.
        ignore: Name patterns (`"layer1.*"`), types (`nn.Linear`, or their names, `"Linear"`), or submodules.

    Raises:
        InputError: One that matches nothing (a typo would otherwise prune what was to be kept).

    Example:
        >>> sorted(ignored_layers(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), ["0", nn.ReLU]))
        ['0', '1']
    """
    names = dict(module.named_modules())
    found: set[str] = set()
    for entry in (ignore,) if isinstance(ignore, str) else ignore:
        hits = {name for name, part in names.items() if name and _means(entry, name, part)}
        if not hits:
            near = get_close_matches(entry, names, n=3) if isinstance(entry, str) else []
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise InputError(f"ignore: {_described(entry)} matches no layer of the network{hint}")
        found |= {n for n in names for hit in hits if n == hit or n.startswith(f"{hit}.")}
    return found


def output_layers(module: nn.Module, example_input: Example) -> set[str]:
    """The names of the layers whose output reaches the network's output without passing another layer.

    Args:
        module: Any network.
        example_input: One batch (or a tuple of arguments).

    Raises:
        UnsupportedLayerError: The network returns no tensors.
    """
    twin = bare_copy(module)
    with capturing(prunable_layers(twin)) as capture:
        outputs = run_example(twin, example_input)
    made = {output.grad_fn: name for name, calls in capture.outputs.items() for output in calls}
    leaves = {id(output): name for name, calls in capture.outputs.items() for output in calls if output.is_leaf}
    found: set[str] = set()
    if not tensors_of(outputs):
        raise UnsupportedLayerError(
            "", type(module).__name__, f"it returns no tensor that can be followed, but {type(outputs).__name__}; wrap "
            "it in a module that returns tensors, or tuples, lists or dictionaries of them"
        )  # fmt: skip
    queue = [tensor.grad_fn for tensor in tensors_of(outputs)]
    seen = set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = leaves.get(id(getattr(node, "variable", None)))
        name = made.get(node, leaf)
        if name is None:
            queue.extend(following for following, _ in node.next_functions)
        else:
            found.add(name.rpartition(".")[0])
    return found


def called_layers(module: nn.Module, example_input: Example) -> set[str]:
    """The names of all submodules that the example reaches."""
    twin, called = bare_copy(module), set[str]()
    for name, part in twin.named_modules():
        part.register_forward_pre_hook(lambda _part, _inputs, name=name: called.add(name))
    with torch.no_grad():
        run_example(twin, example_input)
    return called


def last_layer(module: nn.Module) -> set[str]:
    """The name of the prunable layer that was registered last: the output of most networks."""
    return {name.rpartition(".")[0] for name in list(prunable_layers(module))[-1:]}


def as_arguments(example_input: Example) -> tuple[Tensor, ...]:
    """The positional arguments of a forward call.

    Raises:
        InputError: Something else than tensors.
    """
    arguments = example_input if isinstance(example_input, tuple | list) else (example_input,)
    if wrong := [type(argument).__name__ for argument in arguments if not isinstance(argument, Tensor)]:
        raise InputError(
            f"example_input must be a tensor or a tuple of tensors; got {wrong[0]}; wrap the network in a module whose "
            "forward takes tensors and makes of them what the network wants"
        )
    return tuple(arguments)


def run_example(module: nn.Module, example_input: Example) -> object:
    """The outputs of a network for the example, with random numbers of its own.

    Raises:
        InputError: The network does not run on it.
    """
    arguments = as_arguments(example_input)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return module(*arguments)
        except FORWARD_ERRORS as error:
            raise InputError(
                f"running the network ({type(module).__name__}) on the example input {described(*arguments)}: its "
                f"forward pass failed with {type(error).__name__}: {error}; give an example of what it takes"
            ) from error


def tensors_of(value: object) -> list[Tensor]:
    """All tensors in a nest of tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for part in value.values() for tensor in tensors_of(part)]
    if isinstance(value, tuple | list):
        return [tensor for part in value for tensor in tensors_of(part)]
    return []


def _means(entry: str | type[nn.Module] | nn.Module, name: str, part: nn.Module) -> bool:
    if isinstance(entry, str):
        keys = (name, *(f"{name}.{own}" for own in part._parameters))
        return entry in _kinds(part) or any(fnmatchcase(key, entry) for key in keys)
    return isinstance(part, entry) if isinstance(entry, type) else part is entry


def _kinds(part: nn.Module) -> list[str]:
    """The names of a layer's type and of the types that it derives from, `Module` apart."""
    kinds = type(part).__mro__
    return [kind.__name__ for kind in kinds if issubclass(kind, nn.Module) and kind is not nn.Module]


def _described(entry: str | type[nn.Module] | nn.Module) -> str:
    if isinstance(entry, str):
        return repr(entry)
    return f"the type {entry.__name__}" if isinstance(entry, type) else f"the given {type(entry).__name__}"
