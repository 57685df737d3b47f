"""Detection heads: observe values of the graph, learn their statistics, add the nodes that give a score."""

from importlib import import_module

from sparsense.heads.head import HEADS, Head, make_head

_MODULES = (
    "ash dice energy entropy fdbd gen kl_matching knn mahalanobis max_logit msp nci nnguide openmax react "
    "relative_mahalanobis residual scale sensnorm sensnorm_profile she temperature_scaling vim vra"
)
for _name in _MODULES.split():
    import_module(f"{__name__}.{_name}")  # importing a head registers it

__all__ = ["HEADS", "Head", "make_head"]
