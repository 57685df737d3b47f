"""A small residual classifier as torch network and as graph, with data that it is sure and unsure about."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsense.data.dataset import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.graph import ForwardGraph, forward_graph, load_graph
from sparsense.networks.network import Network
from sparsense.to_onnx import export_forward

CLASSES, SIDE = 4, 8


class TinyClassifier(nn.Module):
    """A strided and a residual convolution with batch norms, average pooling, one linear layer; 500 numbers."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(6) if bias else nn.Identity()
        self.block = nn.Conv2d(6, 6, 3, padding=1, bias=bias)
        self.head = nn.Linear(6, CLASSES, bias=bias)

    def features(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 6]."""
        x = torch.relu(self.norm(self.stem(x)))
        return torch.relu(x + self.block(x)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))  # type: ignore[no-any-return]


@cache
def tiny_network(*, bias: bool = True) -> Network:
    """The torch side: random weights, and batch statistics that are not those of an untrained layer."""
    torch.manual_seed(9)
    module = TinyClassifier(bias=bias)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5 if parameter.dim() > 1 else 0.2)
    if isinstance(module.norm, nn.BatchNorm2d):
        nn.init.uniform_(module.norm.weight, 0.5, 1.5)
        nn.init.uniform_(module.norm.running_var, 0.5, 2.0)
    mean, std = ((0.5, 0.4, 0.3), (0.3, 0.25, 0.2)) if bias else ((0.0,), (1.0,))
    preprocessing = Preprocessing(mean=mean, std=std)
    if bias:
        _balance(module.eval(), torch.from_numpy(preprocessing.apply(_images(100, np.random.default_rng(7)))))
    return Network(module.eval(), preprocessing, (3, SIDE, SIDE), source="tiny")


@torch.no_grad()
def _balance(module: TinyClassifier, images: Tensor) -> None:
    """Shift and stretch the logits so that every class is predicted for some inputs, with some confidence.

    They lie around 5, as the elasticity of a logit near 0 is a number divided by almost nothing.
    """
    features = module.features(images)
    module.head.weight *= 3 / module.head(features).std()
    module.head.bias.copy_(5 - module.head.weight @ features.mean(0))


@cache
def tiny_proto(*, bias: bool = True) -> onnx.ModelProto:
    """The same network as a file's content; exporting takes seconds, so it is done once."""
    return export_forward(tiny_network(bias=bias))


@cache
def tiny_graph(*, bias: bool = True) -> ForwardGraph:
    """Preprocessing and network. Copy it before adding nodes."""
    return forward_graph(load_graph(tiny_proto(bias=bias)), tiny_network(bias=bias).preprocessing)


@cache
def tiny_images(name: str, count: int, *, seed: int, side: int) -> Dataset:
    """The same kind of images in another size, without labels."""
    return Dataset(name, _images(count, np.random.default_rng(seed), side))


@cache
def tiny_data(name: str, count: int, *, seed: int) -> Dataset:
    """Coloured gradients with noise; labelled with the network's own answers, of which one in ten is replaced."""
    random, network = np.random.default_rng(seed), tiny_network()
    inputs = _images(count, random)
    with torch.no_grad():
        labels = network.module(torch.from_numpy(network.preprocessing.apply(inputs))).argmax(1).numpy()
    wrong = random.random(count) < 0.1
    labels[wrong] = random.integers(0, CLASSES, wrong.sum())
    return Dataset(name, inputs, labels)


def _images(count: int, random: np.random.Generator, side: int = SIDE) -> NDArray[np.uint8]:
    ramp = np.linspace(-1, 1, side)
    down, right, level = random.uniform(-0.4, 0.4, (3, count, 1, 1, 3))
    pixels = 0.5 + level + down * ramp[:, None, None] + right * ramp[:, None]
    pixels = pixels + random.normal(0, 0.1, pixels.shape)
    return np.asarray(255 * pixels.clip(0, 1), np.uint8)
