"""Which of several variants is faster: interleaved rounds, ratios within a round, and a verdict with an interval.

Shared machines drift: the same call may take 1.8 times as long minutes later. So variants are never measured one
after the other; every round calls each of them, in a random order that the next round reverses, and only ratios
within a round are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import numpy as np

from sparsense.benchmark.metrics import Array
from sparsense.errors import InputError

Variant = Callable[[], object]
Verdict = Literal["baseline", "faster", "slower", "not distinguishable"]

MIN_ROUNDS = 6  # below, no interval of a median reaches 95 %
_MAX_REPEATS = 10_000


@dataclass(frozen=True)
class Latency:
    """How long one variant takes, by itself and against the baseline.

    Args:
        median_ms: Of single calls.
        quartiles_ms: First and third quartile of single calls.
        p99_ms: 99th percentile of single calls.
        ratio: Median over rounds of (time of the variant) / (time of the baseline); below 1 is faster.
        ratio_interval: 95 % interval of that median, free of assumptions about the distribution.
        verdict: `faster` or `slower` when the interval leaves out 1, else `not distinguishable`.
        rounds: How many ratios there are.
        repeats: Calls per round.
    """

    median_ms: float
    quartiles_ms: tuple[float, float]
    p99_ms: float
    ratio: float
    ratio_interval: tuple[float, float]
    verdict: Verdict
    rounds: int
    repeats: int


def compare_latency(
    variants: Mapping[str, Variant],
    *,
    rounds: int = 50,
    baseline: str | None = None,
    warmup: int = 3,
    min_round_ms: float = 5.0,
    seed: int = 0,
) -> dict[str, Latency]:
    """Measure variants against one of them.

    Absolute times hold for this machine at this hour; ratios and verdicts are what to quote.

    Args:
        variants: Name to a function without arguments; `onnx_call` makes one of an ONNX file.
        rounds: At least 6. Intervals shrink with the square root.
        baseline: The variant that ratios refer to; None takes the first.
        warmup: Calls before anything is counted.
        min_round_ms: A short variant is repeated within a round until it takes about so long.
        seed: Of the order of variants within the rounds.

    Returns:
        A `Latency` per variant, in the given order.

    Raises:
        InputError: No variants, an unknown baseline, too few rounds.

    Example:
        >>> found = compare_latency({"short": lambda: sum(range(10)), "long": lambda: sum(range(10_000))})
        >>> found["long"].verdict
        'slower'
    """
    baseline = baseline if baseline is not None else next(iter(variants), None)
    if baseline is None or baseline not in variants:
        raise InputError(f"expected a baseline among {', '.join(variants) or 'no variants'}; got {baseline!r}")
    if rounds < MIN_ROUNDS or warmup < 1:
        raise InputError(f"expected at least {MIN_ROUNDS} rounds and 1 warm-up call; got {rounds} and {warmup}")
    repeats = {name: _repeats(call, warmup, min_round_ms / 1e3) for name, call in variants.items()}
    times = _measure(variants, repeats, rounds, np.random.default_rng(seed))
    reference = times[baseline].mean(axis=1)
    return {name: _summary(taken, reference, name == baseline) for name, taken in times.items()}


def median_interval(values: Array, *, level: float = 0.95) -> tuple[float, float]:
    """An interval of the median between two of the sorted values, of at least the asked level.

    The number of values below the median is binomial(n, 1/2); the k-th smallest and k-th largest value
    enclose it unless fewer than k values lie on one side.

    Raises:
        InputError: Too few values for the level.
    """
    ordered = np.sort(values)
    count = len(ordered)
    tail, k = 0.0, 0
    while 2 * (tail + math.comb(count, k) / 2**count) <= 1 - level:
        tail += math.comb(count, k) / 2**count
        k += 1
    if k == 0:
        raise InputError(f"{count} values cannot give a {level:.0%} interval of their median")
    return float(ordered[k - 1]), float(ordered[count - k])


def _repeats(call: Variant, warmup: int, min_seconds: float) -> int:
    for _ in range(warmup):
        call()
    once = min(_timed(call) for _ in range(3))
    return min(max(1, math.ceil(min_seconds / max(once, 1e-9))), _MAX_REPEATS)


def _measure(
    variants: Mapping[str, Variant], repeats: Mapping[str, int], rounds: int, random: np.random.Generator
) -> dict[str, Array]:
    """Seconds of every call, `[rounds, repeats]` per variant; every order is also run backwards."""
    names = list(variants)
    times = {name: np.empty((rounds, repeats[name])) for name in names}
    order = names
    for row in range(rounds):
        order = order[::-1] if row % 2 else [names[index] for index in random.permutation(len(names))]
        for name in order:
            for column in range(repeats[name]):
                times[name][row, column] = _timed(variants[name])
    return times


def _timed(call: Variant) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def _summary(times: Array, reference: Array, is_baseline: bool) -> Latency:
    low, median, high, p99 = np.quantile(times * 1e3, [0.25, 0.5, 0.75, 0.99]).tolist()
    ratios = times.mean(axis=1) / reference
    interval = median_interval(ratios)
    return Latency(
        median_ms=median,
        quartiles_ms=(low, high),
        p99_ms=p99,
        ratio=float(np.median(ratios)),
        ratio_interval=interval,
        verdict="baseline" if is_baseline else _verdict(*interval),
        rounds=times.shape[0],
        repeats=times.shape[1],
    )


def _verdict(low: float, high: float) -> Verdict:
    if high < 1:
        return "faster"
    return "slower" if low > 1 else "not distinguishable"
