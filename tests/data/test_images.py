import io
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from sparsense.data.images import MAX_PIXELS, checked_size, read_image, resize
from sparsense.errors import InputError, UnsafeFileError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(pixels, **options):
    return encoded(Image.fromarray(pixels), **options)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_pixels_back(kind, tmp_path):
    file = tmp_path / "image.bin"  # the content decides, not the ending
    file.write_bytes(encoded(Image.fromarray(PIXELS), kind))
    assert (read_image(file) == PIXELS).all()


def test_grey_is_the_luma_of_rec_601():
    grey = read_image(png(PIXELS), channels=1)
    assert grey.shape == (6, 8, 1)
    assert np.abs(grey[..., 0] - PIXELS @ [0.299, 0.587, 0.114]).max() <= 1


def test_grey_file_as_rgb_repeats_the_channel():
    rgb = read_image(png(PIXELS[..., 0]))
    assert (rgb == PIXELS[..., :1]).all()


def test_halving_is_bilinear_with_antialiasing():
    steps = np.repeat(np.repeat(PIXELS[:3, :4], 8, 0), 8, 1)
    small = read_image(png(steps), size=(3, 4))
    assert small.shape == (3, 4, 3)
    # The filter of width two new pixels sees a block of 8x8 and half of each neighbour: inside (9/16 + ...) exact
    # for a constant picture, and never outside the range of the blocks.
    constant = read_image(png(np.full((40, 24, 3), 77, np.uint8)), size=5)
    assert (constant == 77).all()
    assert small.min() >= steps.min()
    assert small.max() <= steps.max()


def test_transparency_lies_over_white():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[..., 3] = [[0, 255], [0, 255]]
    assert (read_image(png(rgba))[..., 0] == [[255, 0], [255, 0]]).all()


def test_exif_orientation_is_followed():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: rotate by 90 degrees
    turned = read_image(png(PIXELS, exif=exif))
    assert (turned == np.rot90(PIXELS, -1)).all()


def test_sixteen_bit_grey_keeps_its_range():
    deep = np.array([[0, 257 * 100, 65535]], np.uint16)
    assert read_image(png(deep), channels=1)[0, :, 0].tolist() == [0, 100, 255]


def test_palette_images():
    palette = Image.fromarray(PIXELS).quantize(16)
    assert (read_image(encoded(palette)) == np.array(palette.convert("RGB"))).all()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:0], "empty"),
        (lambda data: b"not an image" + data, "not an image in one of the formats BMP"),
        (lambda data: data[:60], "damaged"),
        (lambda data: data[:50] + bytes(20) + data[70:], "damaged|not an image"),
        (lambda data: data[:40], "damaged|not an image"),
    ],
)
def test_damaged_files_are_named(damage, message, tmp_path):
    file = tmp_path / "broken.png"
    file.write_bytes(damage(png(PIXELS)))
    with pytest.raises(InputError, match=f"broken.png.*({message})"):
        read_image(file)


def test_every_truncation_and_every_flipped_byte_is_an_image_or_an_input_error():
    whole = encoded(Image.fromarray(PIXELS), "JPEG")
    random = np.random.default_rng(1)
    for _ in range(300):
        data = bytearray(whole[: random.integers(1, len(whole))])
        data[random.integers(len(data))] ^= int(random.integers(1, 256))
        with suppress(InputError):
            assert read_image(bytes(data), 4).shape == (4, 4, 3)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"no image file .*gone\.png"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize("side", [9000, 40000])
def test_decompression_bombs_are_refused_before_decoding(side):
    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    chunk = b"IHDR" + header
    data = zlib.compress(bytes(100))
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + len(header).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        + len(data).to_bytes(4, "big") + b"IDAT" + data + zlib.crc32(b"IDAT" + data).to_bytes(4, "big")
    )  # fmt: skip
    assert side * side > MAX_PIXELS
    with pytest.raises(UnsafeFileError, match="refused"):
        read_image(bomb)


def test_formats_beyond_the_list_are_not_tried():
    with pytest.raises(InputError, match="not an image in one of the formats"):
        read_image(encoded(Image.fromarray(PIXELS), "ICO"))


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_images_of_32_bits_have_no_range_and_are_named(kind, tmp_path):
    file = tmp_path / "deep.tif"
    file.write_bytes(encoded(Image.fromarray(PIXELS[..., 0].astype(kind)), "TIFF"))
    with pytest.raises(InputError, match=r"deep\.tif: expected pixels of 8 or 16 bits; found 32 bits"):
        read_image(file)
    with pytest.raises(InputError, match="the image given as bytes: expected pixels of 8 or 16 bits"):
        read_image(file.read_bytes())


@pytest.mark.parametrize("size", [0, -3, 5000, (3,), (3, 0), (1.5, 2), "32"])
def test_bad_sizes(size):
    with pytest.raises(InputError, match="expected a size"):
        checked_size(size)


def test_bad_channels():
    with pytest.raises(InputError, match=r"1 channel.*got 4"):
        read_image(png(PIXELS), channels=4)


def test_resize_equals_reading_at_that_size():
    images = np.stack([PIXELS, PIXELS[::-1]])
    resized = resize(images, (3, 4), 1)
    assert (resized[1] == read_image(png(PIXELS[::-1]), (3, 4), 1)).all()
    assert resize(images, None, None) is images
    assert (resize(images[..., :1], None, 3) == images[..., :1]).all()
    with pytest.raises(InputError, match=r"found float32 \[2, 3\]"):
        resize(np.zeros((2, 3), np.float32), 4, 1)
