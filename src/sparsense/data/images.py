"""From an image file, or an array of images, to uint8 pixels of the asked size and number of channels."""

from __future__ import annotations

import io
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.errors import InputError, UnsafeFileError
from sparsense.extras import need

Size = int | tuple[int, int] | list[int]

MAX_FILE_BYTES = 256 << 20
MAX_PIXELS = 64_000_000
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow can open many more; each is a parser that a stranger's file would reach."""

_BROKEN = (OSError, SyntaxError, ValueError, TypeError, EOFError, KeyError, IndexError, struct.error)


def read_image(
    source: str | os.PathLike[str] | bytes, size: Size | None = None, channels: int = 3
) -> NDArray[np.uint8]:
    """Read one image.

    Orientation follows the EXIF tag, transparency is laid over white, 16-bit grey becomes 8-bit, and of an
    animation the first frame is taken. Resizing is bilinear over the whole area of each new pixel, and does
    not keep the aspect ratio.

    Args:
        source: A file, or its bytes.
        size: The side of a square, or (height, width); None keeps the size of the file.
        channels: 1 (grey, Rec. 601 luma) or 3 (RGB).

    Returns:
        uint8 `[H, W, channels]`.

    Raises:
        InputError: Not an image, damaged, empty, or of a kind not supported; the file is named.
        UnsafeFileError: More than 256 MiB, or more than 64 million pixels once decoded.
        MissingExtraError: Pillow is not installed.
    """
    shape = None if size is None else checked_size(size)
    _check_channels(channels)
    image_module = need("PIL.Image", doing="reading an image", extra="data")
    name, data = _bytes_of(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images and odd metadata; both are checked
            with image_module.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_pixels(name, *image.size)
                _check_depth(name, image.mode)
                return _pixels(image, shape, channels)
    except InputError:
        raise
    except image_module.DecompressionBombError as error:
        raise UnsafeFileError(f"{name} is refused: {error}") from error
    except image_module.UnidentifiedImageError as error:
        raise InputError(f"{name} is not an image in one of the formats {', '.join(FORMATS)}") from error
    except _BROKEN as error:
        raise InputError(f"{name} cannot be read as an image, it is damaged: {error}") from error


def resize(images: NDArray[Any], size: Size | None, channels: int | None) -> NDArray[np.uint8]:
    """Images `[N, H, W, C]` at another size or with another number of channels, as `read_image` would."""
    if images.ndim != 4 or images.dtype != np.uint8:
        raise InputError(
            f"size and channels are for images, uint8 [N, H, W, C]; found {images.dtype} {list(images.shape)}"
        )
    shape = images.shape[1:3] if size is None else checked_size(size)
    channels = images.shape[3] if channels is None else channels
    _check_channels(channels)
    if (*shape, channels) == images.shape[1:]:
        return images
    image_module = need("PIL.Image", doing="resizing images", extra="data")
    pictures = (image_module.fromarray(image[..., 0] if image.shape[2] == 1 else image) for image in images)
    return np.stack([_pixels(picture, shape, channels) for picture in pictures])


def checked_size(size: Size) -> tuple[int, int]:
    """(height, width) of a size as a user writes it.

    Example:
        >>> checked_size(32)
        (32, 32)
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and 1 <= side <= 4096 for side in pair):
        raise InputError(f"expected a size of 1 to 4096 pixels, or a pair (height, width); got {size!r}")
    return pair[0], pair[1]


def _check_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise InputError(f"expected 1 channel (grey) or 3 (RGB); got {channels!r}")


def _check_pixels(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnsafeFileError(f"{name} is refused: {width} x {height} pixels; the limit is {MAX_PIXELS:,}")


def _check_depth(name: str, mode: str) -> None:
    if mode in ("I", "F"):
        raise InputError(
            f"reading {name}: expected pixels of 8 or 16 bits; found 32 bits (Pillow mode {mode!r}), which have no "
            "fixed range; save it as 8 or 16 bits"
        )


def _bytes_of(source: str | os.PathLike[str] | bytes) -> tuple[str, bytes]:
    if isinstance(source, bytes):
        name, size = "the image given as bytes", len(source)
    else:
        name = str(source)
        if not Path(source).is_file():
            raise InputError(f"there is no image file {name}")
        size = Path(source).stat().st_size
    if size == 0:
        raise InputError(f"{name} is empty (0 bytes)")
    if size > MAX_FILE_BYTES:
        raise UnsafeFileError(f"{name} is refused: {size:,} bytes; the limit is {MAX_FILE_BYTES:,}")
    return name, source if isinstance(source, bytes) else Path(source).read_bytes()


def _pixels(image: Any, shape: tuple[int, int] | None, channels: int) -> NDArray[np.uint8]:
    operations = need("PIL.ImageOps", doing="reading an image", extra="data")
    image = _eight_bit(operations.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
    if shape is not None and image.size != shape[::-1]:
        image = image.resize(shape[::-1], need("PIL.Image", doing="resizing", extra="data").Resampling.BILINEAR)
    pixels: NDArray[np.uint8] = np.array(image, np.uint8)
    return pixels.reshape(*pixels.shape[:2], channels)


def _eight_bit(image: Any) -> Any:
    """The image without depth or transparency that `convert` would treat wrongly."""
    image_module = need("PIL.Image", doing="reading an image", extra="data")
    if image.mode.startswith("I;16"):
        return image_module.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        white = image_module.new("RGBA", image.size, "white")
        return image_module.alpha_composite(white, image.convert("RGBA"))
    return image
