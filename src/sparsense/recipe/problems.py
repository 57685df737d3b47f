"""What is wrong with a recipe, in words: key path, what is allowed, what was found, the nearest key."""

from __future__ import annotations

import json
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from sparsense.errors import RecipeError

KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "finite_number": "a finite number",
}
Loc = tuple[int | str, ...]
COMPARISONS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


def recipe_error(error: ValidationError, model: type[BaseModel], *, file: str) -> RecipeError:
    """One error that lists every problem; it carries the key of the first."""
    problems = [(".".join(map(str, item["loc"])), _sentence(item, model)) for item in error.errors()]
    key, message = problems[0]
    for other_key, other in problems[1:]:
        message += f"\n  also {other_key}: {other}"
    return RecipeError(message, file=file, key=key)


def _sentence(item: Any, model: type[BaseModel]) -> str:
    kind, loc, found, context = item["type"], item["loc"], item["input"], item.get("ctx", {})
    if kind == "extra_forbidden":
        known = _keys(model, loc[:-1])
        return f"unknown key{_guess(loc[-1], known)} (known: {', '.join(known)})"
    if kind == "missing":
        return "this key is required and missing"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        allowed = list(get_args(_plain(_declared(model, loc))))
        return f"must be one of {', '.join(map(show, allowed))}; got {show(found)}{_guess(found, allowed)}"
    if kind == "string_pattern_mismatch" and loc[-1] == "pattern":
        return f"must look like 2:4 or 4x4; got {show(found)}"
    if kind == "string_pattern_mismatch":
        return f"must be letters, digits, '_' and '-', and start with a letter or digit; got {show(found)}"
    if kind == "too_short":
        return "must not be empty"
    if kind in KINDS:
        return f"must be {KINDS[kind]}; got {show(found)}"
    if set(context) & set(COMPARISONS) and (bounds := _bounds(model, loc)):
        return f"must be {_range(bounds)}; got {show(found)}{_percent(found, bounds)}"
    return f"{item['msg'][0].lower()}{item['msg'][1:]}; got {show(found)}"


def show(value: object) -> str:
    """A value as YAML writes it, cut short."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _guess(found: object, known: list[str]) -> str:
    near = get_close_matches(str(found), known, n=1, cutoff=0.5)
    return f". Did you mean {near[0]!r}?" if near else ""


def _range(bounds: dict[str, float]) -> str:
    return " and ".join(f"{COMPARISONS[name]} {value}" for name, value in bounds.items())


def _percent(found: object, bounds: dict[str, float]) -> str:
    """A share written in per cent is the most common mistake."""
    if bounds.get("lt") == 1 and isinstance(found, (int, float)) and 1 < found <= 100:
        return f" (write {found / 100:g} for {found:g} %)"
    return ""


def _bounds(model: type[BaseModel], loc: Loc) -> dict[str, float]:
    """The limits declared for the value at `loc`, such as {"ge": 0, "lt": 1}."""
    found: dict[str, float] = {}
    for field in getattr(_without_none(_declared(model, loc)), "__metadata__", ()):
        for part in field.metadata:
            found |= {name: getattr(part, name) for name in COMPARISONS if hasattr(part, name)}
    return found


def _keys(model: type[BaseModel], loc: Loc) -> list[str]:
    section = _plain(_declared(model, loc))
    return list(section.model_fields) if _is_section(section) else []


def _declared(model: type[BaseModel], loc: Loc) -> Any:
    """The type that the schema declares at `loc`."""
    declared: Any = model
    for part in loc:
        outer = _plain(declared)
        if _is_section(outer):
            declared = get_type_hints(outer, include_extras=True).get(str(part), Any)
        else:  # list[X] or dict[str, X]
            declared = (get_args(outer) or (Any,))[-1]
    return declared


def _plain(declared: Any) -> Any:
    declared = _without_none(declared)
    return get_args(declared)[0] if get_origin(declared) is Annotated else declared


def _without_none(declared: Any) -> Any:
    options = [option for option in get_args(declared) if option is not type(None)]
    return options[0] if get_origin(declared) in (Union, UnionType) else declared


def _is_section(declared: Any) -> bool:
    return isinstance(declared, type) and issubclass(declared, BaseModel)
