"""Families of networks with random weights: per-sample sensitivities and second-order gradients against torch.

python benchmarks/families.py [NAME ...] [--out families.json]

Every network is small, exported, and differentiated as a graph. Compared with a torch loop over single samples in
float64: the norms |w * dL/dw| and the gates of every layer, the gradient dL/dx (of words: of their embeddings), and the
gradient of |dL/dx|^2 (second order). Errors are relative to the largest number. Families of timm, torchvision and
transformers run where these are installed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from unittest.mock import patch

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F
from library_families import LIBRARY, is_installed
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsense.autodiff import differentiate, gate_sensitivities, weighted_layers
from sparsense.autodiff.norms import sensitivity_norms
from sparsense.autodiff.shapes import dims
from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import SparsenseError
from sparsense.graph import ForwardGraph, Session, forward_graph, load_graph
from sparsense.networks.network import Network
from sparsense.to_onnx import export_forward

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


class Residual(nn.Module):
    """`x + f(x)`, with a projection where shapes differ."""

    def __init__(self, body: nn.Module, skip: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.skip, self.after = body, skip or nn.Identity(), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.body(x) + self.skip(x))


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def conv(i: int, o: int, k: int = 3, s: int = 1, g: int = 1, act: type[nn.Module] | None = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([act()] if act else []))


def head(width: int, classes: int = 5) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]


def basic(i: int, o: int, s: int) -> nn.Module:
    skip = conv(i, o, 1, s, act=None) if s > 1 or i != o else None
    return Residual(nn.Sequential(conv(i, o, 3, s), conv(o, o, act=None)), skip, nn.ReLU())


def resnet18() -> nn.Module:
    stages = [basic(i, o, s) for i, o, s in ((8, 8, 1), (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 24, 2), (24, 24, 1))]
    return nn.Sequential(conv(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1), *stages, *head(24))


def bottleneck(i: int, m: int, o: int, s: int, g: int = 1) -> nn.Module:
    skip = conv(i, o, 1, s, act=None) if s > 1 or i != o else None
    return Residual(nn.Sequential(conv(i, m, 1), conv(m, m, 3, s, g), conv(m, o, 1, act=None)), skip, nn.ReLU())


def resnet50() -> nn.Module:
    return nn.Sequential(
        conv(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1), bottleneck(8, 4, 16, 1), bottleneck(16, 8, 32, 2), *head(32)
    )


def wide_resnet() -> nn.Module:
    def block(i: int, o: int, s: int) -> nn.Module:
        body = [nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, o, 3, s, 1), nn.BatchNorm2d(o), nn.ReLU()]
        return Residual(nn.Sequential(*body, nn.Conv2d(o, o, 3, 1, 1)), nn.Conv2d(i, o, 1, s))

    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), block(8, 16, 1), block(16, 24, 2), nn.BatchNorm2d(24), nn.ReLU(), *head(24)
    )


class Dense(nn.Module):
    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, growth, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet() -> nn.Module:
    transition = [nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.AvgPool2d(2)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), Dense(8, 4), Dense(12, 4), *transition, Dense(8, 4), *head(12))


def vgg_bn() -> nn.Module:
    classifier = [nn.Flatten(), nn.Linear(16 * 16, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 5)]
    return nn.Sequential(
        conv(3, 8), nn.MaxPool2d(2), conv(8, 16), conv(16, 16), nn.MaxPool2d(2, 2), nn.MaxPool2d(2), *classifier
    )


class SqueezeExcite(nn.Module):
    def __init__(self, c: int, gate: type[nn.Module] = nn.Sigmoid, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c // 2, 1), act(), nn.Conv2d(c // 2, c, 1), gate()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def hard_sigmoid(x: Tensor, *_: object) -> Tensor:
    """One of which torch knows the second derivative."""
    return F.relu6(x + 3) / 6


def inverted(i: int, o: int, s: int, act: type[nn.Module], se: nn.Module | None = None) -> nn.Module:
    wide = i * 3
    body = nn.Sequential(
        conv(i, wide, 1, act=act), conv(wide, wide, 3, s, wide, act), se or nn.Identity(), conv(wide, o, 1, act=None)
    )
    return Residual(body) if s == 1 and i == o else body


def mobilenet_v2() -> nn.Module:
    return nn.Sequential(
        conv(3, 8, 3, 2, act=nn.ReLU6), inverted(8, 8, 1, nn.ReLU6), inverted(8, 16, 2, nn.ReLU6), *head(16)
    )


def mobilenet_v3() -> nn.Module:
    act = nn.Hardswish
    se = SqueezeExcite(24, nn.Hardsigmoid)
    return nn.Sequential(conv(3, 8, 3, 2, act=act), inverted(8, 8, 1, act, se), inverted(8, 16, 2, act), *head(16))


def efficientnet() -> nn.Module:
    se = SqueezeExcite(24, act=nn.SiLU)
    return nn.Sequential(
        conv(3, 8, 3, 2, act=nn.SiLU), inverted(8, 8, 1, nn.SiLU, se), inverted(8, 16, 2, nn.SiLU), *head(16)
    )


class ConvNeXtBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.depth, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c, eps=1e-6)
        self.wide, self.narrow = nn.Linear(c, 3 * c), nn.Linear(3 * c, c)
        self.scale = nn.Parameter(torch.full((c,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.narrow(F.gelu(self.wide(y)))).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    down = nn.Sequential(nn.GroupNorm(1, 8), nn.Conv2d(8, 16, 2, 2))
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), ConvNeXtBlock(8), down, ConvNeXtBlock(16), *head(16))


def regnet() -> nn.Module:
    return nn.Sequential(conv(3, 8, 3, 2), bottleneck(8, 16, 16, 2, 4), bottleneck(16, 16, 16, 1, 4), *head(16))


class Shuffle(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(c // 2, c // 2, 1), conv(c // 2, c // 2, 3, 1, c // 2, None), conv(c // 2, c // 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, used = x.chunk(2, 1)
        y = torch.cat([kept, self.body(used)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet() -> nn.Module:
    return nn.Sequential(conv(3, 8, 3, 2), nn.MaxPool2d(3, 2, 1), Shuffle(8), Shuffle(8), *head(8))


class Fire(nn.Module):
    def __init__(self, i: int, s: int, e: int) -> None:
        super().__init__()
        self.squeeze, self.one, self.three = nn.Conv2d(i, s, 1), nn.Conv2d(s, e, 1), nn.Conv2d(s, e, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(y)), F.relu(self.three(y))], 1)


def squeezenet() -> nn.Module:
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    last = [nn.Conv2d(16, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), pool, Fire(8, 4, 8), Fire(16, 4, 8), *last)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = conv(3, 8), conv(8, 16)
        self.up, self.out = conv(24, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down(x)
        two = F.interpolate(self.deep(F.max_pool2d(one, 2)), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.out(self.up(torch.cat([one, two], 1)))


def autoencoder() -> nn.Module:
    down = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.LeakyReLU(0.1)]
    up = [nn.ConvTranspose2d(12, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Sigmoid()]
    return nn.Sequential(*down, *up)


def upsampling_autoencoder() -> nn.Module:
    down = [nn.Conv2d(3, 8, 3, 2, 1), nn.ELU()]
    return nn.Sequential(*down, nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), nn.Conv2d(8, 3, 3), nn.Tanh())


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 5)
    )


class Tokens(nn.Module):
    """Patches of an image as tokens [N, T, C]."""

    def __init__(self, width: int, patch: int = 8) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x).flatten(2).transpose(1, 2)


def feed_forward(width: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class Mix(nn.Module):
    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.norm, self.one, self.two = (
            nn.LayerNorm(width),
            nn.Linear(tokens, 2 * tokens),
            nn.Linear(2 * tokens, tokens),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.gelu(self.one(self.norm(x).transpose(1, 2)))).transpose(1, 2)


def mixer() -> nn.Module:
    pool = Lambda(lambda x: x.mean(1))
    return nn.Sequential(Tokens(12), Mix(12, 16), Residual(feed_forward(12)), nn.LayerNorm(12), pool, nn.Linear(12, 5))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int = 2, *, fused: bool = False) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.fused = heads, fused

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).reshape(n, t, c))


class ViT(nn.Module):
    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.tokens, self.first = Tokens(12), nn.Parameter(torch.randn(1, 1, 12) * 0.1)
        self.position = nn.Parameter(torch.randn(1, 17, 12) * 0.1)
        self.blocks = nn.Sequential(Attention(12, fused=fused), Residual(feed_forward(12)))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class Windows(nn.Module):
    """Attention within windows of 2 x 2 of a 4 x 4 map shifted by one, with a bias for every relative position.

    What a shift brings together from opposite sides of the map does not see each other.
    """

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.bias = heads, nn.Parameter(torch.randn(9, heads))
        places = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        away = places[:, :, None] - places[:, None] + 1
        self.register_buffer("index", away[0] * 3 + away[1])
        side = torch.tensor([0, 0, 1, 2])
        region = (side[:, None] * 3 + side).view(2, 2, 2, 2).permute(0, 2, 1, 3).reshape(4, 4)
        self.register_buffer("mask", (region[:, None] != region[:, :, None]) * -100.0)

    def forward(self, x: Tensor) -> Tensor:
        n, _, c = x.shape
        y = torch.roll(self.norm(x).view(n, 4, 4, c), (-1, -1), (1, 2))
        windows = y.view(n, 2, 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = self.qkv(windows).reshape(-1, 4, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5 + self.bias[self.index].permute(2, 0, 1)
        scores = (scores.view(n, 4, self.heads, 4, 4) + self.mask[:, None]).view(-1, self.heads, 4, 4)
        y = self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, 4, c))
        y = y.view(n, 2, 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, 4, 4, c)
        return x + torch.roll(y, (1, 1), (1, 2)).reshape(n, 16, c)


def swin() -> nn.Module:
    pool = Lambda(lambda x: x.mean(1))
    return nn.Sequential(Tokens(12), Windows(12), Residual(feed_forward(12)), pool, nn.Linear(12, 5))


class TextEncoder(nn.Module):
    """Words, positions and attention that leaves out padding (word 0), as BERT has them."""

    vocabulary = 29

    def __init__(self) -> None:
        super().__init__()
        self.words, self.position = nn.Embedding(self.vocabulary, 12), nn.Embedding(8, 12)
        self.norm, self.encoder = nn.LayerNorm(12), Encoder()
        self.attention, self.wide, self.narrow = Attention(12), nn.Linear(12, 24), nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Tensor:
        words = x.abs().long()  # whole numbers; the exporter tries others too
        y = self.norm(self.words(words) + self.position(torch.arange(4)))
        n, t, c = y.shape
        q, k, v = self.attention.qkv(y).reshape(n, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) * (c // 2) ** -0.5
        shares = scores.masked_fill((words == 0)[:, None, None], torch.finfo(y.dtype).min).softmax(-1)
        y = self.attention.norm(y + self.attention.out((shares @ v).transpose(1, 2).reshape(n, t, c)))
        return self.encoder((y + self.narrow(F.gelu(self.wide(y)))).flatten(1))


class Encoder(nn.Module):
    """Post-norm blocks over rows of features, as BERT has them behind its embeddings."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(12, 2, 24, activation="gelu", batch_first=True)
        self.blocks, self.pool, self.head = (
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            nn.Linear(12, 12),
            nn.Linear(12, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.pool(self.blocks(x.view(-1, 4, 12))[:, 0])))


def audio() -> nn.Module:
    """1-d convolutions over a waveform."""
    start = [
        Lambda(lambda x: x[:, None]),
        nn.Conv1d(1, 8, 5, 2),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(8, 8, 3, dilation=2),
    ]
    return nn.Sequential(*start, nn.PReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 5))


def video() -> nn.Module:
    """3-d convolutions over channels read as frames."""
    start = [Lambda(lambda x: x[:, None]), nn.Conv3d(1, 6, (2, 3, 3), (1, 2, 2)), nn.ReLU(), nn.AvgPool3d((1, 2, 2))]
    return nn.Sequential(
        *start, nn.Conv3d(6, 8, (2, 3, 3)), nn.Softplus(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 5)
    )


IMAGE = (3, 32, 32)
FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet18": (resnet18, IMAGE), "resnet50": (resnet50, IMAGE), "wide_resnet": (wide_resnet, IMAGE),
    "densenet": (densenet, IMAGE), "vgg_bn": (vgg_bn, IMAGE), "mobilenet_v2": (mobilenet_v2, IMAGE),
    "mobilenet_v3": (mobilenet_v3, IMAGE), "efficientnet": (efficientnet, IMAGE), "convnext": (convnext, IMAGE),
    "regnet": (regnet, IMAGE), "shufflenet": (shufflenet, IMAGE), "squeezenet": (squeezenet, IMAGE),
    "unet": (UNet, (3, 16, 16)), "autoencoder": (autoencoder, (3, 16, 16)),
    "upsampling_autoencoder": (upsampling_autoencoder, (3, 16, 16)), "mlp": (mlp, (12,)), "mixer": (mixer, IMAGE),
    "vit": (lambda: ViT(fused=False), IMAGE), "vit_fused": (lambda: ViT(fused=True), IMAGE), "swin": (swin, IMAGE),
    "encoder": (Encoder, (48,)), "text_encoder": (TextEncoder, (4,)), "audio": (audio, (64,)),
    "video": (video, (4, 16, 16)),
}  # fmt: skip


def make(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A family's network with random weights and batch norms that do something, in evaluation mode."""
    torch.manual_seed(0)
    build, shape = {**FAMILIES, **LIBRARY}[name]
    module = build()
    for norm in module.modules():
        if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 1.5)
    if name in LIBRARY:  # whose small first weights leave nothing of a gradient's square
        for layer in (layer for layer in module.modules() if isinstance(layer, WEIGHTED)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    return module.eval(), shape


@dataclass
class Found:
    """What is compared: all per sample.

    Attributes:
        norms: |w * dL/dw| of every layer, [L, N].
        gates: Length of the vector of its channels' gate sensitivities, [L, N].
        first: Gradient of L = |y|^2 / 2 with respect to the input, or to the words' embeddings.
        second: Gradient of |first|^2 with respect to the same.
    """

    norms: np.ndarray
    gates: np.ndarray
    first: np.ndarray
    second: np.ndarray


def graph_side(module: nn.Module, shape: tuple[int, ...], inputs: np.ndarray) -> Found:
    preprocessing = Preprocessing(layout="ND" if len(shape) == 1 else "NCHW", dtype="float32", scale=1.0)
    task = "reconstruction" if tuple(module(torch.zeros(1, *shape)).shape[1:]) == shape else "classifier"
    exported = export_forward(Network(module, preprocessing, shape, task=task, source="family"))
    network = forward_graph(load_graph(exported), preprocessing, task=task)
    op, layers, entry = network.op, weighted_layers(network), entry_of(network, module)
    deltas = differentiate(
        op, of=network.output, wrt=[*(layer.output for layer in layers), entry], seed=op.Mul(network.output, 1.0)
    )
    first, every = deltas[entry], list(range(1, len(entry.shape)))
    norms = [sensitivity_norms(op, layer, deltas[layer.output])[0] for layer in layers]
    gates = [op.ReduceL2(gate, [1], keepdims=0) for gate in gate_sensitivities(op, layers, deltas)]
    second = differentiate(op, of=op.ReduceSum(op.Mul(first, first), every, keepdims=0), wrt=[entry])[entry]
    found = Session(network.model, [*norms, *gates, first, second], threads=1)(inputs)
    return Found(np.stack(found[: len(layers)]), np.stack(found[len(layers) : -2]), *found[-2:])


def entry_of(network: ForwardGraph, module: nn.Module) -> ir.Value:
    """Where gradients end: at the input, or where words have become numbers."""
    words = getattr(module, "vocabulary", 0)
    if not words:
        return network.target
    tables = [node for node in network.model.graph if node.op_type == "Gather"]
    return next(node.outputs[0] for node in tables if dims(node.inputs[0])[0] == words)


def torch_side(module: nn.Module, inputs: np.ndarray) -> Found:
    """The same, sample by sample, in float64."""
    module = module.double()
    weights = {name: parameter for name, parameter in module.named_parameters() if _is_weight(module, name)}
    norms, gates, firsts, seconds = [], [], [], []
    for row in torch.tensor(inputs).double():
        leaf, output = _enter(module, row[None])
        wanted = [*weights.values(), leaf]
        *slopes, first = torch.autograd.grad(output.square().sum() / 2, wanted, create_graph=True, allow_unused=True)
        products = {name: w * g for (name, w), g in zip(weights.items(), slopes, strict=True) if g is not None}
        norms.append([product.norm().item() for product in products.values()])
        gates.append([_by_channel(module, *item).norm().item() for item in products.items()])
        firsts.append(first[0].detach().numpy())
        seconds.append(torch.autograd.grad(first.square().sum(), leaf)[0][0].numpy())
    return Found(np.asarray(norms).T, np.asarray(gates).T, np.stack(firsts), np.stack(seconds))


def _enter(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """What is differentiated with respect to, and the output."""
    if not getattr(module, "vocabulary", 0):
        leaf = x.requires_grad_()
        return leaf, module(leaf)
    leaf = module.words(x.long()).detach().requires_grad_()
    hook = module.words.register_forward_hook(lambda *_: leaf)
    output = module(x)
    hook.remove()
    return leaf, output


def _is_weight(module: nn.Module, name: str) -> bool:
    owner, _, kind = name.rpartition(".")
    layer = module.get_submodule(owner)
    return (kind == "weight" and isinstance(layer, WEIGHTED)) or kind == "in_proj_weight"


def _by_channel(module: nn.Module, name: str, product: Tensor) -> Tensor:
    """Sums over the weights of each output channel."""
    if isinstance(module.get_submodule(name.rpartition(".")[0]), nn.ConvTranspose2d):
        return product.sum((0, 2, 3))
    return product.flatten(1).sum(1)


def difference(actual: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(actual - wanted).max() / np.abs(wanted).max())


def draw_inputs(module: nn.Module, shape: tuple[int, ...]) -> np.ndarray:
    random, words = np.random.default_rng(1), getattr(module, "vocabulary", 0)
    drawn = random.integers(2, words, (3, *shape)) if words else random.normal(size=(3, *shape))
    drawn[0, 0] = 0 if words else drawn[0, 0]
    return drawn.astype(np.float32)


def compare(name: str) -> dict[str, object]:
    module, shape = make(name)
    inputs = draw_inputs(module, shape)
    started = perf_counter()
    found = graph_side(module, shape, inputs)
    seconds = perf_counter() - started
    # torch knows the second derivative of only one form of attention, and of no hard sigmoid
    with sdpa_kernel(SDPBackend.MATH), patch.object(F, "hardsigmoid", hard_sigmoid):
        wanted = torch_side(module, inputs)
    if len(found.norms) != len(wanted.norms):
        raise ValueError(f"{len(found.norms)} layers in the graph, {len(wanted.norms)} in torch")
    return {
        "family": name,
        "layers": len(found.norms),
        "norms": difference(np.sort(found.norms, 0), np.sort(wanted.norms, 0)),  # layers may run in another order
        "gates": difference(np.sort(found.gates, 0), np.sort(wanted.gates, 0)),
        "input": difference(found.first, wanted.first),
        "second": difference(found.second, wanted.second),
        "seconds": round(seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--out")
    options = parser.parse_args()
    rows = []
    print(f"{'family':30} layers    norms    gates    input   second seconds")
    for name in options.names or [*FAMILIES, *filter(is_installed, LIBRARY)]:
        try:
            row = compare(name)
            print(
                "{family:30} {layers:6} {norms:8.1e} {gates:8.1e} {input:8.1e} {second:8.1e} {seconds:7}".format(**row),
                flush=True,
            )
        except (SparsenseError, ValueError) as error:
            row = {"family": name, "error": str(error)}
            print(f"{name:30} {type(error).__name__}: {str(error)[:150]}", flush=True)
        rows.append(row)
    if options.out:
        Path(options.out).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
