import tracemalloc

import numpy as np
import pytest
from PIL import Image

from sparsense.data import SOURCES, image_folder
from sparsense.errors import InputError, UnsafeFileError


def paint(file, value, size=(6, 4)):
    file.parent.mkdir(exist_ok=True)
    Image.new("L", size, value).save(file)


@pytest.fixture
def classes(tmp_path):
    for i in range(10):
        paint(tmp_path / ("cat" if i % 2 else "dog") / f"{i}.png", 20 * i)
    return tmp_path


def load(folder, split="all", **options):
    return SOURCES["image_folder"](split, path=str(folder), size=(4, 6), channels=1, **options)


def test_subfolders_are_classes_in_the_order_of_their_names(classes):
    (classes / "cat" / "notes.txt").write_text("skipped")
    (classes / "cat" / ".hidden.png").write_text("skipped")
    (classes / "__MACOSX").mkdir()
    data = load(classes)
    assert data.inputs.shape == (10, 4, 6, 1)
    assert data.inputs[:, 0, 0, 0].tolist() == [20, 60, 100, 140, 180, 0, 40, 80, 120, 160]
    assert data.labels.tolist() == [0] * 5 + [1] * 5


def test_flat_folders_have_no_labels(tmp_path):
    paint(tmp_path / "b.PNG", 1)
    paint(tmp_path / "a.bmp", 2)
    data = load(tmp_path)
    assert data.labels is None
    assert data.inputs[:, 0, 0, 0].tolist() == [2, 1]


def test_splits_and_limit_open_only_what_they_choose(classes):
    parts = [load(classes, split) for split in ("train", "calibration", "test")]
    values = [set(part.inputs[:, 0, 0, 0].tolist()) for part in parts]
    assert [len(part) for part in parts] == [6, 2, 2]
    assert set.union(*values) == set(range(0, 200, 20))
    for part in parts:  # the dogs are the even ones
        assert part.labels.tolist() == [int(value % 40 == 0) for value in part.inputs[:, 0, 0, 0]]
    chosen = set(load(classes, limit=3, seed=1).inputs[:, 0, 0, 0].tolist())
    for i in range(10):
        if 20 * i not in chosen:
            (classes / ("cat" if i % 2 else "dog") / f"{i}.png").write_bytes(b"damaged")
    assert set(load(classes, limit=3, seed=1).inputs[:, 0, 0, 0].tolist()) == chosen


def test_classes_are_chosen_by_name_before_the_limit_and_nothing_else_is_opened(classes):
    for file in (classes / "dog").iterdir():
        file.write_bytes(b"damaged")
    for chosen in ("cat", ["cat"], 0, [0]):
        data = load(classes, classes=chosen, limit=4)
        assert (len(data), set(data.labels), data.class_names) == (4, {0}, ("cat", "dog"))
        assert data.name == f"{classes.name}/all (cat)"
    for wrong in (["bird"], ["dog", 2], []):
        with pytest.raises(InputError, match=r"has the labels 0 \(cat\), 1 \(dog\)"):
            load(classes, classes=wrong)
    with pytest.raises(InputError, match="found a truth value; put quotes around a name"):
        load(classes, classes=[False])  # as YAML reads `no`
    with pytest.raises(InputError, match="needs labels"):
        load(classes / "cat", classes=["cat"])


def test_labels_follow_the_names_of_another_folder(tmp_path):
    for value, name in enumerate(("a", "b", "c")):
        for part in ("train", "test"):
            (tmp_path / part).mkdir(exist_ok=True)
            if (part, name) != ("test", "b"):
                paint(tmp_path / part / name / "1.png", value)
    train, test = load(tmp_path / "train"), load(tmp_path / "test")
    assert test.labels.tolist() == [0, 1]
    alike = test.named_like(train)
    assert (alike.labels.tolist(), alike.class_names) == ([0, 2], ("a", "b", "c"))
    assert alike.subset([1]).class_names == train.class_names
    with pytest.raises(
        InputError, match=r"'train/all' has the classes b, which 'test/all' does not have \(it has a, c\)"
    ):
        train.named_like(test)
    assert train.named_like(load(tmp_path / "train" / "a")) is train  # a flat folder has no names


def test_images_are_in_memory_once(tmp_path):
    for index in range(30):
        paint(tmp_path / f"{index}.png", index, size=(64, 64))
    options = {"path": str(tmp_path), "size": (128, 128), "channels": 3}
    whole = SOURCES["image_folder"]("all", **options).inputs  # everything is imported now
    tracemalloc.start()
    try:
        SOURCES["image_folder"]("all", **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * whole.nbytes


@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_a_bad_image_is_named(classes, content):
    (classes / "dog" / "4.png").write_bytes(content)
    with pytest.raises(InputError, match=r"dog.4\.png"):
        load(classes)


def test_folders_that_cannot_be_understood(tmp_path):
    with pytest.raises(InputError, match=r"no folder .*gone"):
        load(tmp_path / "gone")
    with pytest.raises(InputError, match="holds no image"):
        load(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match=r"class folder .*cat holds no image"):
        load(tmp_path)
    paint(tmp_path / "cat" / "1.png", 0)
    paint(tmp_path / "2.png", 0)
    with pytest.raises(InputError, match=r"images \(2\.png, \.\.\.\) and subfolders \(cat, \.\.\.\)"):
        load(tmp_path)


def test_links_that_lead_nowhere_are_named(classes):
    (classes / "cat" / "again.png").symlink_to(classes / "cat" / "1.png")
    assert len(load(classes)) == 11
    (classes / "cat" / "lost.png").symlink_to("gone.png")
    with pytest.raises(InputError, match=r"cat: lost\.png is a link to gone\.png, which is not there; mend the link"):
        load(classes)
    (classes / "cat" / "lost.png").unlink()
    (classes / "bird").symlink_to("elsewhere")
    with pytest.raises(InputError, match="bird is a link to elsewhere, which is not there"):
        load(classes)
    (classes / "bird").unlink()
    (classes / "notes.txt").symlink_to("gone.txt")  # what is skipped may lead anywhere
    assert len(load(classes)) == 11


def test_the_limit_on_all_images_together(classes, monkeypatch):
    monkeypatch.setattr(image_folder, "MAX_BYTES", 200)
    with pytest.raises(UnsafeFileError, match=r"10 images .* at 4 x 6 need 240 bytes"):
        load(classes)
    assert len(load(classes, limit=8)) == 8


def test_rgb_and_resizing(classes):
    data = SOURCES["image_folder"](path=str(classes), size=2)
    assert data.inputs.shape == (10, 2, 2, 3)
    assert np.ptp(data.inputs, axis=(1, 2, 3)).max() == 0
