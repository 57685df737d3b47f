"""`sparsense drift`: are inputs still what a detector was calibrated on?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsense.cli.app import app
from sparsense.cli.tables import table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sparsense.runtime import ExportedDetector


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
    every predicted class has its threshold, classes are tested one by one and the smallest probability is multiplied
    by their number.
    """
    from sparsense.runtime import ExportedDetector

    loaded = ExportedDetector(detector, threads=threads)
    rows = by_class(loaded, *collected(loaded, inputs), either=either)
    probability = min(1.0, len(rows) * min(row["probability"] for row in rows))
    found = {"drift": probability < level, "probability": probability, "level": level, "tests": rows}
    if as_json:
        typer.echo(json.dumps(found))
    else:
        columns = ["class", "inputs", "calibrated", "statistic", "probability"]
        typer.echo("\n".join(table(columns, ([row[key] for key in columns] for row in rows))))
        verdict = "a drift" if found["drift"] else "no drift"
        typer.echo(f"{verdict}: probability {probability:.3g} without one, level {level:g}", err=True)
    if fail_on_drift and found["drift"]:
        raise typer.Exit(1)


def collected(detector: ExportedDetector, inputs: list[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """P-values and predicted classes `[N]`; class 0 where one threshold is for all."""
    import numpy as np

    from sparsense.cli.inputs import batches

    p, classes = [], []
    for _, batch in batches(detector, inputs, size=detector.micro_batch):
        found = detector(batch)
        p.append(np.asarray(found.p_value, np.float64))
        own = detector.class_thresholds is not None
        classes.append(found.output.argmax(1) if own else np.zeros(len(p[-1]), np.int64))
    return np.concatenate(p), np.concatenate(classes)


def by_class(
    detector: ExportedDetector, p: NDArray[np.float64], classes: NDArray[np.int64], *, either: bool
) -> list[dict[str, Any]]:
    """One test of all inputs, or one of each predicted class that occurs; each with its own calibration samples.

    For lower scores the file's calibration scores are asked, too: among tied ones, p-values are never uniform.
    """
    import numpy as np

    from sparsense.detector.recalibrate import remembered
    from sparsense.drift import drift_test

    known = remembered(detector.path) if either else None

    calibration = detector.card["calibration"]
    rows = []
    for label in np.unique(classes).tolist():
        own = calibration["classes"][label] if "classes" in calibration else None
        n = calibration["n"] if own is None or own["pooled"] else own["n"]
        chosen = p[classes == label]
        scores = None if known is None else known.scores
        if known is not None and own is not None and not own["pooled"]:
            scores = known.scores[known.classes == label]
        statistic, probability = drift_test(chosen, n, alternative="any" if either else "anomalous", calibration=scores)
        rows.append(
            {"class": "all" if own is None else str(label), "inputs": len(chosen), "calibrated": n,
             "statistic": statistic, "probability": probability}
        )  # fmt: skip
    return rows
