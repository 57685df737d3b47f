"""The data sets of a recipe, loaded and checked against each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsense.benchmark.card import DataSet
from sparsense.data import SOURCES, Dataset
from sparsense.data.classes import NORMAL_OR_NOT
from sparsense.data.digests import digests
from sparsense.data.root import first_data_root
from sparsense.errors import InputError
from sparsense.recipe.schema import Recipe, SourceSection
from sparsense.training.run import Samples


@dataclass(frozen=True)
class RunData:
    """All sets of one run, each with its own purpose."""

    train: Dataset
    calibration: Dataset
    test: Dataset
    anomalies: Mapping[str, Dataset]
    outliers: Dataset | None = None
    validation_anomalies: Dataset | None = None

    def samples(self) -> Samples:
        """What something may be learnt from."""
        return Samples(self.train, self.outliers, self.validation_anomalies)

    def rows(self, unused: Collection[str] = ()) -> list[DataSet]:
        """For the card; `unused` are those that nothing learnt from."""
        sets = [
            ("train", "train", self.train),
            ("calibration", "calibration", self.calibration),
            ("test", "test", self.test),
        ]
        sets += [(name, "unused" if name in unused else "train", data) for name, data in _learnt(self).items()]
        sets += [(name, "anomalous", data) for name, data in self.anomalies.items()]
        return [
            DataSet(name=name, role=role, source=data.name, count=len(data), sha256=data.sha256())  # type: ignore[arg-type]
            for name, role, data in sets
        ]


def load_data(recipe: Recipe, data_root: str | None) -> RunData:
    """Load every set of a recipe.

    Args:
        recipe: Its section `data`, and its key `data_root` as the last resort.
        data_root: The root given on the command line.

    Raises:
        InputError: A set is missing, shaped unlike the training set, holds samples that are labelled anomalous where
            normal ones belong, or shares samples with a set that it must not.
    """
    root = first_data_root(data_root, recipe.data_root)
    train = _load(recipe.data.train, root, recipe.seed)
    data = RunData(
        train,
        _load(recipe.data.calibration, root, recipe.seed).named_like(train),
        _load(recipe.data.test, root, recipe.seed).named_like(train),
        {name: _load(section, root, recipe.seed) for name, section in recipe.data.anomalies.items()},
        *(
            None if section is None else _load(section, root, recipe.seed)
            for section in (recipe.data.outliers, recipe.data.validation_anomalies)
        ),
    )
    _check_shapes(data)
    _check_normal(data)
    _check_disjoint(data)
    return data


def _load(section: SourceSection, root: str | None, seed: int) -> Dataset:
    source = SOURCES[section.source]
    options: dict[str, Any] = dict(section.options)
    if root is not None and "data_root" in source.options:
        options.setdefault("data_root", root)
    if section.limit is not None:
        options = {"limit": section.limit, "seed": seed, **options}
    return source(section.split, **options)


def _check_shapes(data: RunData) -> None:
    expected = data.train.inputs.shape[1:], data.train.inputs.dtype
    others = {"calibration": data.calibration, "test": data.test, **data.anomalies, **_learnt(data)}
    for name, other in others.items():
        if (other.inputs.shape[1:], other.inputs.dtype) != expected:
            raise InputError(
                f"loading data.{name}: expected {expected[1]} samples of shape {list(expected[0])} like data.train, "
                f"found {other.inputs.dtype} of {list(other.inputs.shape[1:])}; give the options size and channels"
            )
        if other.columns != data.train.columns:
            raise InputError(
                f"loading data.{name}: its words and numbers are encoded otherwise than those of data.train; take both "
                "from one file, or name the training file with the option like"
            )


def _check_normal(data: RunData) -> None:
    """What is labelled anomalous would be learnt as normal, raise the threshold, or count as a false alarm."""
    for name, part in (("train", data.train), ("calibration", data.calibration), ("test", data.test)):
        if part.labels is None or part.class_names != NORMAL_OR_NOT:
            continue
        if wrong := int((part.labels != 0).sum()):
            raise InputError(
                f"loading data.{name}: expected normal samples, found {wrong} of {len(part)} labelled anomalous; "
                "choose the others with the option classes: [0]"
            )


def _check_disjoint(data: RunData) -> None:
    """Refuse sets that share samples and must not.

    Samples that calibrate a threshold must not have been seen before, nor be measured on, nor be anomalies; anomalies
    must not have been learnt as normal; those learnt from or chosen by must be in no other set. A test sample may equal
    an anomaly: that is a question of labels, and real tables and series have such pairs.

    Raises:
        InputError: Names the sets, and how many samples they share.
    """
    learnt = _learnt(data)
    sets = {"train": data.train, "calibration": data.calibration, "test": data.test, **data.anomalies, **learnt}
    pairs = [("calibration", "train"), ("calibration", "test"), ("test", "train")]
    pairs += [(name, other) for name in data.anomalies for other in ("train", "calibration")]
    pairs += [(name, other) for name in learnt for other in ("train", "test", "calibration", *data.anomalies)]
    pairs += [("validation_anomalies", "outliers")] if len(learnt) == 2 else []
    hashes = {name: np.unique(digests(sets[name].inputs)) for name in _named(pairs)}
    for one, other in pairs:
        if shared := int(np.isin(hashes[one], hashes[other]).sum()):
            raise InputError(
                f"loading data: {shared} samples of data.{one} are also in data.{other}; the guarantee on the "
                "false-alarm rate and honest measurements need separate samples. Remove the duplicates"
            )


def _learnt(data: RunData) -> dict[str, Dataset]:
    """Anomalies that are seen before anything is measured."""
    sets = {"outliers": data.outliers, "validation_anomalies": data.validation_anomalies}
    return {name: dataset for name, dataset in sets.items() if dataset is not None}


def _named(pairs: list[tuple[str, str]]) -> list[str]:
    return list(dict.fromkeys(name for pair in pairs for name in pair))
