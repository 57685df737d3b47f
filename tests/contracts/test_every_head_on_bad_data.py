"""Data that nobody should have: every head either copes, with finite scores, or says by name what is wrong."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from test_every_head import LEARNING_HEADS, data_of, fitted, fresh_inputs, graph_of, is_autoencoder, network_of

from sparsense.data.dataset import Dataset
from sparsense.detector import fit_head
from sparsense.errors import CalibrationError, InputError
from sparsense.graph import Session
from sparsense.heads import HEADS, Head

USES_LABELS = [name for name in HEADS if HEADS[name]().needs_labels]
CAN_DO_WITHOUT = ["sensnorm"]  # takes labels where there are some


def fit_on(name: str, data: Dataset, **options: Any) -> np.ndarray:
    """Scores of fresh inputs by a head fitted on this data."""
    preprocessing = network_of(name).preprocessing
    return fit_head(graph_of(name), HEADS[name](**options), data, preprocessing=preprocessing).scores(
        fresh_inputs(name)
    )


def copes_or_says(name: str, data: Dataset, says: str) -> None:
    """The message, if there is one, holds one of the words."""
    try:
        scores = fit_on(name, data)
    except (CalibrationError, InputError) as error:
        message = str(error)
    else:
        assert np.isfinite(scores).all()
        return
    assert re.search(says, message), message


def some(name: str, which: Any) -> Dataset:
    return data_of(name).subset(which)


@pytest.mark.parametrize("name", LEARNING_HEADS)
def test_inputs_that_are_all_the_same(name: str) -> None:
    """A covariance of zeros, distances of zeros, one class."""
    copes_or_says(name, some(name, np.zeros(60, int)), "correctly classified inputs of every class|not all 0|at least")


@pytest.mark.parametrize("name", LEARNING_HEADS)
def test_fewer_inputs_than_dimensions(name: str) -> None:
    """Ten inputs; shrinkage makes up for a singular covariance, a bank that is too small is refused."""
    copes_or_says(name, some(name, np.arange(10)), "at least|correctly classified inputs of every class")


@pytest.mark.parametrize("name", LEARNING_HEADS)
def test_a_single_input(name: str) -> None:
    copes_or_says(name, some(name, [3]), "at least|correctly classified inputs of every class")


@pytest.mark.parametrize("name", [name for name in LEARNING_HEADS if not is_autoencoder(name)])
def test_one_class_alone(name: str) -> None:
    data = data_of(name)
    assert data.labels is not None
    copes_or_says(name, some(name, data.labels == 2), "correctly classified inputs of every class|at least 2 classes")


@pytest.mark.parametrize("name", LEARNING_HEADS)
def test_every_input_twice_is_as_good_as_once(name: str) -> None:
    """Duplicates change weights of means, and no head breaks."""
    scores = fit_on(name, some(name, np.repeat(np.arange(240), 2)))
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", USES_LABELS)
def test_labels_that_are_missing(name: str) -> None:
    with pytest.raises(InputError, match=rf"head '{name}': it needs labels, and 'fit' has none"):
        fit_on(name, Dataset("fit", data_of(name).inputs))


@pytest.mark.parametrize("label", [-1, 4, 999])
@pytest.mark.parametrize("name", [*USES_LABELS, *CAN_DO_WITHOUT])
def test_labels_out_of_range(name: str, label: int) -> None:
    data = data_of(name)
    assert data.labels is not None
    labels = data.labels.copy()
    labels[[17, 40]] = label
    with pytest.raises(InputError, match=rf"labels from 0 to 3, .* found {label} at sample 17 \(2 of 240"):
        fit_on(name, Dataset("fit", data.inputs, labels))


def observations(name: str, count: int = 120) -> tuple[Head, np.ndarray, np.ndarray | None]:
    """A head of our own that has seen a network, and what it observes."""
    scored, data = fitted(name), data_of(name, count=count)
    inputs = network_of(name).preprocessing.arrange(data.inputs)
    assert scored.observed is not None
    session = Session(scored.network.model, [scored.observed], threads=1)
    return deepcopy(scored.head), session(inputs)[0], data.labels


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", LEARNING_HEADS)
def test_observations_that_are_no_numbers(name: str, value: float) -> None:
    """Found when fitting, not in a score months later."""
    head, rows, labels = observations(name)
    if not learns_from_rows(name):
        pytest.skip("learns in its first pass only")
    rows = rows.copy()
    rows[7, 0] = value
    with pytest.raises(InputError, match=r"expected finite observations, found 1 of \d+ rows with NaN or infinity"):
        head.fit([rows[:50], rows[50:]], labels)


def learns_from_rows(name: str) -> bool:
    return HEADS[name].fit is not Head.fit


@pytest.mark.parametrize("name", [name for name in LEARNING_HEADS if learns_from_rows(name)])
def test_memory_does_not_grow_with_the_fitting_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak memory of fitting on four times as many batches; banks and samples are kept small, spools go to the disk."""
    head, rows, labels = observations(name)
    for module in {type(head).__module__, "sparsense.heads.gaussian_head"}:
        monkeypatch.setattr(f"{module}.ROWS", 100, raising=False)
    for limit in ("IN_MEMORY", "BLOCK"):
        monkeypatch.setattr(f"sparsense.heads.spool.{limit}", 2**14)
    if hasattr(head, "bank"):
        head.bank = 100  # type: ignore[attr-defined]

    def peak(times: int) -> int:
        def batches() -> Iterator[np.ndarray]:
            for _ in range(times):
                yield rows.copy()

        tracemalloc.start()
        head.fit(batches(), None if labels is None else np.tile(labels, times))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(30), peak(120)
    labels_alone = 90 * 120 * 8 * 3
    assert many - few < 0.5 * 90 * rows.nbytes + labels_alone, (
        f"{few:,} to {many:,} bytes for {90 * rows.nbytes:,} more of observations"
    )
