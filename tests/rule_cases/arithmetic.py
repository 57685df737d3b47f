"""Cases of arithmetic."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import numpy as np
import torch

from rule_cases.case import Case, Draw, case
from rule_cases.trigonometry import unary

unary("Identity", lambda x: x * 1, -2, 2)
unary("Neg", torch.neg, -2, 2)
unary("Abs", torch.abs, -2, 2)
unary("Sqrt", torch.sqrt, 0.5, 2)
unary("Reciprocal", torch.reciprocal, 0.5, 2)
unary("Exp", torch.exp, -2, 2)
unary("Log", torch.log, 0.5, 2)


def broadcast_pair(draw: Draw) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that meet: missing leading axes on either side, axes of size 1."""
    full = draw.shape()
    first = tuple(draw.choose(size, 1) for size in full)
    second = tuple(size if a == 1 else draw.choose(size, 1) for size, a in zip(full, first, strict=True))
    cut = draw.int(0, len(full) - 1)
    return draw.choose((first[cut:], second), (first, second[cut:]))


BINARY: dict[str, Any] = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Div": operator.truediv,
    "Max": torch.maximum, "Min": torch.minimum,
}  # fmt: skip


def _binary(op_type: str, function: Any) -> None:
    @case(op_type)
    def make(draw: Draw) -> Case:
        a, b = broadcast_pair(draw)
        draw.free = False
        signs = np.sign(draw.array(*b)) if op_type == "Div" else 1.0
        low = 0.5 if op_type == "Div" else -2
        y = draw.array(*b, low=low) * signs
        return Case([draw.array(*a), y], lambda op, x, y: getattr(op, op_type)(x, y), function)


for _name, _function in BINARY.items():
    _binary(_name, _function)


@case("Max", "Min", "Sum", "Mean")
def variadic(draw: Draw) -> Case:
    shape, count = draw.shape(1), draw.int(1, 4)
    draw.free = False
    draw.single()  # the reference implementation broadcasts two operands only
    inputs = [draw.array(*(draw.choose(size, 1) for size in shape)) for _ in range(count)]

    def graph(op: Any, *xs: Any) -> Any:
        return op.Add(op.Sum(*xs), op.Add(op.Mul(op.Mean(*xs), 2.0), op.Sub(op.Max(*xs), op.Mul(op.Min(*xs), 3.0))))

    def function(*xs: torch.Tensor) -> torch.Tensor:
        stack = torch.stack(torch.broadcast_tensors(*xs))
        return stack.sum(0) + 2 * stack.mean(0) + reduce(torch.maximum, xs) - 3 * reduce(torch.minimum, xs)

    return Case(inputs, graph, function)


@case("Max", "Min")
def ties(draw: Draw) -> Case:
    """Two equal operands share the gradient, as in torch.maximum."""
    x = np.asarray([1.0, 2.0, 3.0])
    y = np.asarray([1.0, 5.0, 3.0])
    return Case(
        [x, y],
        lambda op, x, y: op.Sub(op.Max(x, y), op.Mul(op.Min(x, y), 2.0)),
        lambda x, y: torch.maximum(x, y) - 2 * torch.minimum(x, y),
    )


@case("Mod")
def fmod(draw: Draw) -> Case:
    shape = draw.shape()
    x, y = draw.array(*shape, low=-9, high=9), draw.array(*shape, low=1.1)
    return Case([x, y], lambda op, x, y: op.Mod(x, y, fmod=1), torch.fmod)


@case("Pow")
def power_of_constant(draw: Draw) -> Case:
    shape = draw.shape()
    exponent = draw.choose(2.0, 3.0, 0.0, 1.0, 0.5, -1.5, -2.0)
    x = draw.array(*shape, low=0.3)
    if exponent == int(exponent):
        x = x * np.sign(draw.array(*shape))
    kind = draw.choose(np.float64, np.int64) if exponent == int(exponent) else np.float64
    return Case([x], lambda op, x: op.Pow(x, np.asarray(exponent, kind)), lambda x: x**exponent)


@case("Pow")
def power_of_variable(draw: Draw) -> Case:
    a, b = broadcast_pair(draw)
    draw.free = False
    return Case([draw.array(*a, low=0.3), draw.array(*b)], lambda op, x, y: op.Pow(x, y), torch.pow)


@case("Pow")
def power_at_zero(draw: Draw) -> Case:
    exponent = draw.choose(0.0, 1.0, 2.0, 3.0)
    x = np.asarray([0.0, 1.0, -2.0])
    return Case([x], lambda op, x: op.Pow(x, exponent), lambda x: x**exponent)


@case("Clip")
def clip(draw: Draw) -> Case:
    """With one limit or both, constant or computed; at the borders nothing passes, as in torch's ReLU6."""
    low, high = draw.choose((None, 0.5), (-0.5, None), (-0.5, 0.5))
    computed = draw.choose(False, True)
    x = np.concatenate([draw.array(5), [-0.5, 0.5]])

    def graph(op: Any, x: Any) -> Any:
        limits = [None if limit is None else op.constant(np.asarray(limit)) for limit in (low, high)]
        return op.Clip(x, *(op.Identity(limit) if computed and limit is not None else limit for limit in limits))

    def function(x: torch.Tensor) -> torch.Tensor:
        x = x if low is None else torch.where(x > low, x, low)
        return x if high is None else torch.where(x < high, x, high)

    return Case([x], graph, function)


@case("Where")
def where(draw: Draw) -> Case:
    a, b = broadcast_pair(draw)
    draw.free = False
    x, y = draw.array(*a), draw.array(*b)
    condition = draw.array(*np.broadcast_shapes(a, b)) > 0
    return Case(
        [x, y], lambda op, x, y: op.Where(condition, x, y), lambda x, y: torch.where(torch.tensor(condition), x, y)
    )


@case("Cast", "CastLike")
def cast(draw: Draw) -> Case:
    """To the other float type and back, and through an integer, where the gradient ends."""
    x = draw.array(*draw.shape(), low=1, high=3)
    like = np.zeros(1, np.float32)

    def graph(op: Any, x: Any) -> Any:
        there = op.CastLike(op.Cast(op.Mul(x, x), to=11), like)
        whole = op.CastLike(op.Cast(x, to=7), x)
        return op.Mul(op.CastLike(there, x), whole)

    draw.dtype = np.float32
    return Case([x], graph, lambda x: x * x * x.detach().to(torch.int64))


@case("Dropout")
def dropout(draw: Draw) -> Case:
    training = draw.choose((), (np.asarray(0.5), np.asarray(False)))
    return Case([draw.array(*draw.shape())], lambda op, x: op.Dropout(x, *training), lambda x: x * 1)


@case("Sum")
def flat_operators_end_gradients(draw: Draw) -> Case:
    """Floor, Sign and their like have derivative zero; what passes beside them still counts."""
    x = draw.array(*draw.shape())

    def graph(op: Any, x: Any) -> Any:
        steps = op.Add(op.Floor(x), op.Add(op.Ceil(x), op.Round(x)))
        return op.Sum(op.Mul(x, x), op.Mul(op.Sign(x), steps))

    def function(x: torch.Tensor) -> torch.Tensor:
        return x * x + (x.sign() * (x.floor() + x.ceil() + x.round())).detach()

    return Case([x], graph, function)
