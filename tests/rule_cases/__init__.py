"""One file of cases per file of rules; importing this package fills CASES."""

from rule_cases import (
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
from rule_cases.case import CASES, EXAMPLES, Case, Draw, check

__all__ = [
    "CASES", "EXAMPLES", "Case", "Draw", "activation", "arithmetic", "attention", "check", "convolution", "index",
    "linear", "normalise", "pool", "reduce", "resize", "shape", "trigonometry",
]  # fmt: skip
