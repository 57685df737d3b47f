"""Letters: what a digit reader will meet sooner or later and should not read as a digit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.data.dataset import Dataset
from sparsense.data.digits import upsample
from sparsense.data.sources import source
from sparsense.errors import InputError
from sparsense.extras import need

LETTERS = "AEFHKMNRVWXhkmvwx"
"""The others are left out because some hand, or 8x8 pixels, make a digit of them: B (8), C (0, 6), D (0),
G (6), I (1), J (1), L (1), O (0), P (9), Q (0), S (5), T (7, 1), U (0), Y (7, 4), Z (2); a (9, 0), b (6),
c (0, 6), d (0), e (6, 2), f (1), g (9), i (1), j (1), l (1), n (0), o (0), p (9), q (9), r (7), s (5),
t (7, 1), u (0), y (9, 4), z (2)."""

_CANVAS = 64


@source("letters", "test")
def letters(split: str, *, count: int = 400, seed: int = 0) -> Dataset:
    """Letters in the format of the digits, uint8 `[count, 16, 16, 1]`; labels index `LETTERS`.

    Drawn in Pillow's own typeface, each with its own size, stroke width, rotation, shear and place, and
    brought to 8x8 cells of 17 grey values and back to 16x16 as the digits were, so that sharpness gives
    nothing away. Letters that can be taken for digits are left out.

    Args:
        split: `test`.
        count: How many; the letters take turns.
        seed: Of everything random (and of a draw by `limit`).

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    if count < 1:
        raise InputError(f"data source 'letters': expected a count of at least 1; got {count}")
    random = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % len(LETTERS)
    cells = np.stack([draw_letter(LETTERS[label], random) for label in labels])
    return Dataset(f"letters/{split}", upsample(cells), labels)


def draw_letter(letter: str, random: np.random.Generator) -> NDArray[np.int64]:
    """One letter, bright on dark, `[8, 8]`, whole numbers 0..16."""
    pil_image = need("PIL.Image", doing="the data source 'letters'", extra="data")
    canvas = pil_image.new("L", (_CANVAS, _CANVAS))
    stroke = int(random.integers(1, 5))
    need("PIL.ImageDraw", doing="the data source 'letters'", extra="data").Draw(canvas).text(
        (_CANVAS / 2, _CANVAS / 2),
        letter,
        fill=255,
        font=_font(letter, random.uniform(0.75, 0.95) * _CANVAS - 2 * stroke),
        anchor="mm",
        stroke_width=stroke,
    )
    placed = canvas.transform(
        canvas.size,
        pil_image.Transform.AFFINE,
        data=_placement(random),
        resample=pil_image.Resampling.BILINEAR,
    )
    cells = np.asarray(placed.resize((8, 8), pil_image.Resampling.BOX), np.float64)
    return np.rint(cells * 16 / 255).astype(np.int64)


def _font(letter: str, extent: float) -> Any:
    """The typeface at the size at which the larger side of the letter measures `extent` pixels."""
    fonts = need("PIL.ImageFont", doing="the data source 'letters'", extra="data")
    left, top, right, bottom = fonts.load_default(size=100).getbbox(letter)
    return fonts.load_default(size=100 * extent / max(right - left, bottom - top))


def _placement(random: np.random.Generator) -> tuple[float, ...]:
    """Output to input coordinates about the centre: rotation up to 17 degrees, shear, shift up to 1/32."""
    angle, shear = random.uniform(-0.3, 0.3), random.uniform(-0.25, 0.25)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = rotation @ np.array([[1.0, shear], [0.0, 1.0]])
    centre = np.full(2, _CANVAS / 2)
    offset = centre - linear @ (centre + random.uniform(-_CANVAS / 32, _CANVAS / 32, size=2))
    return tuple(np.column_stack([linear, offset]).ravel().tolist())
