"""Optional dependencies, asked for where they are used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sparsense.errors import MissingExtraError


def need(module: str, *, doing: str, extra: str) -> Any:
    """Import an optional module, or say what needs it and how to install it.

    Example:
        >>> need("json", doing="reading a card", extra="data").dumps(1)
        '1'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        if error.name is not None and error.name.split(".")[0] != package:
            raise
        raise MissingExtraError(doing, package, extra) from error
