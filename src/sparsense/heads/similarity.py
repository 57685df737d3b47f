"""How alike two images [N, C, H, W] are, as graph nodes: structural similarity and gradient magnitudes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.shapes import dims, rank
from sparsense.errors import GraphError
from sparsense.graph.build import Builder

SCALES = 3
CONSTANT = 0.0026  # of the similarity of gradient magnitudes
K1, K2 = 0.01, 0.03  # of the structural similarity


def structural_dissimilarity(op: Builder, x: ir.Value, y: ir.Value, *, window: int, value_range: float) -> ir.Value:
    """Mean of (1 - SSIM) / 2 over channels and positions, [N]."""
    return mean_of_maps(op, [structural_map(op, x, y, window=window, value_range=value_range)])


def structural_map(op: Builder, x: ir.Value, y: ir.Value, *, window: int, value_range: float) -> ir.Value:
    """(1 - SSIM) / 2 of every channel and window, [N, C, H', W']; windows are square, uniform and inside the image.

    With d = x - y and its mean m_d and variance v_d, SSIM = (1 - a) (1 - b), a = m_d^2 / (m_x^2 + m_y^2 + c1) and
    b = v_d / (v_x + v_y + c2): where images are nearly equal this has digits that 2 m_x m_y and covariances lose.
    Variances are those of images less their own mean, for the same reason.
    """

    def mean(value: ir.Value) -> ir.Value:
        return op.AveragePool(value, kernel_shape=[window, window], strides=[1, 1])

    def square(value: ir.Value) -> ir.Value:
        return op.Mul(value, value)

    def variance(value: ir.Value) -> ir.Value:
        centred = op.Sub(value, op.ReduceMean(value, [2, 3], keepdims=1))
        return op.Max(op.Sub(mean(square(centred)), square(mean(centred))), 0.0)

    d, c1, c2 = op.Sub(x, y), (K1 * value_range) ** 2, (K2 * value_range) ** 2
    a = op.Div(square(mean(d)), op.Add(op.Add(square(mean(x)), square(mean(y))), c1))
    b = op.Div(variance(d), op.Add(op.Add(variance(x), variance(y)), c2))
    return op.Mul(op.Sub(op.Add(a, b), op.Mul(a, b)), 0.5)


def gradient_dissimilarity(op: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    """Mean over 3 scales of 1 - similarity of the gradient magnitudes of the channels' means, [N]."""
    return mean_of_maps(op, gradient_maps(op, x, y))


def mean_of_maps(op: Builder, maps: Sequence[ir.Value]) -> ir.Value:
    """The mean of each, then of all: [N]."""
    means = [op.ReduceMean(part, list(range(1, rank(part))), keepdims=0) for part in maps]
    return op.Mul(op.Sum(*means), 1 / len(means)) if len(means) > 1 else means[0]


def gradient_maps(op: Builder, x: ir.Value, y: ir.Value) -> list[ir.Value]:
    """1 - similarity of the gradient magnitudes of the channels' means, at 3 scales: [N, 1, H', W'] each."""
    check_size(x, 3 * 2 ** (SCALES - 1))
    x, y = (op.ReduceMean(value, [1], keepdims=1) for value in (x, y))
    maps = []
    for scale in range(SCALES):
        if scale:
            x, y = (op.AveragePool(value, kernel_shape=[2, 2], strides=[2, 2]) for value in (x, y))
        gx, gy = _magnitude(op, x), _magnitude(op, y)
        difference, below = op.Sub(gx, gy), op.Add(op.Add(op.Mul(gx, gx), op.Mul(gy, gy)), CONSTANT)
        maps.append(op.Div(op.Mul(difference, difference), below))
    return maps


def _magnitude(op: Builder, value: ir.Value) -> ir.Value:
    """Length of the Prewitt gradient."""
    kernel = np.array([[-1, 0, 1]] * 3, np.float32) / 3
    gradient = op.Conv(value, np.stack([kernel, kernel.T])[:, None])
    return op.Sqrt(op.ReduceSum(op.Mul(gradient, gradient), [1], keepdims=1))


def check_size(value: ir.Value, least: int) -> None:
    """Refuse what is no image, or a smaller one."""
    sizes = dims(value)
    if len(sizes) != 4 or any(isinstance(size, int) and size < least for size in sizes[2:]):
        raise GraphError(
            f"comparing images: expected [N, C, H, W] with sides of at least {least}, found {sizes}; "
            "use the metric 'l1' or 'l2'"
        )
