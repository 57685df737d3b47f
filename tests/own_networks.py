"""Networks of a user, as `own_networks:function`; small, and each with something that shapes alone do not tell."""

import torch
from torch import nn
from torch.nn import functional


class DepthwiseAutoencoder(nn.Module):
    """Depthwise convolution, group norm, and a transposed convolution."""

    input_shape = (2, 8, 8)
    task = "reconstruction"

    def __init__(self, width=8):
        super().__init__()
        self.down = nn.Conv2d(2, width, 3, 2, 1)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.GroupNorm(4, width)
        self.up = nn.ConvTranspose2d(width, 2, 2, 2)

    def forward(self, x):
        return self.up(functional.gelu(self.norm(self.depthwise(self.down(x)))))


class Attention(nn.Module):
    """Tokens, layer norm, heads of attention that are computed by hand."""

    input_shape = (3, 8, 8)

    def __init__(self, width=16, num_heads=4):
        super().__init__()
        self.num_heads = num_heads
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        x = self.norm(self.patch(x).flatten(2).transpose(1, 2))
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(x.mean(1))


class Masked(nn.Module):
    """A buffer of minus infinity, as masks of attention have."""

    input_shape = (3,)

    def __init__(self):
        super().__init__()
        self.scores = nn.Linear(3, 3)
        self.register_buffer("mask", torch.full((3, 3), float("-inf")).triu(1))

    def forward(self, x):
        return (self.scores(x)[:, :, None] + self.mask).softmax(2).sum(1)


def masked():
    return Masked()


class Tied(nn.Module):
    """Two layers that share one weight."""

    input_shape = (6,)
    task = "reconstruction"

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


class Forgetful(nn.Module):
    """Keeps a number where no checkpoint looks."""

    input_shape = (4,)

    def __init__(self):
        super().__init__()
        self.hidden = {"scale": 1.0}
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(x) * self.hidden["scale"]


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def lambda_shortcut(before=1, stride=2):
    """Somebody else's way to write a padded shortcut."""

    def pad(x):
        return functional.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, before, 3 - before))

    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), Lambda(pad), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    module.input_shape = (1, 9, 9)
    return module


def inplace():
    """An activation that overwrites what is added to it later."""

    class InPlace(nn.Module):
        input_shape = (1, 6, 6)

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.activation = nn.ReLU(inplace=True)

        def forward(self, x):
            y = self.conv(x)
            z = self.activation(y)
            z += 1.0
            return (y + z).mean((2, 3))

    return InPlace()


def random_output():
    """Answers differently every time."""

    class Noisy(nn.Module):
        input_shape = (4,)

        def forward(self, x):
            return x + torch.randn(4)

    return Noisy()


def reads_values():
    """Its way depends on the numbers, which no graph can hold."""

    class Branching(nn.Module):
        input_shape = (4,)

        def forward(self, x):
            return x if float(x.sum()) > 0 else -x

    return Branching()


def looks_at_others():
    """Every sample is told the mean of all of them."""

    class Social(nn.Module):
        input_shape = (4,)

        def forward(self, x):
            return x + x.mean(0, keepdim=True)

    return Social()


def unsupported_operator():
    """Torch can trace it, and ONNX has no word for it."""

    class Eigenvalues(nn.Module):
        input_shape = (1, 3, 3)

        def forward(self, x):
            return torch.linalg.eigvals(x[:, 0]).real

    return Eigenvalues()


def mixes_batch():
    """Folds the batch into two rows."""

    class Mixing(nn.Module):
        input_shape = (4,)

        def forward(self, x):
            return x.reshape(2, -1)

    return Mixing()


def undeclared(classes=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes))


def small_convolution():
    module = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), Lambda(lambda x: x.mean((2, 3))), nn.Linear(4, 3))
    module.input_shape = (1, 8, 8)
    return module


def not_a_module():
    return "a string"


def wrong_forward():
    return nn.Linear(7, 2)


NOT_A_FUNCTION = 3


class ShutAutoencoder(nn.Module):
    """Its only units are shut for every image, so that no gradient opens them."""

    input_shape = (1, 16, 16)
    task = "reconstruction"

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, 2, 1)
        nn.init.constant_(self.down.bias, -100.0)
        self.up = nn.ConvTranspose2d(4, 1, 2, 2)

    def forward(self, x):
        return self.up(functional.relu(self.down(x)))
