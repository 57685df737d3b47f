"""Detectors let loose on sets of inputs: the part of `sparsense bench` that looks at answers."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsense.cli.inputs import batches
from sparsense.errors import InputError
from sparsense.runtime import ExportedDetector

if TYPE_CHECKING:
    from sparsense.benchmark.bench import Contestant, Judged
    from sparsense.benchmark.bench_card import BenchDetector, BenchSet

Report = Callable[[str, int, int], None]
USUAL = "in-distribution"


@dataclass(frozen=True)
class NamedSet:
    """Inputs of one set as they were named on the command line."""

    name: str
    inputs: list[str]


@dataclass
class Hashes:
    """What the inputs of a set were: counted and hashed while the first detector saw them."""

    count: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    each: list[Any] = field(default_factory=list)


def named_sets(in_distribution: Sequence[str], anomalous: Sequence[str]) -> list[NamedSet]:
    """The in-distribution set, then the anomalous ones.

    Args:
        in_distribution: Inputs, all of one set.
        anomalous: `NAME=INPUTS`, where equal names are one set; or inputs that are a set by themselves, called by the
            name of their file, or by their whole path where another set has this name.

    Raises:
        InputError: Anomalies with nothing to be compared with.

    Example:
        >>> [part.name for part in named_sets(["a.npy"], ["b.npy", "noise=c", "noise=d.npy"])]
        ['in-distribution', 'b', 'noise']
    """
    if anomalous and not in_distribution:
        raise InputError("comparing detectors: anomalies need inputs to be compared with; give --in-distribution")
    sets = {USUAL: list(in_distribution)}
    for key, inputs in _keyed(anomalous):
        if key == USUAL:
            raise InputError(f"comparing detectors: no anomalous set can be called {USUAL!r}; got {inputs!r}")
        sets.setdefault(key, []).append(inputs)
    return [NamedSet(name, _without_stdin(inputs)) for name, inputs in sets.items()]


def _keyed(anomalous: Sequence[str]) -> list[tuple[str, str]]:
    """Name and inputs of each text."""
    divided = [_divided(text) for text in anomalous]
    own = {inputs: Path(inputs).stem or inputs for _, inputs in divided}
    taken = Counter([*{name for name, _ in divided if name}, *(own[inputs] for name, inputs in divided if not name)])
    return [(name or (own[inputs] if taken[own[inputs]] == 1 else inputs), inputs) for name, inputs in divided]


def _divided(text: str) -> tuple[str, str]:
    """Name and inputs; a path that exists has no name, whatever signs are in it."""
    name, equals, inputs = text.partition("=")
    return (name, inputs) if equals and not Path(text).exists() else ("", text)


def _without_stdin(inputs: list[str]) -> list[str]:
    """Every detector reads every set, but standard input can be read once only."""
    lines = [line.rstrip("\r\n") for line in sys.stdin if line.strip()] if "-" in inputs else []
    return [part for name in inputs for part in (lines if name == "-" else [name])]


def contest(
    files: Sequence[Path], sets: Sequence[NamedSet], *, threads: int, report: Report
) -> tuple[list[Contestant], list[BenchDetector], list[BenchSet]]:
    """Score every set with every detector.

    Raises:
        InputError: No detector, inputs that it does not take, or an input that is usual and anomalous at once.
    """
    hashes: dict[str, Hashes] = {}
    contestants: list[Contestant] = []
    rows, groups = [], dict[int, Path]()
    for file, name in zip(files, _names(files), strict=True):
        detector = ExportedDetector(file, threads=threads)
        _check_groups(detector, groups.setdefault(detector.group, detector.path), groups)
        judged, seen = {}, {}
        for part in sets:
            known = None if contestants else hashes.setdefault(part.name, Hashes())
            judged[part.name], seen[part.name] = _judge(detector, part, known)
            report(f"{name}: {part.name}", len(judged[part.name].scores), len(judged[part.name].scores))
        if not contestants:
            _check_apart(hashes)
        contestants.append(_contestant(name, judged))
        rows.append(_detector_row(detector, name, judged, seen[USUAL]))
    return contestants, rows, [_set_row(part, hashes[part.name]) for part in sets]


def _names(files: Sequence[Path]) -> list[str]:
    """File names without suffix; whole paths where these would be the same."""
    stems = [file.stem for file in files]
    return stems if len(set(stems)) == len(stems) else [str(file) for file in files]


def _judge(detector: ExportedDetector, part: NamedSet, hashes: Hashes | None) -> tuple[Judged, int | None]:
    """Verdicts on a set, and how many of its inputs the detector was made from."""
    from sparsense.benchmark.bench import Judged
    from sparsense.data.digests import digests
    from sparsense.detector.groups import single_inputs
    from sparsense.detector.seen import count_seen

    scores, flags, hashed = [], [], []
    for _, batch in batches(detector, part.inputs, size=detector.micro_batch):
        found = detector(batch)
        singles = single_inputs(batch, detector.group)
        hashed.append(digests(singles))
        scores.append(found.score)
        flags.append(found.is_anomaly)
        if hashes is not None:
            hashes.count += len(singles)
            hashes.digest.update(np.ascontiguousarray(batch).data)
            hashes.each.append(hashed[-1])
    if not scores:
        raise InputError(f"comparing detectors: the set {part.name!r} holds no inputs")
    return Judged.of(np.concatenate(scores), np.concatenate(flags)), count_seen(
        detector.metadata, np.concatenate(hashed)
    )


def _check_groups(detector: ExportedDetector, same: Path, groups: dict[int, Path]) -> None:
    """Detectors of single inputs and of groups answer different questions."""
    if len(groups) > 1:
        other = next(size for size in groups if size != detector.group)
        raise InputError(
            f"comparing detectors: {same} judges {_sized(detector.group)} and {groups[other]} {_sized(other)}; compare "
            "those of equal groups"
        )


def _sized(group: int) -> str:
    return "single inputs" if group == 1 else f"groups of {group}"


def _check_apart(hashes: dict[str, Hashes]) -> None:
    usual = np.concatenate(hashes[USUAL].each)
    for name, part in hashes.items():
        if name != USUAL and (shared := int(np.isin(np.concatenate(part.each), usual).sum())):
            raise InputError(
                f"comparing detectors: {shared} inputs of the anomalous set {name!r} are also in the in-distribution "
                "set; an input is one or the other. Remove them"
            )


def _contestant(name: str, judged: dict[str, Judged]) -> Contestant:
    from sparsense.benchmark.bench import Contestant

    return Contestant(name, judged[USUAL], {key: part for key, part in judged.items() if key != USUAL})


def _detector_row(detector: ExportedDetector, name: str, judged: dict[str, Judged], seen: int | None) -> BenchDetector:
    from sparsense.benchmark.bench import false_alarm_p_value
    from sparsense.benchmark.bench_card import BenchDetector
    from sparsense.benchmark.uncertainty import wilson_interval

    content, asked = detector.path.read_bytes(), detector.card["calibration"]
    usual = judged[USUAL].flags
    alarms, per_class = int(usual.sum()), detector.class_thresholds is not None
    return BenchDetector(
        file=str(detector.path),
        name=name,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        rate=asked["rate"],
        threshold=detector.threshold,
        per_class=per_class,
        calibration_n=asked["n"],
        expected_interval=None if per_class else tuple(asked["interval"]),
        false_alarms=alarms,
        n=len(usual),
        realised=alarms / len(usual),
        realised_interval=wilson_interval(alarms, len(usual)),
        realised_p=None
        if per_class
        else false_alarm_p_value(alarms, len(usual), calibration=asked["n"], rate=asked["rate"]),
        seen=seen,
        not_a_number=sum(part.not_a_number for part in judged.values()),
    )


def _set_row(part: NamedSet, hashes: Hashes) -> BenchSet:
    from sparsense.benchmark.bench_card import BenchSet

    role = "in_distribution" if part.name == USUAL else "anomalous"
    return BenchSet(
        name=part.name,
        role=role,  # type: ignore[arg-type]
        inputs=part.inputs,
        count=hashes.count,
        sha256=hashes.digest.hexdigest(),
    )
