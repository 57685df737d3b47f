"""A small convolutional autoencoder as torch network and as graph, and images that it was not trained for."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from sparsense.data.preprocessing import Preprocessing
from sparsense.graph import ForwardGraph, forward_graph, load_graph
from sparsense.networks.network import Network
from sparsense.to_onnx import export_forward


class TinyAutoencoder(nn.Module):
    """3 x 16 x 16 -> 2 x 4 x 4 -> 3 x 16 x 16."""

    def __init__(self) -> None:
        super().__init__()
        self.encode1 = nn.Conv2d(3, 4, 4, stride=2, padding=1)
        self.encode2 = nn.Conv2d(4, 2, 4, stride=2, padding=1)
        self.decode1 = nn.ConvTranspose2d(2, 4, 4, stride=2, padding=1)
        self.decode2 = nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        code = self.encode2(torch.relu(self.encode1(x)))
        return torch.sigmoid(self.decode2(torch.relu(self.decode1(code))))


@cache
def tiny_autoencoder() -> Network:
    torch.manual_seed(3)
    module = TinyAutoencoder()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return Network(module.eval(), Preprocessing(), (3, 16, 16), task="reconstruction", source="tiny autoencoder")


@cache
def tiny_autoencoder_graph() -> ForwardGraph:
    """Copy it before adding nodes."""
    network = tiny_autoencoder()
    return forward_graph(load_graph(export_forward(network)), network.preprocessing, task="reconstruction")
