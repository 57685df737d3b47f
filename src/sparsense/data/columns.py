"""Columns of numbers and of words as rows of numbers: fitted on training rows, applied with numpy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.errors import InputError
from sparsense.extras import need

MISSING = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})  # in any case of letters
MAX_LEVELS = 256
LARGEST = float(np.finfo(np.float32).max)
UNKNOWN = -1.0
"""The place of a word that was not seen in fitting."""
COARSE = 0.01  # of a column's standard deviation: steps of float32 that are larger hide what varies
Columns = Mapping[str, Sequence[str | None]]
"""Name -> values as text, None or one of `MISSING` where there is none."""


@dataclass(frozen=True)
class Column:
    """How one number of a row, as a detector takes it, becomes numbers of the network.

    A column of numbers: itself, NaN where it is missing -> (v - mean) / std, with `fill` for v where it is missing.
    A column of words: the word's place among `levels`, counted from 0, -1 for other words, NaN where it is missing ->
    a 1 at its place and 0 elsewhere; nowhere a 1 for other words.

    Args:
        name: Of the column.
        levels: The words, sorted, `""` for missing; None for numbers.
        fill: What a gap becomes: the median, or the place of `""`.
        mean: Of the filled values.
        std: Of the filled values; 1 where they are all the same.
    """

    name: str
    levels: tuple[str, ...] | None = None
    fill: float = 0.0
    mean: float = 0.0
    std: float = 1.0

    @property
    def features(self) -> list[str]:
        """A name for every number that the network sees: `size`, or `kind=a`, `kind=b`."""
        return [self.name] if self.levels is None else [f"{self.name}={level}" for level in self.levels]

    def codes(self, values: Sequence[str | None], *, rows: Sequence[int] | None = None) -> NDArray[np.float32]:
        """One number per value, as a detector takes it; `rows` are the numbers of their rows, for messages.

        Raises:
            InputError: A word in a column of numbers.
        """
        if self.levels is None:
            return numbers(values, f"column {self.name!r}", rows=rows).astype(np.float32)
        places = {level: float(place) for place, level in enumerate(self.levels)}
        return np.array([places.get(word, UNKNOWN) if word else np.nan for word in words(values)], np.float32)

    def describe(self) -> str:
        """What a detector takes and what it makes of it, in words.

        Example:
            >>> Column("kind", ("a", "b"), fill=-1.0).describe()
            "a word by its place: 0 = 'a', 1 = 'b'; another word is -1, no word; a gap (NaN) is no word, too"
        """
        if self.levels is None:
            return f"a number; a gap (NaN) becomes {self.fill:g}; then (v - {self.mean:g}) / {self.std:g}"
        places = ", ".join(f"{place} = {level!r}" for place, level in enumerate(self.levels) if level)
        gap = "no word, too" if self.fill == UNKNOWN else "a word of its own"
        return f"a word by its place: {places}; another word is {UNKNOWN:g}, no word; a gap (NaN) is {gap}"


@dataclass(frozen=True)
class Encoding:
    """How a table becomes float32 rows: `codes` of what the user has, and what a network sees of them.

    Example:
        >>> encoding = fit_encoding({"size": ["1", "3", ""], "kind": ["a", "b", "a"]})
        >>> rows = encoding.codes({"kind": ["b"], "size": ["2"]})
        >>> rows.tolist(), encoding.apply(rows).tolist()
        ([[2.0, 1.0]], [[0.0, 0.0, 1.0]])
    """

    columns: tuple[Column, ...]

    @property
    def features(self) -> list[str]:
        """A name for every number that the network sees."""
        return [name for column in self.columns for name in column.features]

    def codes(self, columns: Columns, *, rows: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Rows `[N, columns]` as a detector takes them; columns are found by their names, others are left out.

        Args:
            columns: Of the table, or of a part of it.
            rows: The numbers of their rows, for messages; None: 1, 2, ...

        Raises:
            InputError: A column is absent, or holds words where numbers were.
        """
        for column in self.columns:
            if column.name not in columns:
                raise InputError(f"encoding a table: it has no column {column.name!r}; it has {', '.join(columns)}")
        return np.stack([column.codes(columns[column.name], rows=rows) for column in self.columns], axis=1)

    def apply(self, rows: NDArray[Any]) -> NDArray[Any]:
        """What the network sees of rows `[N, columns]`: `[N, features]`, in the type of the rows."""
        own, level, mean, std = self.parts()
        filled = np.where(np.isnan(rows), np.array([c.fill for c in self.columns], rows.dtype), rows)[:, own]
        scaled = (filled - mean.astype(rows.dtype)) / std.astype(rows.dtype)
        found: NDArray[Any] = np.where(np.isnan(level), scaled, filled == level).astype(rows.dtype)
        return found

    def parts(self) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Of every feature: its column, its place (NaN for numbers), mean and std."""
        found = [
            (index, np.nan if column.levels is None else place, column.mean, column.std)
            for index, column in enumerate(self.columns)
            for place in range(len(column.features))
        ]
        own, *others = (np.array(part) for part in zip(*found, strict=True))
        level, mean, std = (part.astype(np.float32) for part in others)
        return own.astype(np.int64), level, mean, std

    def to_list(self) -> list[dict[str, Any]]:
        """For a card; `from_list` reads it back."""
        return [asdict(column) | {"meaning": column.describe()} for column in self.columns]

    @classmethod
    def from_list(cls, rows: Sequence[Mapping[str, Any]]) -> Encoding:
        """The inverse of `to_list`.

        Raises:
            InputError: Not such a list.
        """
        try:
            plain = [{key: value for key, value in row.items() if key != "meaning"} for row in rows]
            return cls(tuple(Column(**row | {"levels": row["levels"] and tuple(row["levels"])}) for row in plain))
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"reading the encoding of a table: {error!r}") from error


def fit_encoding(columns: Columns, *, rows: Sequence[int] | None = None) -> Encoding:
    """Kinds, medians, scales and levels of columns, by scikit-learn's imputer, scaler and one-hot encoder.

    Args:
        columns: Of training rows alone.
        rows: The numbers of these rows, for messages; None: 1, 2, ...

    Raises:
        InputError: A column of words with more than 256 levels, or of numbers that float32 cannot tell apart.
        MissingExtraError: scikit-learn is not installed.
    """
    return Encoding(tuple(_fit(name, values, rows) for name, values in columns.items()))


def _fit(name: str, values: Sequence[str | None], rows: Sequence[int] | None) -> Column:
    if not is_numeric(values):
        return _fit_words(name, values)
    return fit_numbers(name, numbers(values, f"column {name!r}", rows=rows))


def fit_numbers(name: str, values: NDArray[np.float64]) -> Column:
    """Median, mean and standard deviation of a column of numbers, NaN where there is none.

    Raises:
        InputError: float32 cannot tell them apart.
        MissingExtraError: scikit-learn is not installed.
    """
    found = values.astype(np.float32)
    pipeline = _numeric_pipeline().fit(found.astype(np.float64)[:, None])
    fill, mean, std = (np.float32(part[0]) for part in
                       (np.nan_to_num(pipeline[0].statistics_), pipeline[1].mean_, pipeline[1].scale_))  # fmt: skip
    _check_steps(name, np.nan_to_num(values, nan=float(fill)))
    return Column(name, None, float(fill), float(mean), float(std))


def _fit_words(name: str, values: Sequence[str | None]) -> Column:
    encoder = need("sklearn.preprocessing", doing="encoding a table", extra="data").OneHotEncoder
    found = encoder(handle_unknown="ignore").fit(np.array(words(values), object)[:, None]).categories_[0]
    levels = tuple(str(level) for level in found)
    if len(levels) > MAX_LEVELS:
        raise InputError(
            f"encoding column {name!r}: it has {len(levels)} different words, at most {MAX_LEVELS} are encoded; leave "
            "it out with drop"
        )
    return Column(name, levels, float(levels.index("")) if "" in levels else UNKNOWN)


def _check_steps(name: str, values: NDArray[np.float64]) -> None:
    """Detectors take float32: a time in seconds since 1970 moves in steps of two minutes there."""
    step, std = float(np.spacing(np.float32(np.abs(values).max()))), values.std()
    if np.ptp(values) and step > COARSE * std:
        raise InputError(
            f"encoding column {name!r}: it varies by {std:.3g} (standard deviation) around {values.mean():.7g}, where "
            f"float32, which detectors take, has steps of {step:.3g}; subtract a fixed number, or drop it"
        )


def _numeric_pipeline() -> Any:
    """Median, then mean and standard deviation."""
    doing = "encoding a table"
    impute = need("sklearn.impute", doing=doing, extra="data").SimpleImputer
    scale = need("sklearn.preprocessing", doing=doing, extra="data").StandardScaler
    join = need("sklearn.pipeline", doing=doing, extra="data").make_pipeline
    return join(impute(strategy="median", keep_empty_features=True), scale())


def is_numeric(values: Sequence[str | None]) -> bool:
    """Whether every value that is there is a number."""
    return all(_number(value) is not None for value in words(values) if value)


def numbers(values: Sequence[str | None], name: str, *, rows: Sequence[int] | None = None) -> NDArray[np.float64]:
    """As numbers, NaN where there is none.

    Raises:
        InputError: A word, or a number that is infinite in float32; with its row, of `rows` or counted from 1.
    """
    found = np.full(len(values), np.nan)
    for row, value in enumerate(words(values)):
        if value:
            number = _number(value)
            if number is None or not abs(number) <= LARGEST:
                at = row + 1 if rows is None else rows[row]
                raise InputError(f"{name}, row {at}: expected a finite number, found {value!r}")
            found[row] = number
    return found


def words(values: Sequence[str | None]) -> list[str]:
    """Without blanks around them, empty where there is none."""
    stripped = ("" if value is None else value.strip() for value in values)
    return ["" if value.lower() in MISSING else value for value in stripped]


def _number(value: str) -> float | None:
    if "_" in value:  # Python reads the code 1_2 as 12
        return None
    try:
        return float(value)
    except ValueError:
        return None
