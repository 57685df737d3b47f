"""What a head is: observe -> fit -> score, higher = more anomalous."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff import Layer, weighted_layers
from sparsense.errors import NotFittedError, UnknownNameError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.contributions import Contributions
from sparsense.registry import Registry

Array = NDArray[Any]


class Stream(Protocol):
    """Runs a graph over the fitting data, batch by batch."""

    @property
    def has_labels(self) -> bool:
        """Whether the data has labels."""
        ...

    def __call__(self, network: ForwardGraph, values: Sequence[ir.Value]) -> Iterator[list[Array]]:
        """The values of each batch; an input `labels` of the graph, if there is one, is fed."""
        ...


class Head(ABC):
    """A way to say "I do not know this input" from what a network computes.

    A subclass is one method of one paper in one file. Options are keyword-only constructor arguments with defaults.

    Attributes:
        name: What recipes call it.
        task: The kind of network it is for; `any` for both.
        needs_labels: Whether the fitting data must have labels.
        needs_logits: Whether it takes the network's output for logits, which probabilities are not.
        learns: Whether it has statistics; False lets it score without fitting.
        differentiates: Whether it adds gradients of the network to the graph.
    """

    name: ClassVar[str]
    task: str = "classifier"
    needs_labels: bool = False
    needs_logits: bool = False
    learns: bool = True
    differentiates: bool = False

    def prepare(self, network: ForwardGraph, stream: Stream) -> None:  # noqa: B027  nothing is the right default
        """Learn what `observe` needs from a first pass over the fitting data; most heads need nothing.

        Args:
            network: A throw-away copy; labels can be had through an added input `labels`, int64 `[N]`.
            stream: Runs the copy over the fitting data.
        """

    @abstractmethod
    def observe(self, network: ForwardGraph) -> ir.Value:
        """Add the nodes that give what the head looks at: float32 `[N, D]`."""

    def observe_groups(self, network: ForwardGraph, size: int) -> ir.Value | None:  # noqa: ARG002
        """Add what it looks at of groups of `size` consecutive inputs, [N / size, D], once it is fitted.

        None, the default: the score of a group is the mean of its inputs' scores.
        """
        return None

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:  # noqa: ARG002
        """Learn from batches `[n, D]` of observations, all in-distribution; the default learns nothing."""
        for _ in observations:
            break
        return self

    @abstractmethod
    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Add the nodes that turn an observation into a score `[N]`; higher = more anomalous, not clamped."""

    def explain(self, network: ForwardGraph, observed: ir.Value) -> Contributions | None:  # noqa: ARG002
        """Add the nodes that say what the score is made of; None, the default, where it has no parts that add up."""
        return None

    def divide(self, network: ForwardGraph, observed: ir.Value, into: str) -> Contributions | None:
        """The same, in parts of one kind: `layers` or `channels`; None where the score has none of that kind."""
        found = self.explain(network, observed)
        return found if found is not None and found.kind == into else None

    def locate(self, network: ForwardGraph) -> ir.Value | None:  # noqa: ARG002
        """Add the nodes of a map `[N, H, W]` of where the score comes from; for heads that look at positions."""
        return None

    def differentiated(self, network: ForwardGraph) -> list[Layer]:
        """The layers whose gradients it looks at, so that these can be checked; the default: its option `layers`."""
        return weighted_layers(network, layers=getattr(self, "layers", None)) if self.differentiates else []

    def state(self) -> dict[str, Array]:
        """What was learnt, by name; empty for a head without statistics."""
        return {
            name.rstrip("_"): value
            for name, value in vars(self).items()
            if name.endswith("_") and isinstance(value, np.ndarray)
        }

    def learnt_numbers(self) -> dict[str, float]:
        """What was learnt and is a single number, for the card: a temperature, a direction."""
        return {name: float(value.item()) for name, value in self.state().items() if value.size == 1}

    def options(self) -> dict[str, Any]:
        """The constructor's arguments, for the card; every head keeps them under their own names."""
        return {name: _written(getattr(self, name)) for name in inspect.signature(type(self)).parameters}

    def learnt(self, name: str) -> Array:
        """A learnt array; NotFittedError before `fit`."""
        value: Array | None = getattr(self, f"{name}_", None)
        if value is None:
            raise NotFittedError(
                f"head {self.name!r} is not fitted: it has no {name}; call fit(observations) with in-distribution "
                "data first"
            )
        return value


def _written(value: Any) -> Any:
    """An option as a card can hold it: JSON has no infinity, which is then the word `inf`."""
    if isinstance(value, tuple):
        return tuple(map(_written, value))
    return "inf" if isinstance(value, float) and value == float("inf") else value


HEADS: Registry[type[Head]] = Registry("head")


def register(cls: type[Head]) -> type[Head]:
    """Register a head under its own name."""
    return HEADS.add(cls.name, cls)


def make_head(name: str, options: Mapping[str, Any]) -> Head:
    """A fresh head by name.

    Raises:
        UnknownNameError: No such head, or it has no such option.
        ValueError: An option has a value that cannot work.
    """
    known = inspect.signature(HEADS[name]).parameters
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of head {name!r}", option, known)
    return HEADS[name](**options)
