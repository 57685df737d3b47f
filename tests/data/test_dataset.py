import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsense.data.dataset import Dataset, draw, shuffled, stratified_order
from sparsense.errors import InputError


def images(count, labels=None):
    pixels = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2, 1)
    return Dataset("tiny", pixels, labels)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), None, r"found float32 \[2, 4, 4, 3\]"),
        (np.zeros((2, 4, 4, 2), np.uint8), None, r"found uint8 \[2, 4, 4, 2\]"),
        (np.zeros((2, 3), np.float64), None, r"found float64 \[2, 3\]"),
        (np.zeros((0, 4, 4, 1), np.uint8), None, r"'bad' is empty"),
        (np.zeros((4, 0), np.float32), None, r"'bad' is empty"),
        (np.array([[0, 1], [np.nan, 2]], np.float32), None, r"found nan in row 1, column 0"),
        (np.array([[0, np.inf]], np.float32), None, r"found inf in row 0, column 1"),
        (np.zeros((2, 1), np.float32), np.zeros(3, np.int64), r"one label per sample, \[2\]; found labels \[3\]"),
        (np.zeros((2, 1), np.float32), np.zeros(2), r"whole numbers as labels; found float64"),
    ],
)
def test_refuses_with_what_was_found(inputs, labels, message):
    with pytest.raises(InputError, match=message):
        Dataset("bad", inputs, labels)


def test_labels_become_int64():
    assert images(2, np.array([1, 0], np.uint8)).labels.dtype == np.int64


def test_sha256_is_the_documented_one():
    data = images(3, np.array([0, 1, 2]))
    expected = hashlib.sha256(b"uint8(3, 2, 2, 1)" + bytes(range(12)) + b"int64(3,)" + np.arange(3).tobytes())
    assert data.sha256() == expected.hexdigest()


def test_sha256_names_the_content():
    base = images(3, np.array([0, 1, 2]))
    other_pixel = Dataset("tiny", base.inputs ^ 1, base.labels)
    other_shape = Dataset("tiny", base.inputs.reshape(3, 1, 4, 1), base.labels)
    different = [base, other_pixel, other_shape, images(3), images(3, np.array([0, 1, 1]))]
    assert len({data.sha256() for data in different}) == len(different)
    renamed = Dataset("another name", np.asfortranarray(base.inputs), base.labels)
    big_endian = Dataset("tiny", base.inputs, base.labels.astype(">i8"))
    assert renamed.sha256() == big_endian.sha256() == base.sha256()


def test_subset_by_indices_slice_and_mask():
    data = images(4, np.array([3, 2, 1, 0]))
    for which in ([1, 3], slice(1, 4, 2), np.array([False, True, False, True])):
        part = data.subset(which)
        assert part.labels.tolist() == [2, 0]
        assert (part.inputs == data.inputs[[1, 3]]).all()
    assert images(4).subset([0]).labels is None


def test_subset_by_number():
    data = images(40, np.arange(40))
    small, large = data.subset(5, seed=3).labels, data.subset(20, seed=3).labels
    assert len(small) == 5
    assert set(small) < set(large)
    assert (np.diff(large) > 0).all()
    assert (data.subset(100).labels == data.labels).all()
    assert (data.subset(5, seed=4).labels != small).any()
    with pytest.raises(InputError, match="at least 1 sample; got 0"):
        data.subset(0)


@given(st.integers(0, 300), st.integers(0, 2**32))
def test_shuffled_is_a_permutation(count, seed):
    assert sorted(shuffled(count, seed)) == list(range(count))


def test_shuffled_is_golden():
    # By hand from the raw stream of PCG64, which numpy keeps the same for ever.
    raw = np.random.PCG64(1).random_raw(8).tolist()
    assert raw[0] == 9441442522235856127
    assert shuffled(8, seed=1).tolist() == sorted(range(8), key=raw.__getitem__)


def test_draw_is_uniform():
    counts = np.zeros(10)
    for seed in range(2000):
        counts[draw(10, 3, seed)] += 1
    # Each index is drawn with probability 0.3: binomial, five standard deviations.
    assert np.abs(counts - 600).max() < 5 * np.sqrt(2000 * 0.3 * 0.7)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 99), st.data())
def test_every_run_of_the_stratified_order_has_the_shares_of_the_whole(labels, seed, data):
    labels = np.array(labels)
    order = stratified_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    start = data.draw(st.integers(0, len(labels)))
    stop = data.draw(st.integers(start, len(labels)))
    run = labels[order[start:stop]]
    classes, sizes = np.unique(labels, return_counts=True)
    for label, size in zip(classes, sizes, strict=True):
        assert abs((run == label).sum() - len(run) * size / len(labels)) <= len(classes)


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_without_a_name_are_refused_where_classes_have_names(label):
    with pytest.raises(InputError, match=rf"expected the labels 0 to 1 of the classes a, b; found {label}"):
        Dataset("bad", np.zeros((2, 1), np.float32), np.array([0, label]), class_names=("a", "b"))
