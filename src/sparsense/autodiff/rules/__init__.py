"""One file per family of operators; importing this package registers every rule."""

from sparsense.autodiff.rules import (
    activation,
    arithmetic,
    attention,
    convolution,
    index,
    linear,
    normalise,
    pool,
    reduce,
    resize,
    shape,
    trigonometry,
)

__all__ = [
    "activation",
    "arithmetic",
    "attention",
    "convolution",
    "index",
    "linear",
    "normalise",
    "pool",
    "reduce",
    "resize",
    "shape",
    "trigonometry",
]
