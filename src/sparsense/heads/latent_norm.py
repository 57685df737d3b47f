"""Reconstruction error plus the size of the code."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.shapes import rank
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.bottleneck import find_code
from sparsense.heads.checks import at_least, one_of, within
from sparsense.heads.contributions import Contributions
from sparsense.heads.head import Head, register
from sparsense.heads.reconstruction_error import METRICS, ReconstructionError


@register
class LatentNorm(Head):
    """Error and code of an autoencoder that was trained to keep both small.

    score = || x - x' ||_2 + beta || z ||_2,  plain norms over all elements, z the code

    Args:
        beta: Weight of the code, in [0, 1e6]; the one of the training. It scales with the size of the input.
        latent: Name of the code's value in the graph, or of the part that gives it, such as `encoder`, which is the
            objective's default; default: the narrowest value.
        error: What stands in the place of the first norm, that of the training: `norm`, or a `metric` of the head
            `reconstruction_error` (`l1`, `l2`, `ssim`, `ms_gms`).
        window: Side of the windows of `ssim`, in pixels.

    Reference:
        Ghafourian et al., "Targeted collapse regularized autoencoder for anomaly detection: black hole at the center",
        TNNLS 2024, arXiv:2306.12627.
    """

    name = "latent_norm"
    task = "reconstruction"
    learns = False

    def __init__(self, *, beta: float = 10.0, latent: str | None = None, error: str = "norm", window: int = 11) -> None:
        if latent is not None and not isinstance(latent, str):
            raise ValueError(f"latent must be the name of a value; got {latent!r}")
        self.beta, self.latent = within("beta", beta, 0, 1e6), latent
        self.error = one_of("error", error, ("norm", *METRICS))
        self.window = at_least("window", window, 2)

    def observe(self, network: ForwardGraph) -> ir.Value:
        """Error, and norm of the code: [N, 2]."""
        op, code = network.op, find_code(network, self.latent)
        self._code = code.name
        return op.Concat(self._error(network), length(op, code), axis=1)

    def _error(self, network: ForwardGraph) -> ir.Value:
        if self.error == "norm":
            return length(network.op, network.op.Sub(network.target, network.output))
        return ReconstructionError(metric=self.error, window=self.window).observe(network)

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Their weighted sum."""
        error, size = (op.Squeeze(op.Slice(observed, [i], [i + 1], [1]), [1]) for i in (0, 1))
        return op.Add(error, op.Mul(size, self.beta))

    def explain(self, network: ForwardGraph, observed: ir.Value) -> Contributions:
        """Error and code."""
        weights = np.array([1.0, self.beta], np.float32)
        return Contributions("terms", ["error", "code"], network.op.Mul(observed, weights))


def length(op: Builder, value: ir.Value) -> ir.Value:
    """Euclidean norm of each sample, [N, 1]."""
    total = op.ReduceSum(op.Mul(value, value), list(range(1, rank(value))), keepdims=0)
    return op.Unsqueeze(op.Sqrt(total), [1])
