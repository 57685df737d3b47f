"""Forward networks in whole numbers of eight bits or in half precision, kept only where that is measured to pay."""

from sparsense.quantise.float16 import to_float16
from sparsense.quantise.int8 import to_int8
from sparsense.quantise.judge import Budget, Judged, judge, quantise_if_better

__all__ = ["Budget", "Judged", "judge", "quantise_if_better", "to_float16", "to_int8"]
