import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sparsense.data import SOURCES
from sparsense.data.letters import LETTERS
from sparsense.errors import InputError

GENERATED = ["letters", "inverted_digits", "noisy_digits", "photo_patches"]
DIGIT_LIKE = set("BCDGIJLOPQSTUYZabcdefgijlnopqrstuyz")


@pytest.mark.parametrize("name", GENERATED)
def test_format_of_the_digits_and_determinism(name):
    data = SOURCES[name]()
    assert data.inputs.shape[1:] == (16, 16, 1)
    assert data.name == f"{name}/test"
    assert data.sha256() == SOURCES[name]().sha256()
    assert len(np.unique(data.inputs.reshape(len(data), -1), axis=0)) > 0.95 * len(data)


@pytest.mark.parametrize("name", ["letters", "photo_patches"])
def test_seed_and_count(name):
    few = SOURCES[name](count=20)
    assert len(few) == 20
    assert (few.inputs == SOURCES[name](count=40).inputs[:20]).all()
    assert few.sha256() != SOURCES[name](count=20, seed=1).sha256()
    with pytest.raises(InputError, match="at least 1; got 0"):
        SOURCES[name](count=0)


def test_no_letter_that_looks_like_a_digit():
    assert not set(LETTERS) & DIGIT_LIKE
    assert len(set(LETTERS)) == len(LETTERS)


def test_letters_look_like_digits_in_everything_but_their_shape():
    digits, letters = SOURCES["digits"]("test").inputs, SOURCES["letters"]().inputs
    ink = [images.mean() for images in (digits, letters)]
    sharpness = [np.abs(np.diff(images.astype(float), axis=2)).mean() for images in (digits, letters)]
    assert abs(ink[0] - ink[1]) < 0.15 * ink[0]
    assert abs(sharpness[0] - sharpness[1]) < 0.25 * sharpness[0]
    assert letters.max() == 255


def test_letters_are_legible():
    data = SOURCES["letters"](count=850, seed=3)
    rows = data.inputs.reshape(len(data), -1) / 255
    # V and v, W and w, X and x, M and m have nearly one shape.
    case_blind = np.array([LETTERS.lower().index(LETTERS[label].lower()) for label in data.labels])
    model = LogisticRegression(max_iter=400).fit(rows[:600], case_blind[:600])
    assert model.score(rows[600:], case_blind[600:]) > 0.8


def test_inverted_digits():
    assert (SOURCES["inverted_digits"]().inputs == 255 - SOURCES["digits"]("test").inputs).all()


def test_noise_is_as_strong_as_asked():
    clean = SOURCES["digits"]("test").inputs.astype(float)
    noise = SOURCES["noisy_digits"](strength=0.05).inputs - clean
    inside = (clean > 64) & (clean < 192)  # where nothing is clipped
    assert np.std(noise[inside]) == pytest.approx(255 * 0.05, rel=0.03)
    assert abs(np.mean(noise[inside])) < 0.5
    with pytest.raises(InputError, match="positive strength; got 0"):
        SOURCES["noisy_digits"](strength=0)


def test_photo_patches_come_from_both_photographs():
    data = SOURCES["photo_patches"](count=100)
    assert np.bincount(data.labels).tolist() == [50, 50]
    assert np.median(np.ptp(data.inputs.reshape(100, -1), axis=1)) > 50  # most have structure
