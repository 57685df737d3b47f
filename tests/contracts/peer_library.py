"""The detectors of pytorch-ood, where that package is installed, without the parts of it that need torchvision."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NAME = "pytorch_ood"


@cache
def peers() -> Any:
    """Its module `detector`; the test is skipped, with the reason, where it cannot be imported.

    The package's own `__init__` loads data sets, which load torchvision; a bare package of the same name in its place
    lets the detectors be imported alone.
    """
    found = find_spec(NAME)
    if found is None or found.origin is None:
        pytest.skip("pytorch-ood is not installed: pip install --no-deps pytorch-ood")
    usual = sys.modules.get(NAME)
    if usual is None:
        bare = ModuleType(NAME)
        bare.__path__ = [str(Path(found.origin).parent)]
        sys.modules[NAME] = bare
    try:
        return import_module(f"{NAME}.detector")
    except ImportError as error:
        pytest.skip(f"pytorch-ood cannot be imported here: {error}")
