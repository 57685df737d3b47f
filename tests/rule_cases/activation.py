"""Cases of activation functions."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from rule_cases.case import Case, Draw, FirstOrder, case
from rule_cases.trigonometry import unary

SMALL = np.float32(0.01).item()  # attributes are stored in single precision

unary("Relu", torch.relu, -2, 2)
unary("LeakyRelu", lambda x: F.leaky_relu(x, SMALL), -2, 2)
unary("LeakyRelu", lambda x: F.leaky_relu(x, 0.25), -2, 2, alpha=0.25)
unary("ThresholdedRelu", lambda x: torch.where(x > 0.5, x, 0), -2, 2, opset=22, alpha=0.5)
unary("Shrink", lambda x: F.softshrink(x, 0.5), -2, 2, lambd=0.5, bias=0.5)
unary("Elu", F.elu, -2, 2)
unary("Elu", lambda x: F.elu(x, 0.5), -2, 2, alpha=0.5)
unary("Celu", lambda x: F.celu(x, 1.5), -2, 2, alpha=1.5)
unary("Selu", F.selu, -2, 2)
unary("Sigmoid", torch.sigmoid, -4, 4)
unary("Softplus", F.softplus, -4, 4)
unary("Softsign", F.softsign, -4, 4)
unary("HardSigmoid", lambda x: (0.25 * x + 0.5).clamp(0, 1), -4, 4, alpha=0.25, beta=0.5)
unary("HardSwish", F.hardswish, -4, 4)
unary("Mish", F.mish, -4, 4)
unary("Swish", F.silu, -4, 4, opset=24)
unary("Swish", lambda x: x * torch.sigmoid(1.5 * x), -4, 4, opset=24, alpha=1.5)
unary("Gelu", F.gelu, -4, 4, opset=20)
unary("Gelu", lambda x: F.gelu(x, approximate="tanh"), -4, 4, opset=20, approximate="tanh")


@case("Relu", "LeakyRelu", "Elu", "Selu", "Softsign")
def at_zero(draw: Draw) -> Case:
    """The kink follows torch."""
    draw.single()
    x = np.asarray([0.0, -1.0, 1.0, 0.0])

    def graph(op, x):
        kinks = [op.Relu(x), op.LeakyRelu(x, alpha=0.125), op.Elu(x), op.Selu(x), op.Softsign(x)]
        return op.Concat(*kinks, axis=0)

    def function(x):
        return torch.cat([torch.relu(x), F.leaky_relu(x, 0.125), F.elu(x), F.selu(x), F.softsign(x)])

    return FirstOrder([x], graph, function)


@case("PRelu")
def prelu(draw: Draw) -> Case:
    n, c, p = draw.int(1, 3), draw.int(1, 4), draw.int(1, 3)
    shared = draw.choose(True, False)
    slope = draw.array(1 if shared else c, 1)
    return Case(
        [draw.array(n, c, p), slope],
        lambda op, x, s: op.PRelu(x, s),
        lambda x, s: torch.where(x > 0, x, x * s),
    )


@case("Softmax", "LogSoftmax")
def softmax(draw: Draw) -> Case:
    shape = draw.shape()
    axis = draw.int(-len(shape), len(shape) - 1)
    return Case(
        [draw.array(*shape)],
        lambda op, x: op.Add(op.Softmax(x, axis=axis), op.Mul(op.LogSoftmax(x, axis=axis), 2.0)),
        lambda x: x.softmax(axis) + 2 * x.log_softmax(axis),
    )
