"""Tiny networks of many families, each written to show one kind of coupling."""

import torch
from torch import nn
from torch.nn import functional


class BasicBlock(nn.Module):
    def __init__(self, i, o, stride=1, pre=False):
        super().__init__()
        self.pre = pre
        self.norm1 = nn.BatchNorm2d(i if pre else o)
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(o)
        self.shortcut = nn.Identity() if i == o else nn.Conv2d(i, o, 1, stride, bias=False)

    def forward(self, x):
        if self.pre:  # wide residual networks
            h = self.norm1(x).relu()
            return self.conv2(self.norm2(self.conv1(h)).relu()) + self.shortcut(h if x.shape != h.shape else x)
        h = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return (h + self.shortcut(x)).relu()


def resnet(pre=False):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), BasicBlock(8, 8, pre=pre), BasicBlock(8, 12, 2, pre=pre), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * k) for k in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(6 + 4 * k, 4, 3, padding=1) for k in range(3))
        self.transition = nn.Conv2d(18, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(norm(x).relu())], 1)
        return self.head(functional.avg_pool2d(self.transition(x), 2).mean((2, 3)))


def vgg():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Dropout(),
        nn.Linear(16, 4),
    )  # fmt: skip


class SqueezeExcite(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.down, self.up = nn.Conv2d(c, 4, 1), nn.Conv2d(4, c, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.up(self.down(x.mean((2, 3), keepdim=True)).relu()))


class InvertedResidual(nn.Module):
    def __init__(self, i, o, act=nn.ReLU6, squeeze=False):
        super().__init__()
        hidden = 2 * i
        self.body = nn.Sequential(
            nn.Conv2d(i, hidden, 1, bias=False), nn.BatchNorm2d(hidden), act(),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), act(),
            SqueezeExcite(hidden) if squeeze else nn.Identity(), nn.Conv2d(hidden, o, 1, bias=False), nn.BatchNorm2d(o),
        )  # fmt: skip
        self.same = i == o

    def forward(self, x):
        return x + self.body(x) if self.same else self.body(x)


def mobilenet(act=nn.ReLU6, squeeze=False):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), act(), InvertedResidual(6, 6, act, squeeze),
        InvertedResidual(6, 8, act, squeeze), nn.Conv2d(8, 16, 1), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 4),
    )  # fmt: skip


class ConvNext(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.rand(8))
        self.final, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        h = self.norm(self.depth(x).permute(0, 2, 3, 1))
        x = x + (self.scale * self.down(functional.gelu(self.up(h)))).permute(0, 3, 1, 2)
        return self.head(self.final(x.mean((2, 3))))


class Fire(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.squeeze = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.one, self.three = nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 3, padding=1)
        self.head = nn.Conv2d(12, 4, 1)

    def forward(self, x):
        x = self.squeeze(self.stem(x).relu()).relu()
        x = torch.cat([self.one(x), self.three(x)], 1).relu()
        return self.head(x).mean((2, 3))


class Attention(nn.Module):
    """Separate query, key and value."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = (layer(x).view(n, t, self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        h = functional.scaled_dot_product_attention(q, k, v)
        return self.out(h.transpose(1, 2).reshape(n, t, -1))


class FusedAttention(nn.Module):
    """One layer for query, key and value; the number of heads and their width are attributes."""

    def __init__(self, width, heads):
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, t, self.num_heads * self.head_dim))


class TorchAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.inner = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x, need_weights=False)[0]


class VisionTransformer(nn.Module):
    def __init__(self, attention=TorchAttention):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, 5, 8))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(8) for _ in range(3))
        self.attention = attention(8, 2)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        x = x + self.attention(self.norm1(x))
        x = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return self.head(self.norm3(x)[:, 0])


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.merge, self.out = nn.Conv2d(12, 6, 3, padding=1), nn.Conv2d(6, 3, 1)

    def forward(self, x):
        first = self.down1(x).relu()
        return self.out(self.merge(torch.cat([self.up(self.down2(first).relu()), first], 1)).relu())


def conv_autoencoder():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(6, 8, 2, 2), nn.GroupNorm(2, 8), nn.LeakyReLU(), nn.ConvTranspose2d(8, 3, 2, 2),
        nn.Sigmoid(),
    )  # fmt: skip


class BottleneckAutoencoder(nn.Module):
    def __init__(self, width=6, size=2):
        super().__init__()
        self.shape = (-1, width, size, size)
        self.encode = nn.Sequential(nn.Conv2d(3, width, 4, 4), nn.ReLU(), nn.Flatten())
        self.code, self.uncode = nn.Linear(width * size**2, 5), nn.Linear(5, width * size**2)
        self.decode = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(width, 3, 4, 4))

    def forward(self, x):
        h = self.uncode(self.code(self.encode(x)))
        return self.decode(h.view(len(x), -1, *self.shape[2:]))


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.token_up, self.token_down = nn.Linear(4, 6), nn.Linear(6, 4)
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.token_down(self.token_up(self.norm1(x).transpose(1, 2)).relu()).transpose(1, 2)
        x = x + self.down(self.up(self.norm2(x)).relu())
        return self.head(x.mean(1))


def conv1d():
    return nn.Sequential(
        nn.Conv1d(2, 6, 3, padding=1), nn.InstanceNorm1d(6, affine=True), nn.PReLU(6), nn.Conv1d(6, 6, 3, groups=2),
        nn.BatchNorm1d(6), nn.ELU(), nn.Conv1d(6, 8, 1), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def conv3d():
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 6, 2, 2), nn.Softplus(),
        nn.ConvTranspose3d(6, 4, 2, 2), nn.Flatten(), nn.Linear(256, 4),
    )  # fmt: skip


def grouped():
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1, groups=4), nn.ReLU(),
        nn.ConvTranspose2d(12, 8, 2, 2, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.block(self.block(x).relu()).relu().mean((2, 3)))


def mlp():
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4)
    )


IMAGE = (3, 8, 8)
FAMILIES = {
    "resnet": (resnet, IMAGE),
    "wide_resnet": (lambda: resnet(pre=True), IMAGE),
    "densenet": (DenseNet, IMAGE),
    "vgg": (vgg, IMAGE),
    "mobilenet_v2": (mobilenet, IMAGE),
    "mobilenet_v3": (lambda: mobilenet(nn.Hardswish, squeeze=True), IMAGE),
    "efficientnet": (lambda: mobilenet(nn.SiLU, squeeze=True), IMAGE),
    "convnext": (ConvNext, IMAGE),
    "squeezenet": (Fire, IMAGE),
    "transformer": (VisionTransformer, IMAGE),
    "transformer_separate": (lambda: VisionTransformer(Attention), IMAGE),
    "transformer_fused": (lambda: VisionTransformer(FusedAttention), IMAGE),
    "unet": (UNet, IMAGE),
    "conv_autoencoder": (conv_autoencoder, IMAGE),
    "bottleneck_autoencoder": (BottleneckAutoencoder, IMAGE),
    "mixer": (Mixer, IMAGE),
    "conv1d": (conv1d, (2, 9)),
    "conv3d": (conv3d, (1, 4, 4, 4)),
    "grouped": (grouped, IMAGE),
    "shared": (Shared, IMAGE),
    "mlp": (mlp, (6,)),
}


def make(name):
    """The network with random batch norm statistics, and two inputs."""
    torch.manual_seed(0)
    build, shape = FAMILIES[name]
    module = build()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 2)
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.normal_(0, 0.3)
    return module.eval(), torch.randn(2, *shape)
