"""`explanations.npz`, what the report draws: the most anomalous inputs of every set, and why they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.data.arrays import npz_keys, read_npz
from sparsense.errors import InputError
from sparsense.files import atomic_write

FIELDS = ("images", "parts", "usual", "maps")
Key = tuple[str, str]
"""Variant and head."""


@dataclass(frozen=True)
class Drawn:
    """The inputs that a detector's explanation shows, in the order of the card's examples.

    Attributes:
        images: uint8 `[n, H, W, C]`; None for rows of a table.
        parts: `[n, P]`; None where a score has no parts.
        usual: Median parts of test inputs, `[P]`.
        maps: `[n, H, W]`; None where there is none.
    """

    images: NDArray[Any] | None = None
    parts: NDArray[Any] | None = None
    usual: NDArray[Any] | None = None
    maps: NDArray[Any] | None = None


def write_explanations(path: str | Path, drawn: Mapping[Key, Drawn]) -> None:
    """Write all of them, compressed and without pickles."""
    arrays = {
        "/".join((*key, name)): getattr(part, name)
        for key, part in drawn.items()
        for name in FIELDS
        if getattr(part, name) is not None
    }
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def read_explanations(path: str | Path) -> dict[Key, Drawn]:
    """Read what `write_explanations` wrote; nothing where there is no such file.

    Raises:
        InputError: Damaged, or keys of another form.
    """
    file = Path(path)
    if not file.is_file():
        return {}
    names = npz_keys(file)
    found: dict[Key, dict[str, NDArray[Any]]] = {}
    for name, array in zip(names, read_npz(file, names), strict=True):
        variant, _, rest = name.partition("/")
        head, _, field = rest.rpartition("/")
        if field not in FIELDS or not head:
            raise InputError(f"{file}: expected arrays named variant/head/{{{', '.join(FIELDS)}}}; found {name!r}")
        found.setdefault((variant, head), {})[field] = array
    return {key: Drawn(**arrays) for key, arrays in found.items()}
