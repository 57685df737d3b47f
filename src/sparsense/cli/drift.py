"""`sparsense drift`: are inputs still what a detector was calibrated on?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sparsense.cli.app import app
from sparsense.cli.tables import table
from sparsense.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sparsense.detector.fit import HeldOut
    from sparsense.runtime import ExportedDetector


@dataclass(frozen=True)
class Answers:
    """What a detector said about the inputs, `[N]` each; class 0 where one threshold is for all."""

    p: NDArray[np.float64]
    scores: NDArray[np.float64]
    classes: NDArray[np.int64]


@app.command()
def drift(
    detector: Annotated[Path, typer.Argument(metavar="DETECTOR", help="A detector file.")],
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUTS", help="Images, folders, .npy, .npz, .csv, .parquet; - for paths on stdin."),
    ],
    level: Annotated[float, typer.Option(min=0, max=1, help="A probability below it is called a drift.")] = 0.01,
    either: Annotated[bool, typer.Option("--either", help="Lower scores are a drift, too.")] = False,
    fail_on_drift: Annotated[bool, typer.Option("--fail-on-drift", help="Exit 1 if there is one.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the table.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="For ONNX Runtime.")] = None,
) -> None:
    """Test whether the scores of new inputs have risen since calibration (Kolmogorov-Smirnov on the p-values).

    A single anomaly is for `sparsense score`; this is about many inputs together, each of which may look usual. Where
    every predicted class has its threshold, classes are tested one by one, each against the calibration inputs of its
    own, and the smallest probability is multiplied by their number. A class without such inputs is left out.
    """
    from sparsense.runtime import ExportedDetector

    loaded = ExportedDetector(detector, threads=threads)
    answers = collected(loaded, inputs)
    rows = by_class(loaded, answers, either=either)
    tested = sum(row["inputs"] for row in rows)
    probability = min(1.0, len(rows) * min(row["probability"] for row in rows))
    found = {"drift": probability < level, "probability": probability, "level": level, "tests": rows}
    found["untested"] = len(answers.p) - tested
    if found["untested"]:
        typer.echo(f"{found['untested']:,} inputs left out: of classes without calibration inputs", err=True)
    if as_json:
        typer.echo(json.dumps(found))
    else:
        columns = ["class", "inputs", "calibrated", "statistic", "probability"]
        typer.echo("\n".join(table(columns, ([row[key] for key in columns] for row in rows))))
        verdict = "a drift" if found["drift"] else "no drift"
        typer.echo(f"{verdict}: probability {probability:.3g} without one, level {level:g}", err=True)
    if fail_on_drift and found["drift"]:
        raise typer.Exit(1)


def collected(detector: ExportedDetector, inputs: list[str]) -> Answers:
    """What the detector says about all inputs.

    Raises:
        InputError: There are none.
    """
    import numpy as np

    from sparsense.cli.inputs import batches

    p, scores, classes = [], [], []
    for _, batch in batches(detector, inputs, size=detector.micro_batch):
        found = detector(batch)
        p.append(np.asarray(found.p_value, np.float64))
        scores.append(np.asarray(found.score, np.float64))
        own = detector.class_thresholds is not None
        classes.append(found.output.argmax(1) if own else np.zeros(len(p[-1]), np.int64))
    if not sum(map(len, p)):
        raise InputError(f"testing for a drift: expected inputs, found none in {', '.join(inputs)}")
    scored = np.concatenate(scores)
    return Answers(np.concatenate(p), np.where(np.isnan(scored), np.inf, scored), np.concatenate(classes))


def by_class(detector: ExportedDetector, answers: Answers, *, either: bool) -> list[dict[str, Any]]:
    """One test of all inputs, or one of each predicted class that occurs; each with its own calibration samples.

    For lower scores the file's calibration scores are asked, too: among tied ones, p-values are never uniform.

    Raises:
        InputError: No class has calibration inputs.
    """
    import numpy as np

    from sparsense.detector.recalibrate import remembered

    calibration = detector.card["calibration"]
    classes = calibration.get("classes")
    known = remembered(detector.path) if either or classes else None
    if classes is None:
        return [_row("all", answers.p, calibration["n"], either, None if known is None else known.scores)]
    rows = []
    for label in np.unique(answers.classes).tolist():
        chosen = answers.classes == label
        scores = _of_class(known, label)
        if not classes[label]["pooled"]:
            rows.append(_row(str(label), answers.p[chosen], classes[label]["n"], either, scores))
        elif scores is not None:
            rows.append(_pooled(str(label), answers.scores[chosen], scores, either))
    if not rows:
        raise InputError(
            f"testing for a drift: {detector.path.name} remembers no calibration inputs of the classes predicted here, "
            "so there is nothing to compare with; calibrate it with more inputs, sparsense recalibrate"
        )
    return rows


def _of_class(known: HeldOut | None, label: int) -> NDArray[np.float64] | None:
    """The calibration scores of one predicted class; None where there are none, or none are remembered."""
    import numpy as np

    if known is None or known.classes is None or not (known.classes == label).any():
        return None
    return np.asarray(known.scores[known.classes == label], np.float64)


def _pooled(label: str, scores: NDArray[np.float64], own: NDArray[np.float64], either: bool) -> dict[str, Any]:
    """P-values of a pooled class are among all classes, and no drift would still make them unusual; so from scores."""
    from sparsense.calibrate import p_values

    return _row(label, p_values(own, scores), len(own), either, own)


def _row(
    label: str, p: NDArray[np.float64], n: int, either: bool, calibration: NDArray[np.float64] | None
) -> dict[str, Any]:
    from sparsense.drift import drift_test

    alternative: Literal["any", "anomalous"] = "any" if either else "anomalous"
    statistic, probability = drift_test(p, n, alternative=alternative, calibration=calibration)
    return {"class": label, "inputs": len(p), "calibrated": n, "statistic": statistic, "probability": probability}
