"""How far a reconstruction is from its input, sample by sample, as losses: plain or amplified."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from sparsense.errors import TrainingError

SCALES, CONSTANT = 3, 0.0026  # of the similarity of gradient magnitudes
K1, K2 = 0.01, 0.03  # of the structural similarity
LARGEST = 1 - 1e-6  # an error is amplified by at most a million
SAFE = 1e-12  # under a root: the length of a zero vector then has the gradient zero

ErrorMaps = Callable[[Tensor, Tensor, int], list[Tensor]]
"""`(x, x', window) -> error of every element or window`, [N, M] at each scale; of images in [0, 1] within [0, 1]."""


@dataclass(frozen=True)
class BaseError:
    """The error of each sample, by name; the heads `reconstruction_error` and `latent_norm` measure the same.

    l2: mean (x - x')^2;  l1: mean |x - x'|;  ssim: mean (1 - SSIM) / 2;  ms_gms: 1 - similarity of gradient magnitudes;
    norm: || x - x' ||_2, which is neither bounded nor squared
    amplified element by element: mean of -log(1 - e + 1e-12);  after the mean: -log(1 - mean e + 1e-12)

    Args:
        name: Of the above.
        amplify: `element`, `mean`, or None: as it is. Needs an error in [0, 1]; `norm` has none.
        window: Side of the windows of `ssim`, in pixels.
    """

    name: str = "l2"
    amplify: Literal["element", "mean"] | None = None
    window: int = 11

    def __post_init__(self) -> None:
        if self.name not in ERRORS:
            raise ValueError(f"error must be one of {', '.join(ERRORS)}; got {self.name!r}")
        if self.amplify not in (None, "element", "mean"):
            raise ValueError(f"amplify must be element, mean or null; got {self.amplify!r}")
        if self.amplify is not None and self.name == "norm":
            raise ValueError("amplify needs an error between 0 and 1, and the norm has no upper bound; use l2 or l1")
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 2:
            raise ValueError(f"window must be a whole number of at least 2; got {self.window!r}")

    def __call__(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """The error of each sample, [N].

        Raises:
            TrainingError: An error outside [0, 1] should be amplified.
        """
        with torch.autocast(outputs.device.type, enabled=False):  # of what is nearly equal, differences need digits
            maps = ERRORS[self.name](_exact(inputs), _exact(outputs), self.window)
        if self.amplify == "element":
            maps = [amplified(errors, self.name) for errors in maps]
        mean = torch.stack([errors.mean(1) for errors in maps]).mean(0)
        return amplified(mean, self.name) if self.amplify == "mean" else mean


def amplified(errors: Tensor, name: str = "error") -> Tensor:
    """-log(1 - e + 1e-12), the error for small ones and ever steeper towards 1; e is cut off at 1 - 1e-6.

    Raises:
        TrainingError: An error outside [0, 1]; with the range that was found.

    Example:
        >>> [round(float(value), 4) for value in amplified(torch.tensor([0.01, 0.5]))]
        [0.0101, 0.6931]
    """
    low, high = map(float, torch.aminmax(errors.detach()))
    if low < -1e-6 or high > 1 + 1e-6:
        raise TrainingError(
            f"amplifying the error {name!r}: expected values in [0, 1), found {low:.4g} to {high:.4g}. Bring inputs to "
            "[0, 1] (preprocessing without mean and std) and end the network with a sigmoid."
        )
    return -torch.log1p(-errors.clamp(0, LARGEST))  # exact for small errors; next to 1e-6, 1e-12 is nothing


def _exact(images: Tensor) -> Tensor:
    return images if images.dtype == torch.float64 else images.float()


def _squared(x: Tensor, y: Tensor, _: int) -> list[Tensor]:
    return [((x - y) ** 2).flatten(1)]


def _absolute(x: Tensor, y: Tensor, _: int) -> list[Tensor]:
    return [(x - y).abs().flatten(1)]


def _norm(x: Tensor, y: Tensor, _: int) -> list[Tensor]:
    return [length(x - y)[:, None]]


def _structural(x: Tensor, y: Tensor, window: int) -> list[Tensor]:
    """(1 - SSIM) / 2 of every channel and square, uniform window inside the image; images in [0, 1].

    With d = x - x' and its mean m_d and variance v_d, SSIM = (1 - a) (1 - b), a = m_d^2 / (m_x^2 + m_x'^2 + c1) and
    b = v_d / (v_x + v_x' + c2): where images are nearly equal this has digits that 2 m_x m_x' and covariances lose.
    Variances are those of images less their own mean, for the same reason.
    """
    _check_image(x, window)

    def mean(image: Tensor) -> Tensor:
        return functional.avg_pool2d(image, window, 1)

    def variance(image: Tensor) -> Tensor:
        centred = image - image.detach().mean((2, 3), keepdim=True)
        return (mean(centred * centred) - mean(centred) ** 2).clamp_min(0)

    a = mean(x - y) ** 2 / (mean(x) ** 2 + mean(y) ** 2 + K1**2)
    b = variance(x - y) / (variance(x) + variance(y) + K2**2)
    return [((a + b - a * b) / 2).flatten(1)]


def _gradient_magnitudes(x: Tensor, y: Tensor, _: int) -> list[Tensor]:
    """1 - (2 g g' + c) / (g^2 + g'^2 + c), or (g - g')^2 / (g^2 + g'^2 + c): channels' means at 3 scales."""
    _check_image(x, 3 * 2 ** (SCALES - 1))
    x, y = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    found = []
    for scale in range(SCALES):
        if scale:
            x, y = functional.avg_pool2d(x, 2), functional.avg_pool2d(y, 2)
        gx, gy = _magnitude(x), _magnitude(y)
        found.append(((gx - gy) ** 2 / (gx * gx + gy * gy + CONSTANT)).flatten(1))
    return found


def _magnitude(image: Tensor) -> Tensor:
    """Length of the Prewitt gradient."""
    kernel = image.new_tensor([[-1.0, 0.0, 1.0]] * 3) / 3
    gradient = functional.conv2d(image, torch.stack([kernel, kernel.T])[:, None])
    return ((gradient * gradient).sum(1, keepdim=True) + SAFE).sqrt()


def length(values: Tensor) -> Tensor:
    """Euclidean norm of each sample, [N], at least in float32; its gradient at 0 is 0."""
    return (_exact(values).flatten(1).square().sum(1) + SAFE).sqrt()


def _check_image(image: Tensor, least: int) -> None:
    if image.ndim != 4 or min(image.shape[2:]) < least:
        raise TrainingError(
            f"comparing images: expected [N, C, H, W] with sides of at least {least}, found {list(image.shape)}; use "
            "the error 'l1' or 'l2', or a smaller window"
        )


ERRORS: Mapping[str, ErrorMaps] = MappingProxyType(
    {"l2": _squared, "l1": _absolute, "ssim": _structural, "ms_gms": _gradient_magnitudes, "norm": _norm}
)
