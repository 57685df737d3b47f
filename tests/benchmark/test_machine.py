import re
import sys
from importlib import metadata

from sparsense.benchmark import machine
from sparsense.benchmark.machine import this_machine, versions

CPUINFO = """processor\t: 0
model name\t: A Fast CPU @ 3.00GHz
flags\t\t: fpu sse2 avx2 avx512f
processor\t: 1
model name\t: A Fast CPU @ 3.00GHz
"""


def test_what_linux_tells(monkeypatch):
    files = {"/proc/cpuinfo": CPUINFO, "/proc/meminfo": "MemFree: 1 kB\nMemTotal:       2048 kB\n"}
    monkeypatch.setattr(machine, "_read", files.__getitem__)
    found = this_machine()
    assert found.cpu == "A Fast CPU @ 3.00GHz"
    assert found.memory_bytes == 2 * 1024**2
    assert found.features == ["avx2", "avx512f"]


def test_where_the_system_tells_nothing(monkeypatch):
    monkeypatch.setattr(machine, "_read", lambda _: "")
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    found = this_machine()
    assert found.cpu == machine.platform.machine()
    assert found.memory_bytes is None
    assert found.features == []
    assert found.cores >= 1


def test_python_and_packages():
    assert this_machine().python == sys.version.split()[0]
    found = versions()
    assert found["numpy"] == metadata.version("numpy")
    assert all(re.match(r"\d+\.", version) for version in found.values())
    assert list(found) == [name for name in machine.PACKAGES if name in found]


def test_a_package_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(machine, "PACKAGES", ("numpy", "surely-not-installed"))
    assert list(versions()) == ["numpy"]
