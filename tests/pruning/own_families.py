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


MORE = {"option_a": option_a, "bottleneck": Bottleneck, "inception": Inception, "feature_pyramid": FeaturePyramid}
