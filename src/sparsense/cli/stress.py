"""`sparsense stress`: what is left of a finished detector under attack, damage and noise."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsense.cli.app import app
from sparsense.cli.attach import read_data
from sparsense.cli.tables import table
from sparsense.errors import InputError

if TYPE_CHECKING:
    from sparsense.data import Dataset
    from sparsense.robustness.stress import Stress
    from sparsense.runtime import ExportedDetector

COLUMNS = ("kind", "name", "norm", "strength", "dataset", "measure", "value", "interval", "n")


class Norms(StrEnum):
    """How far an attack has gone."""

    LINF = "linf"
    L2 = "l2"


@app.command()
def stress(
    detector: Annotated[Path, typer.Argument(metavar="DETECTOR", help="A detector file.")],
    test: Annotated[Path, typer.Option(help="Usual inputs: a folder of images (a folder per class), .npz or .npy.")],
    anomalous: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]PATH", help="Anomalies, which may hide; several times.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Of the test set: key in the .npz, or a second .npy file.")] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help="fgsm, pgd, margin, ensemble, evasion, hiding; several times.")
    ] = None,
    norm: Annotated[Norms, typer.Option(help="Of the radii.")] = Norms.LINF,
    radius: Annotated[
        list[float] | None, typer.Option(help="For pixels in [0, 1]; several times.  [default: 0.008 and 0.03]")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of every attack.")] = 20,
    corruption: Annotated[
        list[str] | None, typer.Option(help="A damage of images, such as fog; or all; several times.")
    ] = None,
    severity: Annotated[list[int] | None, typer.Option(min=1, max=5, help="Of every damage.  [default: 3]")] = None,
    smoothing: Annotated[
        float | None, typer.Option(metavar="SIGMA", help="Certify, with noise of this standard deviation.")
    ] = None,
    certified: Annotated[int, typer.Option(min=1, help="Inputs of each set with a certificate.")] = 20,
    samples: Annotated[int, typer.Option(min=1, help="Of each set.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per row.")] = False,
) -> None:
    """Attack a detector, damage its inputs, certify what noise cannot take away; prints one row per number.

    The network in the file is attacked through its logits, the detector through its own score: whoever attacks knows
    the file. `defended` are inputs that are rightly classified or flagged.
    """
    from sparsense.data.preprocessing import Preprocessing
    from sparsense.robustness.certify import Smoothing
    from sparsense.robustness.corruptions import CORRUPTIONS
    from sparsense.robustness.stress import Assault, Stress, Trial, sets_of
    from sparsense.robustness.victim import Victim
    from sparsense.runtime import ExportedDetector

    loaded = ExportedDetector(detector)
    if loaded.group > 1:
        raise InputError(f"{detector} judges groups of {loaded.group} inputs; attacks are made for single ones")
    victim = Victim.open(detector)
    radii = tuple(radius or (0.008, 0.03))
    asked = Stress(
        samples=samples,
        attacks=tuple(Assault(name, norm.value, radii, steps) for name in attack or ()),
        corruptions=tuple(CORRUPTIONS) if corruption == ["all"] else tuple(corruption or ()),
        severities=tuple(severity or (3,)),
        smoothing=None if smoothing is None else Smoothing(smoothing, 50, 500),
        certified=certified,
        radii=radii if norm is Norms.L2 and radius else (0.25,),
        seed=seed,
    )
    _check(asked)
    usual, strange = _read(loaded, test, labels), _anomalies(loaded, anomalous or ())
    preprocessing = Preprocessing.from_dict(loaded.preprocessing)
    head = str(loaded.card.get("head", "detector"))
    sets = sets_of(usual, strange, preprocessing, asked)
    for line in _lines(list(Trial({head: victim}, sets, asked, preprocessing).rows()), as_json=as_json):
        typer.echo(line)


def _check(asked: Stress) -> None:
    from sparsense.robustness.corruptions import CORRUPTIONS, known

    for name in asked.corruptions:
        known(name)
    if not asked.attacks and not asked.corruptions and asked.smoothing is None:
        raise InputError(
            "nothing to put the detector to: give --attack pgd (or another), --corruption fog (or another of "
            f"{', '.join(CORRUPTIONS)}), or --smoothing 0.25"
        )


def _anomalies(detector: ExportedDetector, named: Sequence[str]) -> dict[str, Dataset]:
    found = {}
    for text in named:
        name, _, path = text.rpartition("=")
        found[name or Path(path).stem] = _read(detector, Path(path), None)
    return found


def _read(detector: ExportedDetector, path: Path, labels: str | None) -> Dataset:
    """Data at the size and with the channels that the detector takes."""
    shape = tuple(size or 0 for size in detector.input_shape)
    if 0 in shape:
        raise InputError(f"{detector.path.name} takes images of any size; export it for one size to put it to stress")
    first = (shape[-1], *shape[:-1]) if detector.layout == "NHWC" else shape
    layout = "NHWC" if detector.layout == "ND" else detector.layout
    return read_data(path, "all", shape=first, labels=labels, layout=layout, limit=None)


def _lines(rows: Sequence[dict[str, Any]], *, as_json: bool) -> Iterator[str]:
    if as_json:
        yield from (json.dumps(row, ensure_ascii=False) for row in rows)
        return
    yield from table(COLUMNS, [[_cell(row.get(name)) for name in COLUMNS] for row in rows])


def _cell(value: Any) -> Any:
    if isinstance(value, tuple):
        return f"{value[0]:.3f} to {value[1]:.3f}"
    return value if value != "" else None
