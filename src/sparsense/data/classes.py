"""Samples chosen by class: by label, or by name where the classes have names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.errors import InputError

Classes = int | str | Sequence[int | str]
NORMAL_OR_NOT = ("normal", "anomalous")
"""The classes of sets whose labels say what is anomalous."""


def in_classes(
    labels: NDArray[np.int64] | None, classes: Classes, names: Sequence[str], *, dataset: str
) -> NDArray[np.bool_]:
    """Which samples have one of some classes.

    Args:
        labels: `[N]`.
        classes: A number is a label, a text a name; one or several.
        names: Of the labels 0, 1, ...; empty where classes have none.
        dataset: Its name, for messages.

    Raises:
        InputError: No labels, or no such class.

    Example:
        >>> in_classes(np.array([0, 1, 1]), ["good"], ["broken", "good"], dataset="test")
        array([False,  True,  True])
    """
    asked = [classes] if isinstance(classes, int | str) else list(classes)
    if labels is None:
        raise InputError(f"classes={asked} needs labels, and dataset {dataset!r} has none")
    if any(isinstance(each, bool) for each in asked):
        raise InputError(f"classes={asked}: expected labels or names, found a truth value; put quotes around a name")
    places = {name: place for place, name in enumerate(names)}
    wanted: list[Any] = [places.get(each) if isinstance(each, str) else each for each in asked]
    if not asked or not set(wanted) <= set(labels.tolist()):
        found = [f"{label} ({names[label]})" if names else str(label) for label in np.unique(labels)]
        raise InputError(f"classes={asked}: dataset {dataset!r} has the labels {', '.join(found)}")
    return np.isin(labels, wanted)
