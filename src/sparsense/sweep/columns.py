"""The columns of a sweep's report: what a detector has numbers for, how they read, and which way is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sparsense.benchmark import numbers
from sparsense.sweep.entries import Entry
from sparsense.sweep.points import brief


@dataclass(frozen=True)
class Column:
    """A number or a name of a detector.

    Args:
        key: Attribute of the candidate.
        label: Head of the column, with unit.
        better: Which way is better; None for names.
        scale: From the stored number to the shown one: shares are shown in percent.
        shown: The number as text.
    """

    key: str
    label: str
    better: Literal["low", "high"] | None = None
    scale: float = 1.0
    shown: Callable[[Any], str] = str

    def value(self, entry: Entry) -> Any:
        """Scaled, for axes and sorting; None where the run did not measure it."""
        value = getattr(entry.candidate, self.key)
        return value if value is None or self.better is None else value * self.scale

    def show(self, entry: Entry) -> str:
        """For people."""
        value = getattr(entry.candidate, self.key)
        return numbers.NONE if value is None else self.shown(value)

    def as_json(self) -> dict[str, Any]:
        """For the page."""
        return {"key": self.key, "label": self.label, "better": self.better, "text": self.better is None}


def _megabytes(value: int) -> str:
    return numbers.digits(value / 1e6)


def _thousandths(value: float) -> str:
    return numbers.digits(value * 1e3)


COLUMNS = (
    Column("head", "head"),
    Column("variant", "variant"),
    Column("precision", "precision"),
    Column("accuracy", "accuracy, %", "high", 100, numbers.points),
    Column("calibration_error", "calibration error, %", "low", 100, numbers.points),
    Column("reconstruction_error", "reconstruction error", "low", 1, numbers.digits),
    Column("auroc", "AUROC, %", "high", 100, numbers.points),
    Column("auroc_worst", "worst AUROC, %", "high", 100, numbers.points),
    Column("fpr95", "FPR95, %", "low", 100, numbers.points),
    Column("false_alarms", "false alarms, %", "low", 100, numbers.points),
    Column("robust_accuracy", "accuracy attacked, %", "high", 100, numbers.points),
    Column("corrupted_accuracy", "accuracy damaged, %", "high", 100, numbers.points),
    Column("certified_accuracy", "accuracy certified, %", "high", 100, numbers.points),
    Column("defended", "defended, %", "high", 100, numbers.points),
    Column("hidden", "hiding ones found, %", "high", 100, numbers.points),
    Column("time", "time / dense", "low", 1, numbers.digits),
    Column("bytes", "bytes", "low", 1, numbers.integer),
    Column("gzip_bytes", "bytes, gzip", "low", 1, numbers.integer),
    Column("peak_bytes", "peak memory, MB", "low", 1e-6, _megabytes),
    Column("joules", "mJ per sample", "low", 1e3, _thousandths),
    Column("multiply_adds", "multiply-adds", "low", 1, numbers.integer),
    Column("parameters", "parameters", "low", 1, numbers.integer),
)


def measured(entries: Sequence[Entry]) -> list[Column]:
    """The columns that any of the detectors has something for."""
    return [column for column in COLUMNS if any(column.value(entry) is not None for entry in entries)]


def swept(entries: Sequence[Entry]) -> list[str]:
    """The keys that the points vary, in the order in which they first come."""
    return list(dict.fromkeys(key for entry in entries for key in entry.values))


def label(key: str) -> str:
    """Head of the column of a swept key; one that a measured column has, too, is what was asked for."""
    return f"{key}, asked" if key in {column.label for column in COLUMNS} else key


def cells(entry: Entry, keys: Sequence[str]) -> dict[str, Any]:
    """One row of the page: swept values as text, numbers as numbers."""
    values = {f"values.{key}": brief(entry.values[key]) if key in entry.values else None for key in keys}
    return {**values, **{c.key: c.value(entry) for c in COLUMNS}, "words": entry.words, "command": entry.command}
