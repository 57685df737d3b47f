"""Which channels must go together, as torch_pruning sees it: the one module that knows that library."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch_pruning as tp
from torch import Tensor, nn

from sparsense.errors import UnsupportedLayerError
from sparsense.pruning.axes import channels
from sparsense.pruning.grouping import INPUT, Element, join_blocks, makers
from sparsense.pruning.protect import Example, as_arguments, tensors_of
from sparsense.pruning.unions import Unions
from sparsense.recording.state import bare_copy

TRACE_ERRORS = (LookupError, ValueError, TypeError, AttributeError, AssertionError, RuntimeError, ArithmeticError)
"""What torch_pruning raises when it cannot follow a network."""


def trace_units(module: nn.Module, example_input: Example) -> list[list[Element]]:
    """Sets of channels that must go together, from the dependency graph of torch_pruning."""
    twin = bare_copy(module)
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    # Inputs are traced like parameters, so channels that meet the input (a sum with it) are seen to be coupled.
    inputs = tuple(nn.Parameter(x.clone()) if _traceable(x) else x for x in as_arguments(example_input))
    watched = [x for x in inputs if isinstance(x, nn.Parameter)]
    graph = tp.DependencyGraph()
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph.build_dependency(
                twin, inputs, output_transform=tensors_of,
                unwrapped_parameters=[tp._helpers.UnwrappedParameters(x, 1) for x in watched],
                customized_pruners={}, ignored_layers=[], ignored_params=[], verbose=False,
            )  # fmt: skip
            unions = _walk(graph, makers(twin), _names(twin, watched))
    except TRACE_ERRORS as error:
        raise UnsupportedLayerError(
            "",
            type(module).__name__,
            f"its channels cannot be traced ({type(error).__name__}: {error}): something reshapes or shuffles them in "
            "a way that is not understood; prune single weights instead, or a part of the network",
        ) from error
    join_blocks(unions, module)
    return unions.sets()


def _traceable(tensor: Tensor) -> bool:
    # torch_pruning takes a three-axis parameter for a position embedding and then misreads concatenations.
    return tensor.is_floating_point() and tensor.ndim in (2, 4, 5)


def _names(twin: nn.Module, inputs: Sequence[Tensor]) -> dict[int, str]:
    named: dict[int, str] = {id(part): name for name, part in twin.named_modules()}
    named.update({id(parameter): name for name, parameter in twin.named_parameters()})
    named.update({id(x): INPUT for x in inputs})
    return named


def _walk(graph: Any, producers: Mapping[str, nn.Module], names: Mapping[int, str]) -> Unions[Element]:
    """Follow every channel of every layer through the graph, and join what it meets."""
    walk = _Walk(names)
    for name, layer in producers.items():
        node = graph.module2node.get(layer)
        if node is not None:
            handler = graph.get_pruner_of_module(layer).prune_out_channels
            walk.follow(node, handler, Element(name, "out", channels(layer, "out")))
    return walk.unions


@dataclass
class _Walk:
    """Joins what belongs together, layer by layer."""

    names: Mapping[int, str]
    unions: Unions[Element] = field(default_factory=Unions)

    def follow(self, node: Any, handler: Any, beyond: Element) -> None:
        """Follow all channels of a layer; `beyond` is the channel behind its last one, which it does not have.

        What meets a channel that does not exist cannot be cut. An operation that turns one channel into several,
        and has no axis that is long enough for them, is misread (a map that was cut into heads or windows, taken for
        a flattened one): the next one would multiply them again.
        """
        found = self.unions
        new = [index for index in range(beyond.channel) if self._element(node, handler, index) not in found]
        for index in new:
            found.add(self._element(node, handler, index))
        queue = [(node, handler, new)]
        while queue:
            node, handler, new = queue.pop()
            for dependency in _edges(node, handler):
                reached, pairs = [], _mapped(dependency, new)
                room = self._room(dependency.target) if len(pairs) > len(new) else sys.maxsize
                for source, target in pairs:
                    inside = target < room
                    element = self._element(dependency.target, dependency.handler, target) if inside else beyond
                    if inside and element not in found:
                        reached.append(target)
                    found.join(self._element(node, handler, source), element)
                if reached:
                    queue.append((dependency.target, dependency.handler, reached))

    def _element(self, node: Any, handler: Any, index: int) -> Element:
        side: Literal["in", "out"] = "in" if handler.__name__ == "prune_in_channels" else "out"
        return Element(self.names.get(id(node.module), f"({id(node)})"), side, index)

    def _room(self, node: Any) -> int:
        """The longest axis of what goes into an operation and comes out of it; layers say themselves what fits."""
        if id(node.module) in self.names:
            return sys.maxsize
        made = (node.grad_fn, *(before for before, _ in getattr(node.grad_fn, "next_functions", ())))
        shapes = [known.shape for function in made for known in getattr(function, "_input_metadata", ())]
        return max((size for shape in shapes for size in shape), default=sys.maxsize)


def _edges(node: Any, handler: Any) -> Iterator[Any]:
    return (dependency for dependency in node.dependencies if dependency.is_triggered_by(handler))


def _mapped(dependency: Any, indices: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs (channel before, channel behind) of one edge of the graph."""
    hybrid = [tp._helpers._HybridIndex(idx=index, root_idx=index) for index in indices]
    for mapping in dependency.index_mapping:
        if mapping is not None and hybrid:
            hybrid = mapping(hybrid)
    if any(entry.root_idx is None for entry in hybrid):  # repeated keys and values: the library loses their origin
        return [(index, sys.maxsize) for index in indices]
    return [(entry.root_idx, entry.idx) for entry in hybrid]
