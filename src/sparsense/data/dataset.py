"""A dataset: inputs as a detector takes them, labels if there are any, and a hash that names the content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.data.columns import Column
from sparsense.errors import InputError


@dataclass(frozen=True)
class Dataset:
    """Inputs and labels of one split of one source.

    Args:
        name: What reports call it, such as `digits/test`.
        inputs: uint8 `[N, H, W, C]` with 1 or 3 channels (images), or finite float32 `[N, D]` (tables).
        labels: int64 `[N]`, or None.
        columns: Of a table with words and gaps: what its numbers stand for. Gaps are NaN then, and allowed.
        spans: Of windows of a series: `[N, 2]`, the first time step of each and the one after its last; windows that
            share a step are no separate samples.
        class_names: Of the labels 0, 1, ..., where they have names.

    Raises:
        InputError: Another dtype or number of axes, no samples, NaN or infinity, labels of another length.

    Example:
        >>> Dataset("zeros", np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 1])).subset([1]).labels
        array([1])
    """

    name: str
    inputs: NDArray[Any]
    labels: NDArray[np.int64] | None = None
    columns: tuple[Column, ...] = ()
    spans: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_inputs(self.name, self.inputs, gaps=bool(self.columns))
        if self.labels is not None:
            object.__setattr__(self, "labels", _checked_labels(self.name, self.labels, len(self.inputs)))
            _check_names(self.name, self.labels, self.class_names)

    def __len__(self) -> int:
        return len(self.inputs)

    def subset(self, which: int | slice | list[int] | NDArray[Any], *, seed: int = 0) -> Dataset:
        """Some of the samples.

        Args:
            which: Indices, a slice or a boolean mask; or a number of samples, drawn at random and kept in
                order. A number above the length gives all; a smaller draw is part of a larger one.
            seed: Of the random draw.
        """
        if isinstance(which, int):
            which = draw(len(self), which, seed)
        labels, spans = (None if part is None else part[which] for part in (self.labels, self.spans))
        return replace(self, inputs=self.inputs[which], labels=labels, spans=spans)

    def named_like(self, other: Dataset) -> Dataset:
        """The same samples with the labels that their classes have in another data set; without names nothing changes.

        Raises:
            InputError: A class that the other one does not have.

        Example:
            >>> inputs, test = np.zeros((2, 1), np.float32), np.zeros((1, 1), np.float32)
            >>> train = Dataset("train", inputs, np.array([0, 1]), class_names=("a", "b"))
            >>> Dataset("test", test, np.array([0]), class_names=("b",)).named_like(train).labels
            array([1])
        """
        names = other.class_names
        if self.labels is None or not self.class_names or not names or names == self.class_names:
            return self
        found = {label: self.class_names[label] for label in np.unique(self.labels)}
        if absent := [name for name in found.values() if name not in names]:
            raise InputError(
                f"dataset {self.name!r} has the classes {', '.join(absent)}, which {other.name!r} does not have (it "
                f"has {', '.join(names)}); choose others with classes, such as classes: [{names[0]}], or measure them "
                "as anomalies"
            )
        labels = np.array([names.index(found[label]) for label in self.labels], np.int64)
        return replace(self, labels=labels, class_names=names)

    def sha256(self) -> str:
        """SHA-256 over dtype, shape and bytes of the inputs, then of the labels; the name does not count."""
        digest = hashlib.sha256()
        for array in (self.inputs, self.labels):
            if array is not None:
                little_endian = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
                digest.update(f"{array.dtype.name}{array.shape}".encode())
                digest.update(little_endian.data)
        return digest.hexdigest()


def shuffled(count: int, seed: int) -> NDArray[np.int64]:
    """The numbers 0 .. count - 1 in an order that depends on the seed alone.

    Sorting raw generator output, because numpy promises the same raw stream on every platform and in every
    version, but not the same `permutation`.
    """
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def draw(count: int, limit: int, seed: int) -> NDArray[np.int64]:
    """At most `limit` of the numbers 0 .. count - 1, chosen at random, ascending."""
    if limit < 1:
        raise InputError(f"expected a limit of at least 1 sample; got {limit}")
    return np.sort(shuffled(count, seed)[:limit])


def stratified_order(labels: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """An order in which every run of consecutive samples has (to within one) the class shares of the whole.

    The r-th of n samples of a class, in random order, gets the key (r + 1/2) / n; samples are sorted by key.

    Example:
        >>> np.array([0, 0, 0, 0, 1, 1])[stratified_order(np.array([0, 0, 0, 0, 1, 1]), seed=0)]
        array([0, 1, 0, 0, 1, 0])
    """
    order = shuffled(len(labels), seed)
    keys = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        keys[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(keys[order], kind="stable")]


def _check_inputs(name: str, inputs: NDArray[Any], *, gaps: bool) -> None:
    images = inputs.dtype == np.uint8 and inputs.ndim == 4 and inputs.shape[3] in (1, 3)
    if not images and not (inputs.dtype == np.float32 and inputs.ndim == 2):
        raise InputError(
            f"dataset {name!r}: expected uint8 images [N, H, W, 1 or 3] or float32 rows [N, D]; "
            f"found {inputs.dtype} {list(inputs.shape)}"
        )
    if 0 in inputs.shape:
        raise InputError(f"dataset {name!r} is empty: its inputs have the shape {list(inputs.shape)}")
    wrong = np.zeros(0) if images else np.isinf(inputs) if gaps else ~np.isfinite(inputs)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise InputError(
            f"dataset {name!r}: expected finite numbers; found {inputs[row, column]} in row {row}, "
            f"column {column}. Fill or drop missing values first."
        )


def _checked_labels(name: str, labels: NDArray[Any], count: int) -> NDArray[np.int64]:
    if labels.shape != (count,):
        raise InputError(
            f"dataset {name!r}: expected one label per sample, [{count}]; found labels {list(labels.shape)}"
        )
    if labels.dtype.kind not in "iub":
        raise InputError(f"dataset {name!r}: expected whole numbers as labels; found {labels.dtype}")
    return labels.astype(np.int64)


def _check_names(name: str, labels: NDArray[np.int64], names: tuple[str, ...]) -> None:
    wrong = np.setdiff1d(labels, np.arange(len(names))) if names else labels[:0]
    if len(wrong):
        raise InputError(
            f"dataset {name!r}: expected the labels 0 to {len(names) - 1} of the classes {', '.join(names)}; "
            f"found {wrong[0]}"
        )
