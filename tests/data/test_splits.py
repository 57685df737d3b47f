import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsense.data.dataset import Dataset
from sparsense.data.splits import SPLITS, first_of_equals, last_windows, split_indices, take_split
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


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 40), st.floats(0.01, 0.5))
def test_the_last_windows_share_no_step_with_those_before(length, step, more, share):
    begins = np.arange(0, 100 + more, step)[::-1]  # in any order
    spans = np.stack([begins, begins + length], axis=1)
    seen, unseen = last_windows(spans, share)
    assert len(unseen) == max(1, round(share * len(spans)))
    steps = [{t for begin, end in spans[part] for t in range(begin, end)} for part in (seen, unseen)]
    assert max(steps[0]) < min(steps[1])
    left_out = np.setdiff1d(np.arange(len(spans)), [*seen, *unseen])
    assert all(steps[1] & set(range(*spans[window])) for window in left_out)


def test_windows_that_leave_none_before_them_are_refused():
    with pytest.raises(InputError, match="holding out 1 of 4 windows of a series: none of the others"):
        last_windows(np.array([[t, t + 9] for t in range(4)]), 0.2)


def test_gaps_and_both_zeros_are_equal_to_themselves():
    nan, other = np.float32(np.nan), np.frombuffer(np.uint32(0xFFC00001).tobytes(), np.float32)[0]
    rows = np.array([[0, nan], [1, nan], [-0.0, other], [nan, 1]], np.float32)
    assert first_of_equals(rows).tolist() == [0, 1, 3]
