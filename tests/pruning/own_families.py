"""Networks of the package, and forms of blocks that the tiny families do not have."""

import torch
from torch import nn

from sparsense.networks import load_network


def option_a():
    """Shortcuts that pad channels, rewritten when the network is loaded."""
    return load_network("cifar_resnet8").module


class Bottleneck(nn.Module):
    """Grouped bottleneck with a projection, as in ResNeXt and RegNet."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=2),
            nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16),
        )  # fmt: skip
        self.skip, self.head = nn.Conv2d(8, 16, 1), nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head((self.body(x) + self.skip(x)).relu().mean((2, 3)))


class Inception(nn.Module):
    """Branches of other widths, concatenated, twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.a, self.b, self.pool = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 2, 1)
        self.c, self.d = nn.Conv2d(12, 5, 1), nn.Conv2d(12, 3, 5, padding=2)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        x = torch.cat([self.a(x), self.b(x), self.pool(nn.functional.avg_pool2d(x, 3, 1, 1))], 1).relu()
        return self.head(torch.cat([self.c(x), self.d(x)], 1).relu().mean((2, 3)))


class FeaturePyramid(nn.Module):
    """Maps of two sizes, upsampled and summed."""

    def __init__(self):
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.left, self.right, self.out = nn.Conv2d(8, 6, 1), nn.Conv2d(12, 6, 1), nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x):
        low = self.low(x).relu()
        high = self.right(self.high(low).relu())
        merged = self.left(low) + nn.functional.interpolate(high, scale_factor=2.0)
        return self.out(merged.relu()).mean((2, 3))


class WindowAttention(nn.Module):
    """Shifted windows: rolled, cut into windows of 2 x 2, attention with a bias per place, put together again."""

    def __init__(self, width=8, heads=2):
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(heads, 4, 4))
        self.up, self.down = nn.Linear(width, 16), nn.Linear(16, width)

    def forward(self, x):
        n, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-1, -1), (1, 2)).view(n, h // 2, 2, w // 2, 2, c)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = self.qkv(y).reshape(len(y), 4, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = ((q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5 + self.bias).softmax(-1) @ v).transpose(1, 2)
        y = self.proj(y.reshape(-1, 4, c)).view(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5)
        x = x + torch.roll(y.reshape(n, h, w, c), (1, 1), (1, 2))
        return x + self.down(nn.functional.gelu(self.up(x)))


class Swin(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.block, self.head = nn.Conv2d(3, 8, 2, 2), WindowAttention(), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.block(self.patches(x).permute(0, 2, 3, 1)).mean((1, 2)))


MORE = {
    "option_a": option_a,
    "bottleneck": Bottleneck,
    "inception": Inception,
    "feature_pyramid": FeaturePyramid,
    "swin": Swin,
}
