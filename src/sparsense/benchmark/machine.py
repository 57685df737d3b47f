"""Where numbers were measured: processor, cores, memory, system, and the versions of what took part."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

from sparsense.benchmark.card import Machine

PACKAGES = (
    "sparsense",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxscript",
    "torch",
    "torch-pruning",
    "scikit-learn",
    "pillow",
)
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "sve")
"""Instruction sets that decide how fast ONNX Runtime is, and whether 8-bit weights pay."""


def this_machine() -> Machine:
    """The machine that this process runs on; nothing that names a user, a host or a path."""
    cpuinfo = _read("/proc/cpuinfo")
    return Machine(
        cpu=_field(cpuinfo, "model name") or platform.processor() or platform.machine() or "unknown",
        cores=usable_cores(),
        memory_bytes=_memory_bytes(),
        features=_features(cpuinfo),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def usable_cores() -> int:
    """The logical cores that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """The versions of the installed packages that can change a number."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _features(cpuinfo: str) -> list[str]:
    flags = set((_field(cpuinfo, "flags") or _field(cpuinfo, "Features") or "").split())
    return [feature for feature in FEATURES if feature in flags]


def _memory_bytes() -> int | None:
    kilobytes = _field(_read("/proc/meminfo"), "MemTotal")
    return int(kilobytes.split()[0]) * 1024 if kilobytes else None


def _field(text: str, name: str) -> str | None:
    match = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else None


def _read(path: str) -> str:
    file = Path(path)
    return file.read_text(errors="replace") if file.is_file() else ""
