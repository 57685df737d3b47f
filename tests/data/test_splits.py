import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsense.data.dataset import Dataset
from sparsense.data.splits import SPLITS, split_indices, take_split
from sparsense.errors import InputError


@given(st.lists(st.integers(0, 2), min_size=10, max_size=80))
def test_parts_are_disjoint_and_cover_what_the_shares_say(labels):
    labels = np.array(labels)
    parts = [split_indices(labels, split, (0.5, 0.3, 0.2)) for split in SPLITS[1:]]
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert abs(len(parts[0]) - len(labels) * 0.5) <= 1
    assert all((np.diff(part) > 0).all() for part in parts)


def test_names_and_contents():
    data = Dataset("table", np.arange(10, dtype=np.float32)[:, None])
    parts = {split: take_split(data, split) for split in SPLITS}
    assert parts["all"].name == "table/all"
    assert parts["test"].name == "table/test"
    assert [len(parts[split]) for split in SPLITS] == [10, 6, 2, 2]


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.2, 0.2), (-0.1, 0.5, 0.5)])
def test_bad_shares(shares):
    with pytest.raises(InputError, match="three shares"):
        split_indices(np.zeros(10, np.int64), "train", shares)


def test_an_empty_part_is_refused():
    with pytest.raises(InputError, match=r"'calibration' is empty: shares \(0.9, 0.0, 0.1\) of 10 samples"):
        split_indices(np.zeros(10, np.int64), "calibration", (0.9, 0.0, 0.1))
