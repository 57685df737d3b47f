"""Tables: encoded by their training rows alone, the same with numpy as with scikit-learn."""

import json

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sparsense.data import SOURCES
from sparsense.data.columns import Encoding, fit_encoding, numbers
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


def encoding_of(**options):
    return Encoding(SOURCES["table"]("all", **options).columns)


def test_the_encoding_is_that_of_a_pipeline_fitted_on_normal_training_rows(tmp_path):
    options = written(tmp_path)
    train = SOURCES["table"]("train", **options)
    encoding = encoding_of(**options)
    assert train.columns == encoding.columns
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
        np.testing.assert_array_equal(found.inputs[:, 0], sizes[chosen].astype(np.float32))  # the user's own numbers
        features = encoding.apply(found.inputs)
        np.testing.assert_allclose(
            features[:, :4], pipeline.transform(table[chosen]).astype(float), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_array_equal(found.labels, labels[chosen])
        assert not features[:, 4].any()
    assert encoding.apply(train.inputs)[train.labels == 0, 0].mean() == pytest.approx(0, abs=1e-6)


def test_other_splits_do_not_change_the_encoding(tmp_path):
    options = written(tmp_path)
    before = encoding_of(**options)
    lines = (tmp_path / "parts.csv").read_text().splitlines()
    labels = np.array([line.endswith("bad") for line in lines[1:]], np.int64)
    from sparsense.data.splits import split_indices

    for row in split_indices(labels, "test", (0.6, 0.2, 0.2)):
        cells = lines[row + 1].split(",")
        lines[row + 1] = ",".join([cells[0], "1e6", "blue", "", cells[4]])
    (tmp_path / "parts.csv").write_text("\n".join(lines))
    assert encoding_of(**options) == before
    found = SOURCES["table"]("test", **options).inputs
    assert set(found[:, 1]) == {-1.0}  # a word that was not seen
    assert not before.apply(found)[:, 1:4].any()


def test_another_file_is_encoded_like_the_training_file(tmp_path):
    options = written(tmp_path)
    (tmp_path / "new.csv").write_text("state,kind,size,empty,id\ngood,red,7,,1\ngood,blue,,,2\n")
    new = options | {"path": str(tmp_path / "new.csv")}
    found = SOURCES["table"]("all", **new, like=options["path"])
    assert found.columns == SOURCES["table"]("train", **options).columns
    np.testing.assert_array_equal(found.inputs, [[7, 2, np.nan], [np.nan, -1, np.nan]])
    assert SOURCES["table"]("all", **new).columns != found.columns


@pytest.mark.parametrize(
    ("text", "labels", "names"),
    [
        ("state,kind,size,empty,id\nbad,red,7,,1\nugly,blue,,,2\n", [1, 1], ("normal", "anomalous")),
        ("kind,size,empty,id\nred,7,,1\nblue,,,2\n", None, ()),
        ("kind,size,empty\nred,7,\nblue,,\n", None, ()),
        ("kind,size,empty,state\nred,7,,good\nblue,,,bad\n", [0, 1], ("normal", "anomalous")),
    ],
)
def test_another_file_may_lack_labels_normal_rows_and_dropped_columns(text, labels, names, tmp_path):
    options = written(tmp_path)
    (tmp_path / "new.csv").write_text(text)
    found = SOURCES["table"]("all", **options | {"path": str(tmp_path / "new.csv")}, like=options["path"])
    assert found.columns == SOURCES["table"]("train", **options).columns
    np.testing.assert_array_equal(found.inputs, [[7, 2, np.nan], [np.nan, -1, np.nan]])
    assert (None if found.labels is None else found.labels.tolist()) == labels
    assert found.class_names == names


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"label": "status"}, r"parts\.csv: it has no column 'status'"),
        ({"drop": ["number"]}, r"parts\.csv: it has no column 'number'"),
        ({"normal": "fine"}, r"parts\.csv, column 'state': no row is 'fine'"),
    ],
)
def test_the_file_that_teaches_must_have_them(wrong, message, tmp_path):
    options = written(tmp_path)
    (tmp_path / "new.csv").write_text("kind,size,empty\nred,7,\n")
    with pytest.raises(InputError, match=message):
        SOURCES["table"]("all", **options | {"path": str(tmp_path / "new.csv")} | wrong, like=options["path"])


def test_an_encoding_comes_back_from_its_text_and_encodes_raw_rows(tmp_path):
    encoding = fit_encoding({"size": ["1", "3", None], "kind": ["a", "b", "a"]})
    again = Encoding.from_list(json.loads(json.dumps(encoding.to_list())))
    assert again == encoding
    rows = again.codes({"kind": ["c", "a"], "size": ["2", "nan"]})
    np.testing.assert_array_equal(rows, [[2, -1], [np.nan, 0]])
    np.testing.assert_allclose(again.apply(rows), [[0, 0, 0], [0, 1, 0]])
    with pytest.raises(InputError, match="it has no column 'size'; it has kind"):
        again.codes({"kind": ["a"]})
    for wrong in ("big", "inf", "1e39"):
        with pytest.raises(InputError, match=f"column 'size', row 2: expected a finite number, found '{wrong}'"):
            again.codes({"kind": ["a", "b"], "size": ["1", wrong]})
        with pytest.raises(InputError, match="column 'size', row 12"):
            again.codes({"kind": ["a", "b"], "size": ["1", wrong]}, rows=range(11, 13))
    for wrong in ([{"levels": None}], [{"name": "a", "place": 1}], ["a"]):
        with pytest.raises(InputError, match="reading the encoding"):
            Encoding.from_list(wrong)


def test_a_card_says_what_words_and_gaps_are():
    encoding = fit_encoding({"size": ["1", "3", None], "kind": ["a", "", "a"], "state": ["on", "off", "on"]})
    size, kind, state = (row["meaning"] for row in encoding.to_list())
    assert size == "a number; a gap (NaN) becomes 2; then (v - 2) / 0.816497"
    assert kind == "a word by its place: 1 = 'a'; another word is -1, no word; a gap (NaN) is a word of its own"
    assert "0 = 'off', 1 = 'on'" in state
    assert "a gap (NaN) is no word, too" in state


def test_numbers_that_float32_cannot_tell_apart_are_refused():
    seconds = [str(1_700_000_000 + 60 * step) for step in range(20)]
    with pytest.raises(InputError, match=r"column 'time'.* float32, which detectors take, has steps of 128"):
        fit_encoding({"time": seconds})
    with pytest.raises(InputError, match=r"column 'time'.* has steps of 128"):
        fit_encoding({"time": [str(1_700_000_000 + step) for step in range(20)]})  # all the same in float32
    fit_encoding({"time": seconds[:1] * 20})  # does not vary at all
    fit_encoding({"time": [str(1_700_000_000 + 86_400 * day) for day in range(20)]})


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
    (tmp_path / "parts.parquet").rename(tmp_path / "PARTS.PARQUET")
    upper = SOURCES["table"]("test", **options | {"path": str(tmp_path / "PARTS.PARQUET")})
    np.testing.assert_array_equal(upper.inputs, same.inputs)
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
        ("a;b\n1,5;2\n", {}, "expected commas between columns and a point in numbers, found the header 'a;b'"),
        ("a\tb\n1\t2\n", {"label": "b"}, "expected commas between columns"),
    ],
)
def test_broken_tables_are_refused(text, options, message, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        SOURCES["table"]("all", path=str(tmp_path / "t.csv"), **options)


@pytest.mark.parametrize("wrong", ["oops", "1e60"])
def test_a_wrong_number_is_told_with_its_row_of_the_file(wrong, tmp_path):
    rows = [f"{number},{'bad' if number % 10 == 4 else 'ok'}" for number in range(50)]
    for row in (24, 31) if wrong == "1e60" else (24,):  # of an anomaly, and of a normal row
        changed = [*rows[:row], f"{wrong},{rows[row].split(',')[1]}", *rows[row + 1 :]]
        (tmp_path / "t.csv").write_text("\n".join(["size,class", *changed]))
        told = []
        for split in ("train", "calibration", "test"):
            try:
                SOURCES["table"](split, path=str(tmp_path / "t.csv"), label="class", normal="ok")
            except InputError as error:
                told.append(str(error))
        assert told
        assert set(told) == {f"column 'size', row {row + 1}: expected a finite number, found '{wrong}'"}


def test_codes_with_underscores_are_words():
    column = fit_encoding({"code": ["1_2", "3_4", "1_2"]}).columns[0]
    assert column.levels == ("1_2", "3_4")
    with pytest.raises(InputError, match="row 1: expected a finite number, found '1_2'"):
        numbers(["1_2"], "column 'a'")


def test_too_many_words_and_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="300 different words, at most 256"):
        fit_encoding({"name": [f"n{i}" for i in range(300)]})
    (tmp_path / "t.xlsx").write_text("")
    with pytest.raises(InputError, match=r"expected a \.csv or \.parquet file, found \.xlsx"):
        SOURCES["table"]("all", path=str(tmp_path / "t.xlsx"))
    with pytest.raises(UnknownNameError):
        SOURCES["table"]("validation", path="t.csv")


def test_an_ending_in_capitals_is_the_same_ending(tmp_path):
    options = written(tmp_path)
    (tmp_path / "parts.csv").rename(tmp_path / "PARTS.CSV")
    found = SOURCES["table"]("all", **options | {"path": str(tmp_path / "PARTS.CSV")})
    assert len(found) == 60


def test_repeated_rows_can_be_left_out(tmp_path):
    rows = [f"{row % 20},{'xyz'[row % 20 % 3]},0" for row in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c", *rows]))
    options = {"path": str(tmp_path / "t.csv"), "label": "c", "unique": True}
    assert len(SOURCES["table"]("all", **options)) == 20
    splits = [SOURCES["table"](split, **options).inputs for split in ("train", "calibration", "test")]
    assert len(np.unique(np.concatenate(splits), axis=0)) == 20
    assert len(SOURCES["table"]("all", **options | {"unique": False})) == 40


SPLITS = ("train", "calibration", "test")


def parts(**options):
    return [SOURCES["table"](split, **options).inputs for split in SPLITS]


def without_repeats(found):
    """Whether no row is there twice, where gaps equal one another."""
    rows = [row.tobytes() for part in found for row in part]
    return len(set(rows)) == len(rows)


def test_rows_that_are_written_differently_are_the_same_row(tmp_path):
    ways = {"{}": "", "{}.0": "nan", " {}.00": "NA", "{}e0": "?"}  # of a number, and of a gap
    rows = [
        f"{number.format(row + 1)},{'xyz'[row % 3]},{gap if row % 2 else 7}"
        for number, gap in ways.items()
        for row in range(20)
    ]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c", *rows]))
    found = parts(path=str(tmp_path / "t.csv"), unique=True)
    assert [len(part) for part in found] == [12, 4, 4]
    assert without_repeats(found)


def test_numbers_that_float32_cannot_tell_apart_are_the_same_number(tmp_path):
    rows = [f"{row % 30 + (0.1 if row < 30 else 0.100000001)}" for row in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["a", *rows]))
    assert [len(part) for part in parts(path=str(tmp_path / "t.csv"), unique=True)] == [18, 6, 6]


def test_words_that_training_rows_lack_do_not_make_rows_distinct_and_the_encoding_stays(tmp_path):
    rows = [f"{row % 4},{'ab'[row % 2] if row < 8 else f'rare{row}'}" for row in range(100)]
    labels = ["ok" if row < 8 else "bad" for row in range(100)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c", *(f"{r},{m}" for r, m in zip(rows, labels, strict=True))]))
    options = {"path": str(tmp_path / "t.csv"), "label": "c", "normal": "ok", "shares": (0.5, 0.25, 0.25)}
    whole = SOURCES["table"]("all", **options, unique=True)
    assert len(whole) == 4 + 4  # four normal rows, and four numbers with a word that nobody knows
    found = [SOURCES["table"](split, **options, unique=True) for split in SPLITS]
    assert all(part.columns == whole.columns for part in found)
    assert without_repeats([part.inputs for part in found])
    assert sum(len(part) for part in found) == len(whole)


def test_rows_of_another_file_are_the_same_as_its_encoding_says(tmp_path):
    (tmp_path / "known.csv").write_text("version\n" + "\n".join(["1.1", "1.10", "2.x"] * 10))
    (tmp_path / "new.csv").write_text("version\n1.1\n1.10\n1.10\n3\n4\n")
    options = {"path": str(tmp_path / "new.csv"), "like": str(tmp_path / "known.csv")}
    assert SOURCES["table"]("all", **options, unique=True, shares=(1, 0, 0)).inputs.tolist() == [[0], [1], [-1]]


def test_a_wrong_number_among_distinct_rows_is_told_with_its_row_of_the_file(tmp_path):
    (tmp_path / "t.csv").write_text("a\n" + "\n".join(["1", "1", "2", "3", "1e60", "4"]))
    with pytest.raises(InputError, match="column 'a', row 5: expected a finite number, found '1e60'"):
        SOURCES["table"]("train", path=str(tmp_path / "t.csv"), unique=True)
