"""Whether the value of an option is of the kind that a source declares, and that kind in words."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

WORDS: Mapping[Any, str] = {
    int: "a whole number", float: "a number", str: "a text", bool: "true or false", NoneType: "null",
}  # fmt: skip
LISTS = (list, tuple, Sequence)
EXAMPLES: Mapping[Any, str] = {str: "[one, two]", float: "[0.6, 0.2, 0.2]"}


def kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """The declared kinds of a function's arguments, by name; those that are not declared are not there."""
    return get_type_hints(function)


def fits(value: object, kind: Any) -> bool:
    """Whether a value is of a declared kind; of a kind that is not known here everything is.

    Example:
        >>> fits([1, 2], Sequence[float]), fits(2.0, int), fits("time", Sequence[str])
        (True, False, False)
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin in LISTS:
        return isinstance(value, (list, tuple, np.ndarray)) and all(fits(item, parts[0]) for item in value)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return not isinstance(kind, type) or isinstance(value, (str, os.PathLike) if kind is str else kind)


def in_words(kind: Any) -> str:
    """A declared kind, for messages.

    Example:
        >>> in_words(int | None)
        'a whole number or null'
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(in_words(part) for part in parts)
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin in LISTS:
        return f"a list, such as {EXAMPLES.get(parts[0], '[1, 2]')}"
    return WORDS.get(kind, str(kind))
