import io
import os

import numpy as np
import pytest
from PIL import Image

from sparsense.data import SOURCES
from sparsense.data.root import data_file, first_data_root
from sparsense.errors import InputError, UnknownNameError

RANDOM = np.random.default_rng(0)


def pixels(count, *shape):
    return RANDOM.integers(0, 256, (count, *shape), np.uint8)


def labels(count, classes=10):
    return (np.arange(count) % classes).astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data root with small files in the documented formats."""
    root = tmp_path_factory.mktemp("root")

    def save(name, **arrays):
        (root / name).parent.mkdir(exist_ok=True)
        np.savez(root / name, **arrays)

    save("cifar10/train_18k.npz", images=pixels(30, 32, 32, 3), labels=labels(30))
    save("cifar10/test_lossless_1228.npz", images=pixels(600, 32, 32, 3), labels=labels(600))
    files = [_jpeg(value) for value in (10, 200)]
    offsets = np.cumsum([0, *map(len, files)])
    save("cifar10/test_10k_jpeg.npz", jpeg=np.frombuffer(b"".join(files), np.uint8), offsets=offsets, labels=[0, 1])
    save("ood/svhn_test_5k.npz", images=pixels(5, 32, 32, 3), labels=labels(5))
    save("ood/textures_dtd32_1200.npz", images=pixels(5, 32, 32, 3), labels=labels(5))
    overlaps = np.array([True, False, True, False])
    tin = {"images": pixels(8, 32, 32, 3), "labels": labels(8, 4)}
    save("ood/tiny_imagenet_val32_5k.npz", class_overlaps_cifar10=overlaps, **tin)
    save("ood/tiny_imagenet_train32_aux_6k.npz", **tin)
    for name in ("mnist/train_60k", "fashion_mnist/train_30k", "ood_gray/kmnist_test_5k", "ood_gray/notmnist_5k"):
        save(f"{name}.npz", images=pixels(20, 28, 28, 1), labels=labels(20))
    for name in ("mnist/test_10k", "fashion_mnist/test_10k"):
        save(f"{name}.npz", images=pixels(2100, 28, 28, 1), labels=labels(2100))
    for name in ("mvtec_screw_256", "magnetic_tile_128"):
        defects = {"test_images": pixels(6, 8, 8, 1), "test_labels": labels(6, 2)}
        save(f"industrial/{name}.npz", train_images=pixels(20, 8, 8, 1), **defects)
    save(
        "industrial/toycar_ad01_logmel.npz",
        images=RANDOM.normal(size=(60, 7, 4, 1)).astype(np.float16),
        labels=np.repeat([1, 0], [10, 50]).astype(np.uint8),
    )
    save("tabular/cardio.npz", X=RANDOM.normal(size=(50, 3)).astype(np.float32), y=labels(50, 5) == 0)
    series = np.arange(200, dtype=np.float32)
    anomaly = (series == 150).astype(np.uint8)
    save("timeseries/nasa_smap.npz", **{"A-1__train": series, "A-1__test": series, "A-1__label": anomaly})
    save("timeseries/nab.npz", f__s__value=series, f__s__label=anomaly, f__s__time=series)
    return str(root)


def _jpeg(value):
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (value,) * 3).save(stream, "JPEG")
    return stream.getvalue()


NEEDED = {
    "adbench": {"table": "cardio"},
    "nasa": {"channel": "A-1", "length": 8},
    "nab": {"series": "f__s", "length": 8},
}
PUBLISHED = [name for name in SOURCES if "data_root" in SOURCES[name].options]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_split_loads_and_the_same_twice(name, root):
    source = SOURCES[name]
    for split in source.splits:
        options = NEEDED.get(name, {}) | {"data_root": root}
        data = source(split, **options)
        assert data.labels is not None
        assert data.name.startswith(name)
        assert data.name.endswith(split)
        assert data.sha256() == source(split, **options).sha256()


@pytest.mark.parametrize("name", PUBLISHED)
def test_without_a_root_or_file_the_message_says_how_to_give_one(name, tmp_path, monkeypatch):
    monkeypatch.delenv("SPARSENSE_DATA", raising=False)
    source = SOURCES[name]
    for options in ({}, {"data_root": str(tmp_path)}):
        with pytest.raises(InputError) as caught:
            source(source.splits[0], **NEEDED.get(name, {}), **options)
        for word in (f"'{name}'", ".npz", "--data-root", "SPARSENSE_DATA", "recipe key data_root", "docs/data.md"):
            assert word in str(caught.value)
        assert (str(tmp_path) in str(caught.value)) == bool(options)


@pytest.mark.parametrize("name", ["cifar10", "mnist", "fashion_mnist"])
def test_calibration_and_test_divide_the_official_test_images(name, root):
    calibration, test, together = (
        SOURCES[name](split, data_root=root) for split in ("calibration", "test", "test_all")
    )
    rows = [{image.tobytes() for image in data.inputs} for data in (calibration, test, together)]
    assert not rows[0] & rows[1]
    assert rows[0] | rows[1] == rows[2]
    assert len(calibration) == (500 if name == "cifar10" else 2000)
    counts = np.bincount(calibration.labels)
    assert np.ptp(counts) <= 1  # stratified


@pytest.mark.parametrize("name", ["mvtec_screw", "magnetic_tile"])
def test_defect_sets_train_and_calibrate_on_good_parts(name, root):
    train, calibration, test = (SOURCES[name](split, data_root=root) for split in SOURCES[name].splits)
    assert (len(train), len(calibration)) == (15, 5)
    assert not {i.tobytes() for i in train.inputs} & {i.tobytes() for i in calibration.inputs}
    assert not train.labels.any()
    assert np.bincount(test.labels).tolist() == [3, 3]


def test_jpeg_copies(root):
    data = SOURCES["cifar10_jpeg"](data_root=root)
    assert data.inputs[:, 0, 0, 0].tolist() == [10, 200]


def test_tiny_imagenet_drops_the_classes_of_cifar10(root):
    assert set(SOURCES["tiny_imagenet"]("test", data_root=root).labels) == {1, 3}
    assert set(SOURCES["tiny_imagenet"]("test", data_root=root, overlapping=True).labels) == {0, 1, 2, 3}


def test_toycar_windows_and_clips(root):
    calibration = SOURCES["toycar"]("calibration", data_root=root)
    test = SOURCES["toycar"]("test", data_root=root)
    assert calibration.inputs.shape == (40 * 3, 5 * 4)
    assert np.bincount(calibration.labels).tolist() == [120]
    assert np.bincount(test.labels).tolist() == [30, 30]
    clips = np.load(f"{root}/industrial/toycar_ad01_logmel.npz")["images"]
    loop = [clips[0, t : t + 5].ravel() for t in range(3)]  # clip 0 is anomalous, so first in the test part
    assert (test.inputs[:3] == np.array(loop, np.float32)).all()
    assert test.labels[:3].tolist() == [1, 1, 1]
    train, held_out = (SOURCES["toycar"](split, data_root=root).inputs for split in ("train", "held_out"))
    assert (len(train), len(held_out)) == (30 * 3, 10 * 3)
    together = {row.tobytes() for row in train} | {row.tobytes() for row in held_out}
    assert together == {row.tobytes() for row in calibration.inputs}  # so none is in both, nor in the test part
    spans = SOURCES["toycar"]("train", data_root=root).spans
    apart = spans[1:, 0] >= spans[:-1, 1]
    assert np.flatnonzero(apart).tolist() == list(range(2, 89, 3))  # windows of one clip overlap, clips do not
    with pytest.raises(InputError, match="1 to 7 frames; got 8"):
        SOURCES["toycar"]("test", data_root=root, frames=8)


def test_windows_of_a_series(root):
    data = SOURCES["nasa"]("test", channel="A-1", data_root=root, length=10, step=5)
    assert data.inputs[:, 0].tolist() == list(range(0, 191, 5))
    assert data.inputs[np.flatnonzero(data.labels), 0].tolist() == [145, 150]  # those that contain step 150
    options = {"channel": "A-1", "data_root": root, "length": 10}
    assert SOURCES["nasa"]("train", **options).inputs.max() < 150
    assert SOURCES["nasa"]("calibration", **options).inputs.min() == 150
    with pytest.raises(InputError, match="1 to 200 time steps; got step 1, length 201"):
        SOURCES["nasa"]("test", channel="A-1", data_root=root, length=201, step=1)
    with pytest.raises(UnknownNameError, match="Did you mean 'A-1'"):
        SOURCES["nasa"]("test", channel="A-2", data_root=root)
    with pytest.raises(UnknownNameError, match="mission"):
        SOURCES["nasa"]("test", channel="A-1", mission="voyager", data_root=root)


def test_tables(root):
    normal = SOURCES["adbench"]("train", table="cardio", classes=[0], data_root=root)
    assert len(normal) == 24
    with pytest.raises(UnknownNameError, match="Did you mean 'cardio'"):
        SOURCES["adbench"](table="cardo", data_root=root)


def test_a_damaged_index_is_refused(tmp_path):
    (tmp_path / "cifar10").mkdir()
    np.savez(tmp_path / "cifar10" / "test_10k_jpeg.npz", jpeg=np.zeros(4, np.uint8), offsets=[0, 4], labels=[0, 1])
    with pytest.raises(InputError, match="'offsets'"):
        SOURCES["cifar10_jpeg"](data_root=str(tmp_path))


def test_the_order_of_the_three_ways(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSENSE_DATA", "environment")
    assert first_data_root("line", "recipe") == "line"
    assert first_data_root(None, "recipe") == "environment"
    monkeypatch.delenv("SPARSENSE_DATA")
    assert first_data_root(None, "recipe") == "recipe"
    (tmp_path / "a.npz").touch()
    monkeypatch.setenv("SPARSENSE_DATA", str(tmp_path))
    assert data_file("a.npz", source="x", data_root=None) == tmp_path / "a.npz"


@pytest.mark.skipif(not os.environ.get("SPARSENSE_DATA"), reason="needs the published sets: set SPARSENSE_DATA")
@pytest.mark.parametrize(
    ("name", "split", "shape"),
    [
        ("cifar10", "calibration", (500, 32, 32, 3)),
        ("cifar10", "test", (728, 32, 32, 3)),
        ("svhn", "test", (5000, 32, 32, 3)),
        ("textures", "test", (1200, 32, 32, 3)),
        ("tiny_imagenet", "test", (4325, 32, 32, 3)),
        ("mvtec_screw", "train", (240, 256, 256, 1)),
        ("toycar", "calibration", (7840, 640)),
    ],
)
def test_the_real_sets(name, split, shape):
    assert SOURCES[name](split).inputs.shape == shape
