"""Where a network comes from; importing this package registers every family."""

from sparsense.networks import (
    cifar_resnet,
    densenet,
    digits_resnet,
    gradcon_autoencoder,
    latent_norm_autoencoders,
    mnist_convnet,
    squeezenet,
    tiny_resnet,
    toycar_autoencoder,
    unet_autoencoder,
    wide_resnet,
)
from sparsense.networks.checkpoint import load_checkpoint, save_network
from sparsense.networks.load import load_network
from sparsense.networks.network import NETWORKS, Network

__all__ = [
    "NETWORKS",
    "Network",
    "cifar_resnet",
    "densenet",
    "digits_resnet",
    "gradcon_autoencoder",
    "latent_norm_autoencoders",
    "load_checkpoint",
    "load_network",
    "mnist_convnet",
    "save_network",
    "squeezenet",
    "tiny_resnet",
    "toycar_autoencoder",
    "unet_autoencoder",
    "wide_resnet",
]
