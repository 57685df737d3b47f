"""The option that several commands share: thresholds per predicted class."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal


class PerClass(StrEnum):
    """One threshold; one per class; one per class that has enough samples."""

    NO = "no"
    STRICT = "strict"
    POOL = "pool"


def named(choice: PerClass) -> Literal["no", "strict", "pool"]:
    """As the library calls it."""
    if choice is PerClass.NO:
        return "no"
    return "strict" if choice is PerClass.STRICT else "pool"
