"""Columns of numbers and of words as rows of numbers: fitted on training rows, applied with numpy alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.errors import InputError
from sparsense.extras import need

MISSING = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})  # in any case of letters
MAX_LEVELS = 256
Columns = Mapping[str, Sequence[str | None]]
"""Name -> values as text, None or one of `MISSING` where there is none."""


@dataclass(frozen=True)
class Column:
    """How one column becomes numbers.

    A column of numbers gives (v - mean) / std, with `fill` where v is missing. A column of words gives a 1 at its
    level and 0 elsewhere; words that were not seen in fitting, all zeros.

    Args:
        name: Of the column.
        levels: The words, sorted, `""` for missing; None for numbers.
        fill: The median.
        mean: Of the filled values.
        std: Of the filled values; 1 where they are all the same.
    """

    name: str
    levels: tuple[str, ...] | None = None
    fill: float = 0.0
    mean: float = 0.0
    std: float = 1.0

    def apply(self, values: Sequence[str | None]) -> NDArray[np.float32]:
        """Rows of 1 or of `len(levels)` numbers.

        Raises:
            InputError: A word in a column of numbers.
        """
        if self.levels is not None:
            found = np.array(words(values))
            ones: NDArray[np.float32] = (found[:, None] == np.array(self.levels)).astype(np.float32)
            return ones
        parsed = numbers(values, f"column {self.name!r}")
        filled = np.where(np.isnan(parsed), self.fill, parsed)
        return ((filled - self.mean) / self.std).astype(np.float32)[:, None]


@dataclass(frozen=True)
class Encoding:
    """How a table becomes float32 rows; `columns.json` of a run holds it.

    Example:
        >>> encoding = fit_encoding({"size": ["1", "3", ""], "kind": ["a", "b", "a"]})
        >>> encoding.apply({"size": ["2"], "kind": ["b"]})
        array([[0., 0., 1.]], dtype=float32)
    """

    columns: tuple[Column, ...]

    @property
    def features(self) -> list[str]:
        """A name for every number of a row: `size`, `kind=a`, `kind=b`."""
        names = ([c.name] if c.levels is None else [f"{c.name}={level}" for level in c.levels] for c in self.columns)
        return [name for group in names for name in group]

    def apply(self, columns: Columns) -> NDArray[np.float32]:
        """Rows `[N, features]`.

        Raises:
            InputError: A column is absent, or holds words where numbers were.
        """
        for column in self.columns:
            if column.name not in columns:
                raise InputError(f"encoding a table: it has no column {column.name!r}; it has {', '.join(columns)}")
        return np.concatenate([column.apply(columns[column.name]) for column in self.columns], axis=1)

    def to_json(self) -> str:
        """As text; `from_json` reads it back."""
        return json.dumps({"format": 1, "columns": [asdict(column) for column in self.columns]}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Encoding:
        """The inverse of `to_json`.

        Raises:
            InputError: Not such a text.
        """
        try:
            rows: list[dict[str, Any]] = json.loads(text)["columns"]
            return cls(tuple(Column(**row | {"levels": row["levels"] and tuple(row["levels"])}) for row in rows))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"reading the encoding of a table: {error!r}") from error


def fit_encoding(columns: Columns) -> Encoding:
    """Kinds, medians, scales and levels of columns, by scikit-learn's imputer, scaler and one-hot encoder.

    Args:
        columns: Of training rows alone.

    Raises:
        InputError: A column of words with more than 256 levels.
        MissingExtraError: scikit-learn is not installed.
    """
    return Encoding(tuple(_fit(name, values) for name, values in columns.items()))


def _fit(name: str, values: Sequence[str | None]) -> Column:
    if _is_numeric(values):
        pipeline = _numeric_pipeline().fit(numbers(values, f"column {name!r}")[:, None])
        imputer, scaler = pipeline[0], pipeline[1]
        return Column(
            name, None, float(np.nan_to_num(imputer.statistics_[0])), float(scaler.mean_[0]), float(scaler.scale_[0])
        )
    encoder = need("sklearn.preprocessing", doing="encoding a table", extra="data").OneHotEncoder
    levels = encoder(handle_unknown="ignore").fit(np.array(words(values), object)[:, None]).categories_[0]
    if len(levels) > MAX_LEVELS:
        raise InputError(
            f"encoding column {name!r}: it has {len(levels)} different words, at most {MAX_LEVELS} are encoded; leave "
            "it out with drop"
        )
    return Column(name, tuple(str(level) for level in levels))


def _numeric_pipeline() -> Any:
    """Median, then mean and standard deviation."""
    doing = "encoding a table"
    impute = need("sklearn.impute", doing=doing, extra="data").SimpleImputer
    scale = need("sklearn.preprocessing", doing=doing, extra="data").StandardScaler
    join = need("sklearn.pipeline", doing=doing, extra="data").make_pipeline
    return join(impute(strategy="median", keep_empty_features=True), scale())


def _is_numeric(values: Sequence[str | None]) -> bool:
    return all(_number(value) is not None for value in words(values) if value)


def numbers(values: Sequence[str | None], name: str) -> NDArray[np.float64]:
    """As numbers, NaN where there is none.

    Raises:
        InputError: A word; with its row, counted from 1.
    """
    found = np.full(len(values), np.nan)
    for row, value in enumerate(words(values)):
        if value:
            number = _number(value)
            if number is None:
                raise InputError(f"{name}, row {row + 1}: expected a finite number, found {value!r}")
            found[row] = number
    return found


def words(values: Sequence[str | None]) -> list[str]:
    """Without blanks around them, empty where there is none."""
    stripped = ("" if value is None else value.strip() for value in values)
    return ["" if value.lower() in MISSING else value for value in stripped]


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def read_encoding(path: Path) -> Encoding:
    """The encoding in a file."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    return Encoding.from_json(path.read_text(encoding="utf-8"))
