"""What came out, as tables: means and spread, methods against their own baselines, cases one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
Values = dict[str, dict[str, dict[int, float]]]
"""Case -> method -> seed -> value."""


def collected(entries: list[dict[str, Any]], key: str = "values") -> Values:
    """Of the seeds that a method has in all of the cases it has."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for entry in entries:
        for name, value in entry[key].items():
            found.setdefault(name, {}).setdefault(entry["case"], {})[entry["seed"]] = value
    values: Values = {case: {} for case in dict.fromkeys(entry["case"] for entry in entries)}
    for name, by_case in found.items():
        seeds = sorted(set.intersection(*map(set, by_case.values())))
        for case, by_seed in by_case.items():
            values[case][name] = {seed: by_seed[seed] for seed in seeds}
    return values


@dataclass(frozen=True)
class Difference:
    """A method less its baseline, in points: mean over cases, 95 % interval, and in how many cases it is better.

    Of a single case `low` and `high` are the least and the most of its seeds: that says nothing about other cases.
    """

    mean: float
    low: float
    high: float
    better: int
    cases: int

    def __str__(self) -> str:
        if self.cases == 1:
            return f"{self.mean:+.2f} (seeds {self.low:+.2f} to {self.high:+.2f})"
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}], {self.better} of {self.cases}"


def difference(
    values: Values, method: str, baseline: str, *, higher_is_better: bool = True, crossed: bool = False
) -> Difference:
    """Paired by case and seed; the interval draws cases, and seeds within each case.

    Args:
        values: What was measured.
        method: Its name.
        baseline: What it is compared with, where both were measured.
        higher_is_better: Decides what counts as better.
        crossed: Cases are named `network, set`, and the interval draws networks and sets (Owen, "The pigeonhole
            bootstrap", Annals of Applied Statistics 2007): cases that share one of them are not independent.
    """
    sign, pairs = 1 if higher_is_better else -1, {}
    for case, row in values.items():
        ours, theirs = row.get(method, {}), row.get(baseline, {})
        if seeds := sorted(ours.keys() & theirs.keys()):
            pairs[case] = np.array([ours[seed] - theirs[seed] for seed in seeds])
    if not pairs:
        raise ValueError(f"{method!r} and {baseline!r} have no case and seed in common")
    means = np.array([pair.mean() for pair in pairs.values()])
    if len(pairs) == 1:
        (low, high), *_ = [(pair.min(), pair.max()) for pair in pairs.values()]
    else:
        low, high = np.percentile(_resampled(pairs, crossed=crossed), (2.5, 97.5))
    return Difference(float(means.mean()), float(low), float(high), int((sign * means > 0).sum()), len(pairs))


def _resampled(pairs: Mapping[str, NDArray[np.float64]], *, crossed: bool) -> NDArray[np.float64]:
    random = np.random.default_rng(0)
    drawn = np.stack([random.choice(pair, (RESAMPLES, len(pair))).mean(1) for pair in pairs.values()], axis=1)
    chosen = _crossed(list(pairs), random) if crossed else random.integers(0, len(pairs), (RESAMPLES, len(pairs)))
    found: NDArray[np.float64] = np.take_along_axis(drawn, chosen, axis=1).mean(1)
    return found


def _crossed(cases: Sequence[str], random: np.random.Generator) -> NDArray[np.int64]:
    """Places of cases `network, set`: every drawn network with every drawn set."""
    places = {tuple(case.split(", ")): place for place, case in enumerate(cases)}
    networks, sets = (list(dict.fromkeys(names)) for names in zip(*places, strict=True))
    grid = np.array([[places[network, name] for name in sets] for network in networks])
    rows, columns = (random.integers(0, count, (RESAMPLES, count)) for count in grid.shape)
    return grid[rows[:, :, None], columns[:, None, :]].reshape(RESAMPLES, -1)


def names(values: Values) -> list[str]:
    """Methods that were measured in all cases, in order; the others are not compared."""
    rows = list(values.values())
    return [name for name in rows[0] if all(name in row for row in rows)]


def mean_ranks(values: Values, *, higher_is_better: bool = True) -> dict[str, float]:
    """Over cases, 1 = the best mean over seeds; equal ones share their ranks."""
    known, sign = names(values), 1 if higher_is_better else -1
    table = sign * np.array([[fmean(row[name].values()) for name in known] for row in values.values()])
    higher = (table[:, None, :] > table[:, :, None]).sum(2)
    equal = (table[:, None, :] == table[:, :, None]).sum(2)
    return dict(zip(known, (higher + (equal + 1) / 2).mean(0).tolist(), strict=True))


def summary(
    values: Values,
    baselines: Mapping[str, str | None],
    published: Mapping[str, float | None],
    *,
    metric: str = "AUROC",
    crossed: bool = False,
) -> Iterator[str]:
    """A row per method: mean over cases and its spread over seeds, mean rank, the paired difference, the published."""
    higher = metric != "FPR95"
    columns = ("spread (seeds)", "mean rank", "against", "difference [95 % interval], better in", "published")
    yield f"| method | {metric}, % | {' | '.join(columns)} |"
    yield "|---|---:|---:|---:|---|---|---:|"
    ranks = mean_ranks(values, higher_is_better=higher)
    for name in names(values):
        mean, spread = over_seeds(values, name)
        baseline = baselines.get(name)
        baseline = baseline if baseline in names(values) else None  # it may not have been asked for
        against = ""
        if baseline is not None:
            against = str(difference(values, name, baseline, higher_is_better=higher, crossed=crossed))
        known = published.get(name)
        seeds = len(next(iter(values.values()))[name])
        cells = [
            name,
            f"{mean:.2f}",
            f"{spread:.2f} ({seeds})" if seeds > 1 else "(1)",
            f"{ranks[name]:.1f}",
            baseline or "",
            against,
        ]
        yield f"| {' | '.join(cells)} | {'' if known is None else f'{known:.1f}'} |"


def over_seeds(values: Values, name: str) -> tuple[float, float]:
    """Mean and standard deviation over seeds of the mean over cases."""
    each = [fmean(seed) for seed in zip(*(row[name].values() for row in values.values()), strict=True)]
    return fmean(each), stdev(each) if len(each) > 1 else 0.0


def over_rows(rows: Mapping[str, Values], baselines: Mapping[str, Mapping[str, str | None]]) -> Iterator[str]:
    """Methods that several rows of the table have, against their baselines, over all cases of these rows."""
    yield "| method | against | rows | difference [95 % interval], better in |"
    yield "|---|---|---|---|"
    pairs = dict.fromkeys(pair for row in rows for pair in baselines[row].items() if pair[1] is not None)
    for name, baseline in pairs:
        having = [row for row in rows if (name, baseline) in baselines[row].items() and name in names(rows[row])]
        if baseline is not None and len(having) > 1:
            pooled = {f"{row}/{case}": found for row in having for case, found in rows[row].items()}
            yield f"| {name} | {baseline} | {', '.join(having)} | {difference(pooled, name, baseline)} |"


def by_case(values: Values) -> Iterator[str]:
    """A row per case: mean and standard deviation over seeds of every method."""
    known = names(values)
    yield f"| case | {' | '.join(known)} |"
    yield f"|---|{'---:|' * len(known)}"
    for case, row in values.items():
        cells = [
            f"{fmean(row[name].values()):.1f}" + (f" ± {stdev(row[name].values()):.1f}" if len(row[name]) > 1 else "")
            for name in known
        ]
        yield f"| {case} | {' | '.join(cells)} |"
