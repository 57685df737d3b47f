"""Tables and series: encoded by their training rows alone, the same with numpy as with scikit-learn."""

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sparsense.data import SOURCES
from sparsense.data.columns import Encoding, fit_encoding
from sparsense.data.table_files import table_encoding
from sparsense.errors import InputError, UnknownNameError


def written(folder, rows=60):
    random = np.random.default_rng(0)
    lines = ["id,size,kind,empty,state"]
    for row in range(rows):
        size = "" if row % 7 == 3 else f"{random.normal(5, 2):.3f}"
        kind = ["red", "green", "NA"][row % 3]
        lines.append(f"{row},{size},{kind},,{'bad' if row % 10 == 9 else 'good'}")
    path = folder / "parts.csv"
    path.write_text("\n".join(lines) + "\n")
    return {"path": str(path), "label": "state", "normal": "good", "drop": ["id"]}


def test_the_encoding_is_that_of_a_pipeline_fitted_on_normal_training_rows(tmp_path):
    options = written(tmp_path)
    train = SOURCES["table"]("train", **options)
    encoding = table_encoding(**options)
    assert encoding.features == ["size", "kind=", "kind=green", "kind=red", "empty"]
    raw = [line.split(",") for line in (tmp_path / "parts.csv").read_text().splitlines()[1:]]
    sizes = np.array([float(row[1]) if row[1] else np.nan for row in raw])
    kinds = np.array(["" if row[2] == "NA" else row[2] for row in raw], object)
    table = np.empty((len(raw), 2), object)
    table[:, 0], table[:, 1] = sizes, kinds
    pipeline = ColumnTransformer(
        [("n", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), [0]),
         ("w", OneHotEncoder(handle_unknown="ignore", sparse_output=False), [1])]
    )  # fmt: skip
    from sparsense.data.splits import split_indices

    labels = np.array([row[4] == "bad" for row in raw], np.int64)
    rows = split_indices(labels, "train", (0.6, 0.2, 0.2))
    pipeline.fit(table[rows[labels[rows] == 0]])
    for split in ("train", "calibration", "test"):
        chosen = split_indices(labels, split, (0.6, 0.2, 0.2))
        found = SOURCES["table"](split, **options)
        np.testing.assert_allclose(
            found.inputs[:, :4], pipeline.transform(table[chosen]).astype(float), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_array_equal(found.labels, labels[chosen])
        assert not found.inputs[:, 4].any()
    assert (train.inputs[train.labels == 0, 0].mean()) == pytest.approx(0, abs=1e-6)


def test_other_splits_do_not_change_the_encoding(tmp_path):
    options = written(tmp_path)
    before = table_encoding(**options)
    lines = (tmp_path / "parts.csv").read_text().splitlines()
    labels = np.array([line.endswith("bad") for line in lines[1:]], np.int64)
    from sparsense.data.splits import split_indices

    for row in split_indices(labels, "test", (0.6, 0.2, 0.2)):
        cells = lines[row + 1].split(",")
        lines[row + 1] = ",".join([cells[0], "1e6", "blue", "", cells[4]])
    (tmp_path / "parts.csv").write_text("\n".join(lines))
    assert table_encoding(**options) == before
    assert not SOURCES["table"]("test", **options).inputs[:, 1:4].any()  # a word that was not seen


def test_an_encoding_comes_back_from_its_text_and_encodes_raw_rows(tmp_path):
    encoding = fit_encoding({"size": ["1", "3", None], "kind": ["a", "b", "a"]})
    again = Encoding.from_json(encoding.to_json())
    assert again == encoding
    np.testing.assert_allclose(again.apply({"kind": ["c", "a"], "size": ["2", "nan"]}), [[0, 0, 0], [0, 1, 0]])
    with pytest.raises(InputError, match="it has no column 'size'; it has kind"):
        again.apply({"kind": ["a"]})
    with pytest.raises(InputError, match="column 'size', row 2: expected a finite number, found 'big'"):
        again.apply({"kind": ["a", "b"], "size": ["1", "big"]})
    with pytest.raises(InputError, match="reading the encoding"):
        Encoding.from_json("{}")


def test_parquet_gives_the_same(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    options = written(tmp_path)
    lines = [line.split(",") for line in (tmp_path / "parts.csv").read_text().splitlines()]
    columns = dict(zip(lines[0], zip(*lines[1:], strict=True), strict=True))
    typed = columns | {"size": [float(value) if value else None for value in columns["size"]]}
    parquet.write_table(pyarrow.table({k: list(v) for k, v in typed.items()}), tmp_path / "parts.parquet")
    same = SOURCES["table"]("test", **options | {"path": str(tmp_path / "parts.parquet")})
    np.testing.assert_array_equal(same.inputs, SOURCES["table"]("test", **options).inputs)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="damaged, or not in Parquet's format"):
        SOURCES["table"]("test", path=str(tmp_path / "broken.parquet"))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n1,2\n3\n", {}, r"row 2: expected 2 values, found 1"),
        ("a,a\n1,2\n", {}, "two columns have the same name"),
        ("a,b\n1,2\n", {"label": "c"}, "it has no column 'c'; it has a, b"),
        ("a,b\n", {}, "expected at least one row"),
        ("", {}, "expected UTF-8 text with a header"),
        ("a,b\n1,x\n", {"label": "b"}, "column 'b', row 1: expected a finite number, found 'x'"),
        ("a,b\n1,x\n", {"label": "b", "normal": "y"}, "no row is 'y'; there are x"),
        ("a,b\n1,0.5\n", {"label": "b"}, "expected whole numbers as labels"),
        ("a,b\n1,\n", {"label": "b"}, "row 1 has no label"),
    ],
)
def test_broken_tables_are_refused(text, options, message, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        SOURCES["table"]("all", path=str(tmp_path / "t.csv"), **options)


def test_too_many_words_and_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="300 different words, at most 256"):
        fit_encoding({"name": [f"n{i}" for i in range(300)]})
    (tmp_path / "t.xlsx").write_text("")
    with pytest.raises(InputError, match=r"expected a \.csv or \.parquet file, found \.xlsx"):
        SOURCES["table"]("all", path=str(tmp_path / "t.xlsx"))
    with pytest.raises(UnknownNameError):
        SOURCES["table"]("validation", path="t.csv")


def test_windows_of_several_columns_lie_within_their_split(tmp_path):
    steps = np.arange(50)
    lines = ["t,a,b,bad", *(f"{t},{t},{100 - t},{int(t == 41)}" for t in steps)]
    (tmp_path / "s.csv").write_text("\n".join(lines))
    options = {"path": str(tmp_path / "s.csv"), "label": "bad", "drop": ["t"], "length": 4, "step": 3}
    train, test = (SOURCES["series"](split, **options) for split in ("train", "test"))
    mean, std = steps[:30].mean(), steps[:30].std()
    assert train.inputs.shape == (9, 8)  # windows begin at 0, 3, ... 24 of 30 steps
    np.testing.assert_allclose(train.inputs[1, ::2], (np.arange(3, 7) - mean) / std, rtol=1e-5)
    np.testing.assert_allclose(train.inputs[:, 1::2], -train.inputs[:, ::2], atol=1e-5)
    np.testing.assert_allclose(test.inputs[0, 0], (40 - mean) / std, rtol=1e-5)
    assert test.labels.tolist() == [1, 0, 0]
    (tmp_path / "s.csv").write_text("\n".join(lines).replace("\n7,7,", "\n7,,"))
    with pytest.raises(InputError, match="column 'a', row 8: a series has no gaps here"):
        SOURCES["series"]("train", **options)


def test_repeated_rows_can_be_left_out(tmp_path):
    rows = [f"{row % 20},{'xyz'[row % 20 % 3]},0" for row in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c", *rows]))
    options = {"path": str(tmp_path / "t.csv"), "label": "c", "unique": True}
    assert len(SOURCES["table"]("all", **options)) == 20
    splits = [SOURCES["table"](split, **options).inputs for split in ("train", "calibration", "test")]
    assert len(np.unique(np.concatenate(splits), axis=0)) == 20
    assert len(SOURCES["table"]("all", **options | {"unique": False})) == 40
