"""Batch norm whose gradient is as cheap to differentiate as the layer itself, for objectives that look at gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

NAMES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
"""Of the arguments of `torch.nn.functional.batch_norm`."""


class LeanBatchNorm(TorchFunctionMode):
    """Inside, batch norms of a batch are computed by `batch_norm` below: the same numbers, up to rounding.

    torch puts the derivative of its own gradient together from about thirty passes over the activations, half of the
    time of a training step that needs it. Those in evaluation mode or without weights are left alone.

    Example:
        >>> norm, inputs = torch.nn.BatchNorm1d(3), torch.randn(8, 3)
        >>> with LeanBatchNorm():
        ...     lean = norm(inputs)
        >>> bool(torch.allclose(lean, norm(inputs), atol=1e-6))
        True
    """

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(zip(NAMES, args, strict=False)) | dict(kwargs or {})
        if func is not functional.batch_norm or not _suits(**given):
            return func(*args, **(kwargs or {}))
        running = given["running_mean"], given["running_var"]
        affine = given["weight"], given["bias"]
        return batch_norm(given["input"], *affine, running=running, momentum=given["momentum"], eps=given["eps"])


def _suits(input: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, **_: Any) -> bool:  # noqa: A002 - torch's names
    """Of one value per channel torch says itself that it has no variance."""
    return training and weight is not None and bias is not None and input.numel() > input.shape[1]


def batch_norm(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    running: tuple[Tensor | None, Tensor | None] = (None, None),
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """The output y = weight * x^ + bias with x^ = (x - mean) * r and r = (variance + eps)^-1/2, channel by channel.

    Args:
        inputs: x, `[N, C, ...]`.
        weight: `[C]`.
        bias: `[C]`.
        running: Mean and variance `[C]`, which go towards those of the batch, in place.
        momentum: How far.
        eps: Added to the variance.

    Returns:
        y, of the shape and dtype of x; twice differentiable.
    """
    output: Tensor = _Normalised.apply(inputs, weight, bias, *running, momentum, eps)  # type: ignore[no-untyped-call]
    return output


class _Normalised(torch.autograd.Function):
    """y, by torch's own kernel."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, *how: Any) -> Tensor:
        mean, variance, momentum, eps = how
        output, mean, inverse = torch.native_batch_norm(inputs, weight, bias, mean, variance, True, momentum, eps)
        ctx.save_for_backward(inputs, weight, mean, inverse)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        found = _Gradient.apply(gradients[0], *ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return *found, None, None, None, None


class _Gradient(torch.autograd.Function):
    """dx = weight r P(dy), dweight = sum dy x^, dbias = sum dy; P(v) = v - <v> - x^ <v x^>, <> a channel's mean."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, inputs: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor) -> Any:
        found = _backward(slope, inputs, weight, mean, inverse)
        ctx.save_for_backward(slope, inputs, weight, mean, inverse, *found[1:])
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor, for_weight: Tensor, for_bias: Tensor) -> Any:
        """P is symmetric, so u, which belongs to dx, reaches dy through P as well; x^ and r are functions of x.

        With the channel's means a = <dy>, b = <dy x^>, c = <u>, d = <u x^>, e = <u dy> - a c - b d, and v, w that
        belong to dweight and dbias: the gradient for dy is weight r P(u) + v x^ + w, that for the weight
        sum(u r P(dy)) = N r e, that for x is r P(v dy - weight r (b u + d dy)) - weight r^2 e x^.
        """
        dy, inputs, weight, mean, inverse, *sums = ctx.saved_tensors
        count, scale = inputs.numel() / inputs.shape[1], weight * inverse
        to_dy, *own = _backward(u, inputs, weight, mean, inverse)
        b, a, d, c = (each / count for each in (*sums, *own))
        e = _sum(u, dy) / count - a * c - b * d
        mixed = (u * _along(u, -scale * b)).addcmul_(dy, _along(u, for_weight - scale * d))
        to_inputs, *_ = _backward(mixed, inputs, torch.ones_like(weight), mean, inverse)
        to_inputs = _plus_line(to_inputs, inputs, mean, inverse, -scale * inverse * e)
        return (
            _plus_line(to_dy, inputs, mean, inverse, for_weight, for_bias),
            to_inputs,
            count * inverse * e,
            None,
            None,
        )


def _backward(slope: Tensor, inputs: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, ...]:
    """Of v: weight r P(v), sum v x^ and sum v, by torch's own kernel."""
    found: tuple[Tensor, ...] = torch.ops.aten.native_batch_norm_backward(
        slope, inputs, weight, None, None, mean, inverse, True, 0.0, [True] * 3
    )
    return found


def _plus_line(
    values: Tensor, inputs: Tensor, mean: Tensor, inverse: Tensor, rise: Tensor, constant: Tensor | float = 0.0
) -> Tensor:
    """Add rise * x^ + constant, channel by channel."""
    steep = rise * inverse
    return values.addcmul(inputs, _along(inputs, steep)).add_(_along(inputs, constant - steep * mean))


def _sum(first: Tensor, second: Tensor) -> Tensor:
    """Of products, by channel, in single precision at least."""
    axes = [0, *range(2, first.ndim)]
    return (first * second).sum(axes, dtype=torch.promote_types(first.dtype, torch.float32))


def _along(values: Tensor, channels: Tensor) -> Tensor:
    """[C] for multiplication with [N, C, ...]."""
    return channels.to(values.dtype).view(-1, *[1] * (values.ndim - 2))
