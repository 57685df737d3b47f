"""Series of several columns in windows: their own numbers, scaled by the normal training steps alone."""

import numpy as np
import pytest

from sparsense.data import SOURCES
from sparsense.data.columns import Encoding
from sparsense.data.timeseries import windows
from sparsense.errors import InputError

STEPS = np.arange(50)


def written(path, factor=1, marks=None):
    marks = {41: 1} if marks is None else marks
    lines = ["t,a,b,bad", *(f"{t},{factor * t},{factor * (100 - t)},{marks.get(t, 0)}" for t in STEPS)]
    path.write_text("\n".join(lines))
    return {"path": str(path), "label": "bad", "drop": ["t"], "length": 4, "step": 3}


def test_windows_hold_the_files_own_numbers_and_lie_within_their_split(tmp_path):
    options = written(tmp_path / "s.csv")
    train, test, whole = (SOURCES["series"](split, **options) for split in ("train", "test", "all"))
    assert train.inputs.shape == (9, 8)  # windows begin at 0, 3, ... 24 of 30 steps
    assert train.inputs[1].tolist() == [3, 97, 4, 96, 5, 95, 6, 94]
    assert test.inputs[0].tolist() == [40, 60, 41, 59, 42, 58, 43, 57]
    assert test.labels.tolist() == [1, 0, 0]
    assert len(whole) == 16
    assert test.spans.tolist() == [[0, 4], [3, 7], [6, 10]]
    (tmp_path / "s.csv").write_text((tmp_path / "s.csv").read_text().replace("\n7,7,", "\n7,,"))
    with pytest.raises(InputError, match="column 'a', row 8: a series has no gaps here"):
        SOURCES["series"]("train", **options)
    with pytest.raises(InputError, match="expected three shares"):
        SOURCES["series"]("train", **written(tmp_path / "s.csv"), shares=(0.9, 0.2, 0.2))


def test_the_scaling_is_that_of_the_normal_training_steps_in_every_split(tmp_path):
    options = written(tmp_path / "s.csv", marks={2: 1, 3: -1, 41: 1})
    known = np.delete(STEPS[:30], [2, 3])
    mean, std = known.mean(), known.std()
    for split in ("train", "calibration", "test"):
        found = SOURCES["series"](split, **options)
        assert [column.name for column in found.columns[:3]] == ["a[0]", "b[0]", "a[1]"]
        seen = Encoding(found.columns).apply(found.inputs)
        np.testing.assert_allclose(seen[:, ::2], (found.inputs[:, ::2] - mean) / std, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(seen[:, 1::2], -seen[:, ::2], rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="no step of the training split has the label 0"):
        SOURCES["series"]("test", **written(tmp_path / "s.csv", marks=dict.fromkeys(range(30), 1)))


def test_a_level_anomaly_in_another_file_is_seen_on_the_scale_of_the_training_file(tmp_path):
    options = written(tmp_path / "s.csv")
    train = SOURCES["series"]("train", **options)
    loud = written(tmp_path / "loud.csv", factor=50)
    alike = SOURCES["series"]("train", **loud, like=options["path"])
    assert alike.columns == train.columns
    encoding = Encoding(train.columns)
    assert np.abs(encoding.apply(alike.inputs)).max() > 50 * np.abs(encoding.apply(train.inputs)).max()
    assert SOURCES["series"]("all", **loud).columns != train.columns  # so a run refuses the two together
    (tmp_path / "loud.csv").write_text("t,a,bad\n" + "\n".join(f"{t},{t},0" for t in STEPS))
    with pytest.raises(InputError, match=r"it has no column 'b', as .*s\.csv has"):
        SOURCES["series"]("all", **loud, like=options["path"])


def test_another_file_may_lack_the_columns_of_labels_and_of_what_is_dropped(tmp_path):
    options = written(tmp_path / "s.csv")
    (tmp_path / "new.csv").write_text("a,b\n" + "\n".join(f"{t},{100 - t}" for t in STEPS))
    new = options | {"path": str(tmp_path / "new.csv"), "like": options["path"]}
    found, train = SOURCES["series"]("all", **new), SOURCES["series"]("all", **options)
    np.testing.assert_array_equal(found.inputs, train.inputs)
    assert found.columns == train.columns
    assert found.labels is None
    with pytest.raises(InputError, match=r"s\.csv: it has no column 'worse'"):
        SOURCES["series"]("all", **new | {"label": "worse"})


def test_a_split_without_time_steps_is_told(tmp_path):
    options = written(tmp_path / "s.csv") | {"shares": (0.8, 0.2, 0)}
    with pytest.raises(InputError, match=r"cutting s/test into windows: expected at least 4 time steps, found none"):
        SOURCES["series"]("test", **options)


def test_words_and_large_numbers_with_small_changes_are_refused(tmp_path):
    options = written(tmp_path / "s.csv")
    text = (tmp_path / "s.csv").read_text()
    (tmp_path / "s.csv").write_text(text.replace("\n7,7,", "\n7,seven,"))
    with pytest.raises(InputError, match="column 'a', row 8: expected a finite number, found 'seven'"):
        SOURCES["series"]("test", **options)
    (tmp_path / "s.csv").write_text("a\n" + "\n".join(str(1_700_000_000 + t) for t in STEPS))
    with pytest.raises(InputError, match="subtract a fixed number, or drop it"):
        SOURCES["series"]("test", path=options["path"], length=4)


@pytest.mark.parametrize("mark", [1, -1, 7])
def test_every_label_but_0_is_anomalous(mark):
    labels = np.where(np.arange(12) == 6, mark, 0)
    assert windows("w", np.zeros(12), labels, 4, 4).labels.tolist() == [0, 1, 0]
