"""Cases of reductions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rule_cases.case import Case, Draw, FirstOrder, case

FUNCTIONS: dict[str, Any] = {
    "ReduceSum": lambda x, dim, keepdim: x.sum(dim, keepdim),
    "ReduceMean": lambda x, dim, keepdim: x.mean(dim, keepdim),
    "ReduceMax": lambda x, dim, keepdim: x.amax(dim, keepdim),
    "ReduceMin": lambda x, dim, keepdim: x.amin(dim, keepdim),
    "ReduceL1": lambda x, dim, keepdim: x.abs().sum(dim, keepdim),
    "ReduceL2": lambda x, dim, keepdim: x.square().sum(dim, keepdim).sqrt(),
    "ReduceSumSquare": lambda x, dim, keepdim: x.square().sum(dim, keepdim),
    "ReduceLogSumExp": lambda x, dim, keepdim: x.logsumexp(dim, keepdim),
    "ReduceLogSum": lambda x, dim, keepdim: x.sum(dim, keepdim).log(),
}


def _product(x: torch.Tensor, dim: tuple[int, ...], keepdim: bool) -> torch.Tensor:
    for axis in sorted(dim, reverse=True):
        x = x.prod(axis, keepdim)
    return x


FUNCTIONS["ReduceProd"] = _product


def _reduction(op_type: str, function: Any) -> None:
    @case(op_type)
    def make(draw: Draw) -> Case:
        shape = draw.shape()
        axes = sorted(draw.permutation(len(shape))[: draw.int(0, len(shape))])
        signed = [axis - draw.choose(0, len(shape)) for axis in axes]
        keepdim = draw.choose(True, False)
        x = draw.array(*shape, low=0.5 if op_type == "ReduceLogSum" else -2)
        given = (signed,) if axes else ()
        dim = tuple(axes) or tuple(range(len(shape)))
        attributes = draw.choose({"keepdims": int(keepdim)}, {} if keepdim else {"keepdims": 0})
        return Case(
            [x], lambda op, x: getattr(op, op_type)(x, *given, **attributes), lambda x: function(x, dim, keepdim)
        )


for _name, _function in FUNCTIONS.items():
    _reduction(_name, _function)


@case("ReduceMax", "ReduceMin")
def ties(draw: Draw) -> Case:
    """Equal extremes share the gradient, as in torch.amax."""
    x = np.asarray([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
    return Case(
        [x],
        lambda op, x: op.Sub(op.ReduceMax(x, [1]), op.Mul(op.ReduceMin(x, [1]), 2.0)),
        lambda x: x.amax(1, True) - 2 * x.amin(1, True),
    )


@case("ReduceProd", "ReduceL1")
def with_zeros(draw: Draw) -> Case:
    """One zero: only its own derivative of the product is non-zero; two zeros: none."""
    x = np.asarray([[1.5, 0.0, 2.0], [0.0, 0.0, 2.0], [1.0, 2.0, 4.0]])
    return FirstOrder(
        [x], lambda op, x: op.Add(op.ReduceProd(x, [1]), op.ReduceL1(x, [1])),
        lambda x: x.prod(1, True) + x.abs().sum(1, True),
    )  # fmt: skip


@case("ReduceL2")
def zero_vector(draw: Draw) -> Case:
    """The norm of a zero vector gives no gradient, as torch.linalg.vector_norm."""
    x = np.asarray([[0.0, 0.0], [3.0, 4.0]])
    return FirstOrder(
        [x], lambda op, x: op.ReduceL2(x, [1]), lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True)
    )
