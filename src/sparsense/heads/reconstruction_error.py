"""How badly an input is reconstructed."""

from __future__ import annotations

import onnx_ir as ir

from sparsense.autodiff.shapes import count_along, rank
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import at_least, one_of, positive
from sparsense.heads.head import Head, register
from sparsense.heads.similarity import check_size, gradient_maps, mean_of_maps, structural_map

METRICS = ("l1", "l2", "ssim", "ms_gms")
NO_ERROR = 1e-30  # a sum of squares below it counts as none


@register
class ReconstructionError(Head):
    """Distance between the network's input and its reconstruction.

    l1: mean |x - x'|;  l2: mean (x - x')^2;  ssim: mean (1 - SSIM) / 2;  ms_gms: 1 - similarity of gradient
    magnitudes over 3 scales
    score = the chosen one, in the unit of the network's input, that is after mean and std

    Args:
        metric: `l1`, `l2`, `ssim` or `ms_gms`; the last two for images.
        window: Side of the windows of `ssim`, in pixels.
        value_range: Distance between the smallest and the largest possible input, for `ssim`.

    Reference:
        Bergmann et al., "Improving unsupervised defect segmentation by applying structural similarity to autoencoders",
        VISAPP 2019, arXiv:1807.02011; Zavrtanik, Kristan, Skocaj, "Reconstruction by inpainting for visual anomaly
        detection", Pattern Recognition 2021.
    """

    name = "reconstruction_error"
    task = "reconstruction"
    learns = False

    def __init__(self, *, metric: str = "l2", window: int = 11, value_range: float = 1.0) -> None:
        self.metric = one_of("metric", metric, METRICS)
        self.window, self.value_range = at_least("window", window, 2), positive("value_range", value_range)

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The error itself, [N, 1]."""
        return network.op.Unsqueeze(mean_of_maps(network.op, self._errors(network)), [1])

    def _errors(self, network: ForwardGraph) -> list[ir.Value]:
        """The error of every element, or window; for several scales one after the other."""
        op, x, y = network.op, network.target, network.output
        if self.metric == "ssim":
            check_size(x, self.window)
            return [structural_map(op, x, y, window=self.window, value_range=self.value_range)]
        if self.metric == "ms_gms":
            return gradient_maps(op, x, y)
        return [element_error(network, squared=self.metric == "l2")]

    def locate(self, network: ForwardGraph) -> ir.Value | None:
        """The error at every position, whose mean is the score; of `ms_gms` all scales, brought to the input's size."""
        if rank(network.target) != 4:
            return None
        op = network.op
        maps = [op.ReduceMean(part, [1], keepdims=0) for part in self._errors(network)]
        if len(maps) == 1:
            return maps[0]
        return op.Mul(op.Sum(*(_as_large(op, part, network.target) for part in maps)), 1 / len(maps))

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """As observed."""
        return op.Squeeze(observed, [1])


def mean_error(network: ForwardGraph, *, squared: bool) -> ir.Value:
    """Mean absolute or squared difference of input and output, [N]."""
    each = element_error(network, squared=squared)
    return network.op.ReduceMean(each, list(range(1, rank(network.target))), keepdims=0)


def error_gradient(network: ForwardGraph) -> ir.Value:
    """The gradient of the mean squared error with respect to the reconstruction."""
    op = network.op
    count = count_along(op, network.target, list(range(1, rank(network.target))))
    return op.Div(op.Mul(op.Sub(network.output, network.target), 2.0), count)


def log_error_gradient(network: ForwardGraph) -> ir.Value:
    """The gradient of the logarithm of the mean squared error; 0 where there is no error."""
    op, axes = network.op, list(range(1, rank(network.target)))
    difference = op.Sub(network.output, network.target)
    total = op.ReduceSum(op.Mul(difference, difference), axes, keepdims=1)
    return op.Div(op.Mul(difference, 2.0), op.Max(total, NO_ERROR))


def element_error(network: ForwardGraph, *, squared: bool) -> ir.Value:
    """Absolute or squared difference of input and output, element by element."""
    op = network.op
    difference = op.Sub(network.target, network.output)
    return op.Mul(difference, difference) if squared else op.Abs(difference)


def _as_large(op: Builder, value: ir.Value, image: ir.Value) -> ir.Value:
    """A map [N, h, w] at the size of an image [N, C, H, W]: [N, H, W]."""
    column = op.Unsqueeze(value, [1])
    sizes = op.Concat(op.Shape(column, start=0, end=2), op.Shape(image, start=2, end=4), axis=0)
    return op.Squeeze(op.Resize(column, None, None, sizes, mode="linear"), [1])
