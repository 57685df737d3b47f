"""Whole networks of every family, both orders against torch, sample by sample, as benchmarks/ compares them."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FAST = ("autoencoder", "mobilenet_v3", "swin", "text_encoder")
TOLERANCE = 1e-5


def load() -> ModuleType:
    """`benchmarks/families.py` under a name of its own."""
    sys.path.append(str(BENCHMARKS))
    spec = util.spec_from_file_location("benchmark_families", BENCHMARKS / "families.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


benchmark = load()


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in benchmark.FAMILIES]
)
def test_own_networks(name: str) -> None:
    agrees(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", benchmark.LIBRARY)
def test_networks_of_libraries(name: str) -> None:
    if not benchmark.is_installed(name):
        pytest.skip(f"{name.partition(':')[0]} is not installed")
    agrees(name)


def agrees(name: str) -> None:
    row = benchmark.compare(name)
    errors = {key: row[key] for key in ("norms", "gates", "input", "second")}
    assert max(errors.values()) < TOLERANCE, errors
