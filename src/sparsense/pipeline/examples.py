"""The inputs that a report explains: those that a detector finds most anomalous in every set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparsense.benchmark.card import Example
from sparsense.benchmark.explanation_file import Drawn
from sparsense.benchmark.metrics import Array
from sparsense.data import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import Scored
from sparsense.graph import stream

PER_SET = 2
USUAL = 200
"""Test inputs whose median parts the others are compared with."""


def explain_examples(
    scored: Scored, sets: Mapping[str, Dataset], scores: Mapping[str, Array], preprocessing: Preprocessing
) -> tuple[list[Example], Drawn]:
    """The highest scores of every set, with what they are made of.

    Args:
        scored: With explanations.
        sets: `test` and the anomalous ones.
        scores: Of the same sets.
        preprocessing: Tells the layout of an input.
    """
    examples, inputs = [], []
    for name, data in sets.items():
        for index in np.argsort(-scores[name], kind="stable")[:PER_SET]:
            examples.append(Example(dataset=name, index=int(index), score=float(scores[name][index])))
            inputs.append(data.inputs[index])
    raw = np.stack(inputs)
    found = _values(scored, preprocessing.arrange(raw))
    usual = _values(scored, preprocessing.arrange(sets["test"].subset(USUAL).inputs))
    parts = found.get("explanation")
    return examples, Drawn(
        images=raw if raw.ndim == 4 else None,
        parts=parts,
        usual=None if parts is None else np.median(usual["explanation"], axis=0),
        maps=found.get("explanation_map"),
    )


def _values(scored: Scored, inputs: Array) -> dict[str, Any]:
    names = list(scored.explanations)
    batches = list(stream(scored.network.model, list(scored.explanations.values()), inputs))
    return {name: np.concatenate(column) for name, column in zip(names, zip(*batches, strict=True), strict=True)}
