"""The registry of damages that images suffer, each in five strengths."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.errors import InputError, UnknownNameError

Images = NDArray[np.float64]
"""`[N, H, W, C]` in [0, 1]; results are cut to that range by `corrupt`."""
Damage = Callable[[Images, float, np.random.Generator], Images]


@dataclass(frozen=True)
class Corruption:
    """A damage and its strength at each severity."""

    damage: Damage
    strengths: tuple[float, ...]


CORRUPTIONS: dict[str, Corruption] = {}


def corruption(*strengths: float) -> Callable[[Damage], Damage]:
    """Register a damage under its name, with five strengths."""

    def register(damage: Damage) -> Damage:
        CORRUPTIONS[damage.__name__] = Corruption(damage, strengths)
        return damage

    return register


def known(kind: str) -> Corruption:
    """The damage of that name.

    Raises:
        UnknownNameError: There is none.
    """
    if kind not in CORRUPTIONS:
        raise UnknownNameError("corruption", kind, CORRUPTIONS)
    return CORRUPTIONS[kind]


def corrupt(images: NDArray[np.uint8], kind: str, severity: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Damage images.

    The fifteen kinds are those of Hendrycks and Dietterich (2019); the code and the strengths, which go with the size
    of the image, are this project's own: figures are not those of CIFAR-10-C or ImageNet-C.

    Args:
        images: `[N, H, W, C]`, uint8, one or three channels.
        kind: A name in `CORRUPTIONS`.
        severity: 1 to 5.
        seed: Of what is drawn.

    Returns:
        The same shape, uint8.

    Raises:
        UnknownNameError: No such kind.
        InputError: Other images, or another severity.

    Reference:
        D. Hendrycks, T. Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
        ICLR 2019, arXiv:1903.12261.
    """
    found = known(kind)
    _check(images, severity)
    random = np.random.default_rng([seed, severity, zlib.crc32(kind.encode())])
    damaged = found.damage(images / 255.0, found.strengths[severity - 1], random)
    return np.rint(np.clip(damaged, 0.0, 1.0) * 255).astype(np.uint8)


def _check(images: NDArray[Any], severity: int) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise InputError(f"damaging images: expected uint8 [N, H, W, 1 or 3]; found {images.dtype} {images.shape}")
    if severity not in range(1, 6):
        raise InputError(f"damaging images: expected a severity from 1 to 5; got {severity}")
