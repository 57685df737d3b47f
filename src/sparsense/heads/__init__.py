"""Detection heads: observe values of the graph, learn their statistics, add the nodes that give a score."""

from importlib import import_module

from sparsense.heads.head import HEADS, Head, make_head

_MODULES = (
    "ash dice energy entropy exgrad fdbd fusion gaia gen grad_norm gradcon gradorth gram grood kl_matching knn "
    "latent_norm low_dimensional_gradient mahalanobis max_logit msp nci nnguide odin openmax purview react "
    "reconstruction_error reconstruction_profile relative_mahalanobis residual scale sensnorm sensnorm_gates "
    "sensnorm_profile sensnorm_profile_knn she temperature_scaling vim vra"
)
for _name in _MODULES.split():
    import_module(f"{__name__}.{_name}")  # importing a head registers it

__all__ = ["HEADS", "Head", "make_head"]
