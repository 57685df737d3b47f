"""Forward passes whose gradients are differentiated again, for objectives that look at gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsense.training.batch_norm import LeanBatchNorm


@contextmanager
def differentiated_twice() -> Iterator[None]:
    """Inside, batch norms have a lean second derivative, and attention has one: torch's fused kernels have none."""
    with LeanBatchNorm(), sdpa_kernel(SDPBackend.MATH):
        yield
