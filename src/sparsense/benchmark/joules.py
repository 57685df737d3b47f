"""Energy of a call, where the processor counts it: Linux shows the counters of Intel and AMD below /sys/class/powercap.

The counters are those of whole processors, so other work and idling are part of what is found; many systems show them
to the administrator alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter

COUNTERS = Path("/sys/class/powercap")
SECONDS = 1.0
"""Of calls; the counters are renewed about every millisecond."""


def joules_per_call(call: Callable[[], object], *, seconds: float = SECONDS, counters: Path = COUNTERS) -> float | None:
    """Joules that the processors use while one call runs, the mean over calls for some seconds.

    Args:
        call: Run again and again.
        seconds: For so long; well below the minutes in which a counter begins anew.
        counters: The folder of the counters.

    Returns:
        None where no processor has a counter that may be read.
    """
    if (before := _counts(counters)) is None:
        return None
    begun, calls = perf_counter(), 0
    while calls == 0 or perf_counter() - begun < seconds:
        call()
        calls += 1
    after = _counts(counters)
    if after is None or after.keys() != before.keys():
        return None
    return sum(_between(before[name], after[name], counters / name) for name in before) / calls


def _counts(counters: Path) -> dict[str, int] | None:
    """Processor -> microjoules; domains within a processor (`intel-rapl:0:1`) are part of it."""
    processors = [path for path in counters.glob("intel-rapl:*") if path.name.count(":") == 1]
    try:
        found = {path.name: int((path / "energy_uj").read_text()) for path in processors}
    except OSError:  # for the administrator alone
        return None
    return found or None


def _between(before: int, after: int, processor: Path) -> float:
    """Joules; a counter that has reached its end has begun at 0 again."""
    if after < before:
        after += int((processor / "max_energy_range_uj").read_text())
    return (after - before) / 1e6
