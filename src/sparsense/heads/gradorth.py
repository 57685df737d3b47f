"""GradOrth: the part of the last layer's gradient that lies where in-distribution features lie."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from sparsense.errors import CalibrationError
from sparsense.graph.build import Builder
from sparsense.heads.checks import one_of, within
from sparsense.heads.classes import finite
from sparsense.heads.direction import Turned
from sparsense.heads.head import Array, register
from sparsense.heads.logits import competing
from sparsense.heads.loss import predicted_class
from sparsense.heads.shaping import FeatureHead


@register
class GradientProjection(Turned, FeatureHead):
    """Norm of the last layer's gradient, projected on the subspace of in-distribution features.

    score = -|| (dL/dW)^T V V^T ||_2 = -||p - t||_2 ||V^T h||_2
    V = right singular vectors of the in-distribution features that carry a share `energy` of their squares

    The publication's constants were not available: the target and the share are options.

    Args:
        target: t of the cross-entropy: `uniform` (1 / K everywhere) or `predicted` (the predicted class).
        energy: Share of the squared features that the subspace carries, in (0, 1].
        direction: `published`: small gradients are anomalous. `reversed`: large ones. `calibrated`: whichever way
            noise, which shows nothing, lies from the fitting data (by medians); the state has +1 for large or -1.
        seed: Of the noise.

    Reference:
        Behpour et al., "GradOrth: a simple yet efficient out-of-distribution detection with orthogonal projection of
        gradients", NeurIPS 2023, arXiv:2308.00310.
    """

    name = "gradorth"
    published = -1.0

    def __init__(
        self, *, target: str = "uniform", energy: float = 0.97, direction: str = "published", seed: int = 0
    ) -> None:
        self.turn(direction, seed)
        self.target, self.energy = one_of("target", target, ("uniform", "predicted")), within("energy", energy, 1e-6, 1)

    def learn(self, observations: Iterable[Array], labels: Array | None = None) -> None:  # noqa: ARG002
        """Learn the subspace."""
        rows = (finite(batch) for batch in observations)
        values, vectors = np.linalg.eigh(sum((batch.T @ batch for batch in rows), start=np.zeros(())))
        if not values[-1] > 0:
            raise CalibrationError(
                f"fitting head {self.name!r}: expected features that are not all 0, found only zeros"
            )
        carried = np.cumsum(values[::-1]) / values.sum()
        self.directions_ = vectors[:, ::-1][:, : int(np.searchsorted(carried, self.energy)) + 1]

    def size(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The gradient is an outer product: the norm of either side."""
        logits = competing(self.layer.logits(op, observed))
        p = op.Softmax(logits, axis=1)
        target = predicted_class(op, logits) if self.target == "predicted" else 1 / self.layer.weight.shape[1]
        error = op.Sub(p, target)
        inside = op.MatMul(observed, self.learnt("directions").astype(np.float32))
        squares = [op.ReduceSum(op.Mul(side, side), [1], keepdims=0) for side in (error, inside)]
        return op.Sqrt(op.Mul(*squares))
