"""Strict YAML: the scalars of YAML 1.2, no duplicate keys, no aliases, no tags."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from sparsense.errors import RecipeError

MAX_BYTES = 1 << 20
_INT = re.compile(r"^[-+]?[0-9]+$")
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_SIGNS_AND_DIGITS = list("-+.0123456789")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `5e-4` as text, `off` as false and `1:30` as 90; here: a number and two texts."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - as yaml declares it

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(None, None, f"alias *{event.anchor}: write the value out", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(None, None, f"key {key_node.value!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever a reader of YAML 1.1 or 1.2 would not take as text."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$"), ["t", "f"])
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:int", _INT, _SIGNS_AND_DIGITS)
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, _SIGNS_AND_DIGITS)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(node.value))


def read_yaml(text: str, *, file: str = "") -> Any:
    """The value of a YAML text.

    Raises:
        RecipeError: Not YAML, several documents, duplicate keys, aliases, tags, or absurdly long or deep.

    Example:
        >>> read_yaml("{rate: 5e-4, augment: [shift, no]}")
        {'rate': 0.0005, 'augment': ['shift', 'no']}
    """
    if len(text) > MAX_BYTES:
        raise RecipeError(f"{len(text):,} characters are no recipe; the limit is {MAX_BYTES:,}", file=file)
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise RecipeError(f"not valid YAML: {where}{error.problem}", file=file) from error
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"not valid YAML: {error}", file=file) from error
    except RecursionError as error:
        raise RecipeError("not a recipe: nested too deeply", file=file) from error


def write_yaml(value: Any) -> str:
    """The text of a value of plain types; `read_yaml` gives the value back."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=100)
