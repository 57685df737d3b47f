import numpy as np
import pytest

from sparsense.data import SOURCES
from sparsense.errors import InputError, UnknownNameError

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 4, 5, 3), np.uint8)
LABELS = np.arange(10) % 2


def save(folder, **arrays):
    np.savez(folder / "set.npz", **arrays)
    return str(folder / "set.npz")


@pytest.mark.parametrize("input_key", ["images", "inputs", "X"])
@pytest.mark.parametrize("label_key", ["labels", "y"])
def test_npz_keys(input_key, label_key, tmp_path):
    data = SOURCES["npz"](path=save(tmp_path, **{input_key: IMAGES, label_key: LABELS, "other": [1]}))
    assert data.name == "set/all"
    assert (data.inputs == IMAGES).all()
    assert (data.labels == LABELS).all()


def test_npz_without_labels_and_with_own_keys(tmp_path):
    path = save(tmp_path, pictures=IMAGES, target=LABELS)
    assert SOURCES["npz"](path=path, inputs="pictures").labels is None
    assert (SOURCES["npz"](path=path, inputs="pictures", labels="target").labels == LABELS).all()


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (IMAGES[..., 0], IMAGES[..., :1]),
        (np.arange(6).reshape(3, 2), np.arange(6, dtype=np.float32).reshape(3, 2)),
        (np.array([[True], [False]]), np.array([[1], [0]], np.float32)),
        (np.array([[0.1]], np.float64), np.array([[0.1]], np.float32)),
    ],
)
def test_what_is_understood(array, expected, tmp_path):
    np.testing.assert_array_equal(SOURCES["npz"](path=save(tmp_path, X=array)).inputs, expected, strict=True)


def test_channels_first(tmp_path):
    path = save(tmp_path, images=np.moveaxis(IMAGES, -1, 1))
    assert (SOURCES["npz"](path=path, layout="NCHW").inputs == IMAGES).all()
    with pytest.raises(InputError, match=r"layout NHWC of \[10, 3, 4, 5\] gives 5"):
        SOURCES["npz"](path=path)
    with pytest.raises(InputError, match="NHWC or NCHW; found 'HWC'"):
        SOURCES["npz"](path=path, layout="HWC")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"pixels": IMAGES},
            "none of images, inputs, X among pixels; rename it, or name it in a recipe: options: {inputs: NAME}",
        ),
        ({"images": IMAGES, "X": IMAGES}, "both images and X"),
        ({"images": IMAGES, "labels": LABELS, "y": LABELS}, "both labels and y"),
        ({"images": IMAGES / 255}, r"found float64 \[10, 4, 5, 3\]. Images of floats in \[0, 1\]: multiply by 255"),
        ({"images": IMAGES.astype(np.int32)}, r"found int32"),
        ({"X": np.array(["a"])}, "found <U1"),
        ({"X": np.full((2, 2), np.nan)}, "found nan in row 0, column 0"),
        ({"X": np.array([[1.0, 1e39]])}, r"found 1e\+39 in row 0, column 1"),
        ({"X": np.zeros((0, 3))}, "empty"),
        ({"images": IMAGES, "labels": LABELS[:3]}, r"found labels \[3\]"),
        ({"images": IMAGES, "labels": LABELS + 0.5}, r"expected labels \[N\] of whole numbers"),
        ({"images": IMAGES, "labels": np.eye(10)}, r"found float64 \[10, 10\]"),
    ],
)
def test_what_is_refused(arrays, message, tmp_path):
    with pytest.raises(InputError, match=message):
        SOURCES["npz"](path=save(tmp_path, **arrays))


def test_labels_in_a_column_or_as_whole_floats(tmp_path):
    for labels in (LABELS[:, None], LABELS.astype(float)):
        assert (SOURCES["npz"](path=save(tmp_path, X=IMAGES, y=labels)).labels == LABELS).all()


def test_npy(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    np.save(tmp_path / "y.npy", LABELS)
    data = SOURCES["npy"](path=str(tmp_path / "x.npy"), labels=str(tmp_path / "y.npy"))
    assert (data.inputs == IMAGES).all()
    assert (data.labels == LABELS).all()
    assert len(SOURCES["npy"]("train", path=str(tmp_path / "x.npy"), shares=[0.5, 0.25, 0.25])) == 5


def test_options_are_checked(tmp_path):
    with pytest.raises(InputError, match="'npz' needs the option 'path'"):
        SOURCES["npz"]()
    with pytest.raises(UnknownNameError, match="Did you mean 'labels'"):
        SOURCES["npz"](path="x", lables="y")
    with pytest.raises(UnknownNameError, match="split of data source 'npz' 'trian'"):
        SOURCES["npz"]("trian", path="x")
