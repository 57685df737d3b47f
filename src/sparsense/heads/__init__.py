"""Detection heads: observe values of the graph, learn their statistics, add the nodes that give a score."""

from sparsense.heads.head import HEADS, Head
from sparsense.heads import energy, max_logit, msp, sensnorm, sensnorm_profile  # isort: skip  importing registers

__all__ = ["HEADS", "Head", "energy", "max_logit", "msp", "sensnorm", "sensnorm_profile"]
