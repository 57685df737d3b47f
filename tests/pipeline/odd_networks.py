"""Networks for pruning jobs that the bundled one is not like; classifiers of 16 x 16 digits."""

import torch
from torch import nn


class Shuffled(nn.Module):
    """Channels that are shuffled cannot be cut; those behind them can."""

    input_shape = (1, 16, 16)

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(1, 8, 3, 2), nn.Conv2d(8, 12, 3, 2), nn.Linear(12, 10)

    def forward(self, x):
        x = self.first(x).relu()
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.last(self.second(x).relu().mean((2, 3)))


class Attention(nn.Module):
    """One layer for query, key and value."""

    def __init__(self, width, heads):
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, t, self.num_heads * self.head_dim))


class Transformer(nn.Module):
    """Patches, attention with four heads, a classifier."""

    input_shape = (1, 16, 16)

    def __init__(self):
        super().__init__()
        self.patches, self.attention, self.last = nn.Conv2d(1, 16, 4, 4), Attention(16, 4), nn.Linear(16, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.last((x + self.attention(x)).mean(1))


class Autoencoder(nn.Module):
    """A reconstruction without labels."""

    input_shape, task = (1, 16, 16), "reconstruction"

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Conv2d(1, 8, 4, 4), nn.ConvTranspose2d(8, 1, 4, 4)

    def forward(self, x):
        return torch.sigmoid(self.decode(self.encode(x).relu()))
