"""Is the network in fewer bits faster, and as good? Measured, with intervals; otherwise the float32 one stays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from sparsense.benchmark import numbers
from sparsense.benchmark.latency import Latency, compare_latency
from sparsense.benchmark.metrics import auroc
from sparsense.benchmark.onnx_cost import onnx_call
from sparsense.errors import InputError
from sparsense.graph.run import Session
from sparsense.quantise.float16 import to_float16
from sparsense.quantise.int8 import to_int8

Array = NDArray[Any]
NAMES = {"int8": "INT8", "float16": "float16"}
Short = Literal["int8", "float16"]


@dataclass(frozen=True)
class Budget:
    """What fewer bits may cost, and where their speed is measured.

    Args:
        accuracy: Largest loss, as a share.
        auroc: Largest loss of the energy score's AUROC, as a share.
        batch: Samples per call.
        rounds: Of interleaved measurements.
        threads: For ONNX Runtime.
    """

    accuracy: float = 0.005
    auroc: float = 0.005
    batch: int = 1
    rounds: int = 15
    threads: int = 1


class Trial(NamedTuple):
    """What the networks are judged on, as the network itself takes it."""

    inputs: Array
    labels: Array
    anomalies: Array | None = None


@dataclass(frozen=True)
class Judged:
    """Both networks in numbers; AUROC is None without anomalies.

    Args:
        accuracy: Float32, fewer bits.
        auroc: The same, of the energy score.
        speed: Of fewer bits; its ratio is to float32.
        size: Bytes of both files.
        refusal: Why fewer bits are not accepted; empty when they are.
        name: Of the precision, as it is printed.
    """

    accuracy: tuple[float, float]
    auroc: tuple[float, float] | None
    speed: Latency
    size: tuple[int, int]
    refusal: str
    name: str = "INT8"

    @property
    def accepted(self) -> bool:
        """Whether it is faster and within the budget."""
        return not self.refusal

    def __str__(self) -> str:
        low, high = self.speed.ratio_interval
        parts = [
            f"time {numbers.ratio(self.speed.ratio)} of float32 ({numbers.digits(low)} to {numbers.digits(high)})",
            f"accuracy {numbers.percent(self.accuracy[0])} -> {numbers.percent(self.accuracy[1])}",
        ]
        if self.auroc is not None:
            parts.append(f"AUROC {numbers.percent(self.auroc[0])} -> {numbers.percent(self.auroc[1])}")
        parts.append(f"{numbers.size(self.size[0])} -> {numbers.size(self.size[1])}")
        verdict = f"{self.name} accepted" if self.accepted else f"{self.name} refused: {self.refusal}"
        return f"{verdict}; {', '.join(parts)}"


def quantise_if_better(
    model: str | Path | bytes | onnx.ModelProto,
    samples: Array,
    trial: Trial,
    budget: Budget | None = None,
    *,
    to: Short = "int8",
) -> tuple[bytes | None, Judged]:
    """The network in fewer bits if it is faster and good enough, else None; and the numbers either way.

    Args:
        model: In float32.
        samples: That set the ranges of INT8.
        trial: What both are judged on.
        budget: What may be lost.
        to: `int8` or `float16`.
    """
    before = _content(model)
    after = to_int8(before, samples) if to == "int8" else to_float16(before)
    found = replace(judge(before, after, trial, budget or Budget()), name=NAMES[to])
    return (after if found.accepted else None), found


def judge(before: bytes, after: bytes, trial: Trial, budget: Budget) -> Judged:
    """Measure both networks, in turns.

    Args:
        before: Float32.
        after: In fewer bits.
        trial: What they are judged on; held out from calibration.
        budget: What may be lost.

    Raises:
        InputError: No inputs, or other numbers of labels.
    """
    if not len(trial.inputs) or len(trial.inputs) != len(trial.labels):
        raise InputError(
            f"judging fewer bits: expected a label per input; found {len(trial.inputs)}, {len(trial.labels)}"
        )
    files = {"float32": before, "short": after}
    logits = [_logits(content, trial.inputs, budget.threads) for content in files.values()]
    right = [float((found.argmax(1) == trial.labels).mean()) for found in logits]
    areas = None if trial.anomalies is None else _areas(files, logits, trial.anomalies, budget.threads)
    calls = {name: onnx_call(content, batch=budget.batch, threads=budget.threads) for name, content in files.items()}
    speed = compare_latency(calls, rounds=budget.rounds)["short"]
    accuracy = (right[0], right[1])
    return Judged(accuracy, areas, speed, (len(before), len(after)), refusal(accuracy, areas, speed, budget))


def refusal(accuracy: tuple[float, float], areas: tuple[float, float] | None, speed: Latency, budget: Budget) -> str:
    """All reasons against fewer bits, in words; empty when there are none."""
    reasons = []
    if speed.verdict != "faster":
        reasons.append(f"it is {'slower' if speed.verdict == 'slower' else 'not measurably faster'}")
    if accuracy[1] < accuracy[0] - budget.accuracy:
        reasons.append(f"accuracy falls by more than {budget.accuracy * 100:g} points")
    if areas is not None and areas[1] < areas[0] - budget.auroc:
        reasons.append(f"AUROC falls by more than {budget.auroc * 100:g} points")
    return " and ".join(reasons)


def energy(logits: Array) -> NDArray[np.float64]:
    """-log sum exp of the logits `[N]`: higher is more anomalous."""
    wide = logits.astype(np.float64)
    top = wide.max(1, keepdims=True)
    return np.asarray(-(top[:, 0] + np.log(np.exp(wide - top).sum(1))))


def _areas(files: dict[str, bytes], usual: list[Array], anomalies: Array, threads: int) -> tuple[float, float]:
    pairs = zip(usual, (_logits(content, anomalies, threads) for content in files.values()), strict=True)
    before, after = (auroc(energy(one), energy(other)) for one, other in pairs)
    return before, after


def _logits(content: bytes, inputs: Array, threads: int, size: int = 64) -> Array:
    session = Session(content, threads=threads)
    return np.concatenate([session(inputs[start : start + size])[0] for start in range(0, len(inputs), size)])


def _content(model: str | Path | bytes | onnx.ModelProto) -> bytes:
    if isinstance(model, onnx.ModelProto):
        return bytes(model.SerializeToString())
    return model if isinstance(model, bytes) else Path(model).read_bytes()
