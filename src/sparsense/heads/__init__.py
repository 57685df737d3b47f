"""Detection heads: observe values of the graph, learn their statistics, add the nodes that give a score."""

from sparsense.heads.head import HEADS, Head, make_head

from sparsense.heads import (  # isort: skip  importing registers
    energy,
    mahalanobis,
    max_logit,
    msp,
    sensnorm,
    sensnorm_profile,
)

__all__ = ["HEADS", "Head", "energy", "mahalanobis", "make_head", "max_logit", "msp", "sensnorm", "sensnorm_profile"]
