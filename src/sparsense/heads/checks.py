"""Refuse an option that cannot work, by name and value, when a head is made."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real


def number(name: str, value: float) -> float:
    """A number, or `inf` in words."""
    value = {"inf": float("inf"), ".inf": float("inf")}.get(value, value) if isinstance(value, str) else value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name} must be a number; got {value!r}")
    return value


def positive(name: str, value: float) -> float:
    """A number above 0."""
    if not 0 < number(name, value) < float("inf"):
        raise ValueError(f"{name} must be a positive number; got {value}")
    return value


def within(name: str, value: float, low: float, high: float) -> float:
    """A number in [low, high]."""
    if not low <= number(name, value) <= high:
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}]; got {value}")
    return value


def at_least(name: str, value: int, least: int) -> int:
    """A whole number from `least` on."""
    if not least <= number(name, value) < float("inf") or value != int(value):
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
