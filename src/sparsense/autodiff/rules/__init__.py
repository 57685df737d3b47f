"""One file per family of operators; importing this package registers every rule."""

from sparsense.autodiff.rules import convolution, elementwise, linear, normalise, pool, reduce, shape

__all__ = ["convolution", "elementwise", "linear", "normalise", "pool", "reduce", "shape"]
