"""Refuse an option that cannot work, by name and value, when a head is made."""

from __future__ import annotations

from collections.abc import Sequence


def positive(name: str, value: float) -> float:
    """A number above 0."""
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a positive number; got {value}")
    return value


def within(name: str, value: float, low: float, high: float) -> float:
    """A number in [low, high]."""
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}]; got {value}")
    return value


def at_least(name: str, value: int, least: int) -> int:
    """A whole number from `least` on."""
    if value != int(value) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}; got {value}")
    return int(value)


def one_of(name: str, value: str, choices: Sequence[str]) -> str:
    """One of a few words."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
    return value


def flag(name: str, value: bool) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false; got {value!r}")
    return value
