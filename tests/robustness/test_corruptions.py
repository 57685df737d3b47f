"""Damages: what each must do, in closed form where there is one, and what all must keep."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sparsense.errors import InputError, UnknownNameError
from sparsense.robustness.blur import disk, filtered, line, zoomed
from sparsense.robustness.corruptions import CORRUPTIONS, corrupt

KINDS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
BLURS = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "pixelate")


def pictures(count=4, channels=3, side=32):
    """Smooth shapes with edges."""
    y, x = np.mgrid[:side, :side] / side
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        waves = [0.5 + 0.4 * np.sin(2 * np.pi * (random.uniform(1, 3) * x + random.uniform(1, 3) * y)) for _ in
                 range(channels)]  # fmt: skip
        image = np.stack(waves, -1)
        image[np.hypot(x - 0.5, y - 0.5) < 0.2] = random.random(channels)
        found.append(image)
    return (np.stack(found) * 255).astype(np.uint8)


def even(level, side=64):
    return np.full((2, side, side, 3), level, np.uint8)


def moved(images, damaged):
    return float(((images / 255.0 - damaged / 255.0) ** 2).mean())


def test_there_are_the_fifteen_standard_kinds_in_five_strengths():
    assert set(CORRUPTIONS) == set(KINDS)
    assert {len(found.strengths) for found in CORRUPTIONS.values()} == {5}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damage_grows_with_its_severity_and_depends_on_the_seed_alone(kind, channels):
    images = pictures(channels=channels)
    kept = images.copy()
    found = [corrupt(images, kind, severity) for severity in range(1, 6)]
    np.testing.assert_array_equal(images, kept)
    assert {(one.shape, one.dtype) for one in found} == {(images.shape, np.dtype(np.uint8))}
    assert 0 < moved(images, found[0]) < moved(images, found[2]) < moved(images, found[4])
    np.testing.assert_array_equal(found[2], corrupt(images, kind, 3))


@pytest.mark.parametrize("kind", ["gaussian_noise", "shot_noise", "impulse_noise", "snow", "frost", "fog"])
def test_another_seed_draws_another_damage(kind):
    assert (corrupt(pictures(), kind, 3, seed=0) != corrupt(pictures(), kind, 3, seed=1)).any()


@pytest.mark.parametrize("kind", [*BLURS, "elastic_transform", "contrast"])
def test_what_is_even_stays_even(kind):
    found = corrupt(even(100), kind, 5)
    assert np.abs(found.astype(int) - 100).max() <= 1


@pytest.mark.parametrize("kind", BLURS)
def test_a_blur_takes_detail_and_keeps_the_light(kind):
    images = pictures(side=48)
    found = corrupt(images, kind, 4)
    detail = [np.abs(np.diff(one.astype(float), axis=1)).mean() for one in (images, found)]
    assert detail[1] < detail[0] or kind == "glass_blur"  # which scatters
    assert found.mean() == pytest.approx(images.mean(), rel=0.06)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_noises_have_the_moments_that_they_say(severity):
    level, white = 128 / 255, even(128)
    found = {kind: corrupt(white, kind, severity) / 255 for kind in ("gaussian_noise", "shot_noise", "impulse_noise")}
    strength = {kind: CORRUPTIONS[kind].strengths[severity - 1] for kind in found}
    assert found["gaussian_noise"].std() == pytest.approx(strength["gaussian_noise"], rel=0.03)
    assert found["shot_noise"].var() == pytest.approx(level / strength["shot_noise"], rel=0.05)
    assert np.isin(found["impulse_noise"], (0, 1)).mean() == pytest.approx(strength["impulse_noise"], rel=0.2)
    assert all(one.mean() == pytest.approx(level, abs=0.01) for one in found.values())


def test_brightness_and_contrast_are_what_they_say():
    images = pictures() // 2
    np.testing.assert_allclose(corrupt(images, "brightness", 1), images + 25.5, atol=0.51)
    halved = corrupt(images, "contrast", 2) / 255
    mean = (images / 255).mean((1, 2), keepdims=True)
    np.testing.assert_allclose(halved, mean + 0.5 * (images / 255 - mean), atol=0.003)


def test_jpeg_is_what_pillow_stores():
    images = pictures()
    file = io.BytesIO()
    Image.fromarray(images[1]).save(file, "JPEG", quality=25)
    np.testing.assert_array_equal(corrupt(images, "jpeg_compression", 3)[1], np.asarray(Image.open(file)))


def test_coarse_pixels_are_means_of_their_area():
    images = pictures(side=32)
    found = corrupt(images, "pixelate", 4)  # half the side
    blocks = images.reshape(4, 16, 2, 16, 2, 3).mean((2, 4))
    np.testing.assert_allclose(found[:, ::2, ::2], blocks, atol=0.51)
    np.testing.assert_array_equal(found[:, ::2, ::2], found[:, 1::2, 1::2])


def test_kernels():
    spot = np.zeros((1, 21, 21, 1))
    spot[0, 10, 10] = 1
    assert filtered(spot, disk(3.0)).sum() == pytest.approx(1.0)
    assert np.count_nonzero(line(7, 0.0)) == np.count_nonzero(line(7, 0.0)[3]) == 7
    np.testing.assert_array_equal(disk(2.0), disk(2.0).T)
    ramp = np.broadcast_to(np.linspace(0, 1, 21)[None, :, None, None], (1, 21, 21, 1))
    np.testing.assert_allclose(np.diff(zoomed(ramp, 2.0)[0, :, 5, 0]), 0.025, atol=1e-12)  # half as steep


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: corrupt(pictures(), "fogg", 1), UnknownNameError, "Did you mean 'fog'"),
        (lambda: corrupt(pictures(), "fog", 6), InputError, "severity from 1 to 5; got 6"),
        (lambda: corrupt(pictures() / 255, "fog", 1), InputError, "expected uint8"),
        (lambda: corrupt(pictures()[..., :2], "fog", 1), InputError, "expected uint8"),
    ],
)
def test_mistakes_are_explained(call, error, message):
    with pytest.raises(error, match=message):
        call()
