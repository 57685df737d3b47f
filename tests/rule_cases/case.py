"""A case: inputs, an operator as a graph, the same function in torch; and how the two are compared in both orders."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from sparsense.autodiff.differentiate import differentiate, nodes_between
from sparsense.errors import GraphError, UnsupportedOperatorError
from sparsense.graph.build import Builder
from sparsense.graph.run import Session, with_outputs

NEWEST = 26  # the newest opset that ONNX Runtime 1.31 loads
EXAMPLES = int(os.environ.get("SPARSENSE_EXAMPLES", "6"))
TOLERANCE = {np.float64: 1e-10, np.float32: 1e-5}
EVERYWHERE = "everywhere"  # all axes but the channels are symbolic, as in a network for images of any size


@dataclass(frozen=True)
class Case:
    """`graph(op, *values)` and `torch(*tensors)` are the same function of the inputs."""

    inputs: Sequence[np.ndarray]
    graph: Callable[..., ir.Value]
    torch: Callable[..., torch.Tensor]


class FirstOrder(Case):
    """A point where the second derivative does not exist, or is not promised."""


class Draw:
    """Hypothesis chooses sizes and options; a drawn seed chooses the numbers."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw
        self.dtype = self.choose(np.float64, np.float32)
        self.free = self.choose(False, True, EVERYWHERE)  # whether the first axis of every input is symbolic
        self._opset: int | None = None
        self._random = np.random.default_rng(self.int(0, 2**16))

    def int(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def choose(self, *options: Any) -> Any:
        return self._draw(st.sampled_from(options))

    def opset(self, low: int = 18, high: int = NEWEST) -> int:
        if self._opset is None:
            self._opset = self.int(low, high)
        return self._opset

    def shape(self, low: int = 1, high: int = 4, *, largest: int = 4) -> tuple[int, ...]:
        return tuple(self.int(1, largest) for _ in range(self.int(low, high)))

    def array(self, *shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
        """Distinct, float32-representable numbers away from zero."""
        values = self._random.uniform(low, high, shape)
        return values.astype(np.float32).astype(np.float64)

    def single(self) -> None:
        """For operators that neither runtime computes in full double precision."""
        self.dtype = np.float32

    def permutation(self, size: int) -> list[int]:
        return [int(i) for i in self._random.permutation(size)]


CASES: dict[str, list[Callable[[Draw], Case]]] = {}


def case(*op_types: str) -> Callable[[Callable[[Draw], Case]], Callable[[Draw], Case]]:
    """Register a case under the operators whose rules it tests."""

    def register(make: Callable[[Draw], Case]) -> Callable[[Draw], Case]:
        for op_type in op_types:
            CASES.setdefault(op_type, []).append(make)
        return make

    return register


class CaseBuilder(Builder):
    """Writes float64 constants of a case in the type under test."""

    def __init__(self, graph: ir.Graph, dtype: type) -> None:
        super().__init__(graph)
        self._float = dtype

    def constant(self, array: np.ndarray, name: str = "constant") -> ir.Value:
        array = np.asarray(array)
        return super().constant(array.astype(self._float) if array.dtype == np.float64 else array, name)


class Derivatives:
    """The graph of a case with its gradient and the gradient of a projection of the gradient."""

    def __init__(self, case: Case, draw: Draw) -> None:
        self.draw = draw
        kind = ir.DataType.from_numpy(np.dtype(draw.dtype))
        self.inputs = [self._input(f"x{i}", x.shape, kind) for i, x in enumerate(case.inputs)]
        self.graph = ir.Graph(self.inputs, [], nodes=[], opset_imports={"": draw.opset()}, name="case")
        self.y = case.graph(CaseBuilder(self.graph, draw.dtype), *self.inputs)
        op = Builder(self.graph)
        self.seed = self._add_input("seed", self.y)
        gradients = differentiate(op, of=self.y, wrt=self.inputs, seed=self.seed)
        self.first = [gradients[x] for x in self.inputs]
        self.directions = [self._add_input(f"v{i}", x) for i, x in enumerate(self.inputs)]
        products = [op.ReduceSum(op.Mul(g, v), keepdims=0) for g, v in zip(self.first, self.directions, strict=True)]
        total = op.Sum(*products)
        wanted = [*self.inputs, self.seed]
        curved = [value for value in wanted if nodes_between([value], total)]
        second = differentiate(op, of=total, wrt=curved)
        self.second = {value.name: second[value] for value in curved}
        self.model = ir.Model(self.graph, ir_version=10)

    def _input(self, name: str, shape: Sequence[Any], kind: ir.DataType) -> ir.Value:
        axes = list(shape)
        if self.draw.free and len(axes) > 0 and axes[0] != 1:
            axes[0] = "N"
        if self.draw.free == EVERYWHERE:
            axes[2:] = [f"{name}_{axis}" if size != 1 else 1 for axis, size in enumerate(axes[2:], 2)]
        return ir.val(name, kind, axes)

    def _add_input(self, name: str, like: ir.Value) -> ir.Value:
        value = ir.val(name, like.dtype, like.shape)
        self.graph.inputs.append(value)
        return value

    def run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        outputs = [self.y, *self.first, *self.second.values()]
        return run(self.model, outputs, {k: v.astype(self.draw.dtype) for k, v in feeds.items()})


def run(model: ir.Model, outputs: Sequence[ir.Value], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """In ONNX Runtime where its kernels know the type, else in the reference implementation."""
    part = with_outputs(model, outputs)
    try:
        session = Session(part, threads=1)
    except GraphError as error:
        if "NOT_IMPLEMENTED" not in str(error):
            raise
        reference = ReferenceEvaluator(ir.to_proto(part))
        return reference.run(None, {name: feeds[name] for name in reference.input_names})
    return session({name: feeds[name] for name in session.input_names})


def expected(case: Case, feeds: dict[str, np.ndarray]) -> list[torch.Tensor]:
    """Value, gradients and second-order gradients by torch, in float64."""
    tensors = {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in feeds.items()}
    xs = [tensors[f"x{i}"] for i in range(len(case.inputs))]
    y = case.torch(*xs)
    first = torch.autograd.grad(y, xs, tensors["seed"], create_graph=True, materialize_grads=True)
    total = sum((g * tensors[f"v{i}"]).sum() for i, g in enumerate(first))
    second = torch.autograd.grad(total, [*xs, tensors["seed"]], materialize_grads=True)
    return [y, *first, *second]


def differentiated(case: Case, draw: Draw) -> Derivatives:
    """A rule may ask for sizes to be fixed, in so many words; then they are."""
    try:
        return Derivatives(case, draw)
    except (GraphError, UnsupportedOperatorError) as error:
        if draw.free != EVERYWHERE or not re.search("fixed|free", str(error)):
            raise
        draw.free = False
        return Derivatives(case, draw)


def check(case: Case, draw: Draw) -> Derivatives:
    """Compare a case with torch in both orders."""
    derivatives = differentiated(case, draw)
    y = case.torch(*map(torch.tensor, case.inputs))
    feeds = {f"x{i}": x for i, x in enumerate(case.inputs)}
    feeds |= {"seed": draw.array(*y.shape), **{f"v{i}": draw.array(*x.shape) for i, x in enumerate(case.inputs)}}
    found = derivatives.run(feeds)
    truth = expected(case, feeds)
    count = 1 + len(case.inputs)
    names = [*(value.name for value in derivatives.inputs), "seed"]
    second = dict(zip(derivatives.second, found[count:], strict=True))
    if isinstance(case, FirstOrder):
        names, truth = names[-1:], [*truth[:count], truth[-1]]
    for name, actual, wanted in [
        ("value", found[0], truth[0]),
        *((f"d/dx{n}", a, w) for n, (a, w) in enumerate(zip(found[1:count], truth[1:count], strict=True))),
        *((f"second order, d/d{n}", second.get(n), w) for n, w in zip(names, truth[count:], strict=True)),
    ]:
        wanted = wanted.detach().numpy(force=True)
        assert_close(name, np.zeros_like(wanted) if actual is None else actual, wanted, TOLERANCE[draw.dtype])
    return derivatives


def assert_close(name: str, actual: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    """Relative to the largest element, which is what float arithmetic can promise for sums."""
    assert actual.shape == wanted.shape, f"{name}: shape {actual.shape} instead of {wanted.shape}"
    scale = max(0.1, float(np.abs(wanted).max(initial=0)))  # terms of about 1 may cancel to less
    worst = float(np.abs(actual - wanted).max(initial=0)) / scale
    assert worst <= tolerance, f"{name}: off by {worst:.2e} (tolerance {tolerance:.0e})\n{actual}\n{wanted}"
