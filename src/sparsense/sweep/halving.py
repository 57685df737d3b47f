"""Hopeless points end early: successive halving, by Optuna's pruner, on what running points say of themselves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsense.extras import need
from sparsense.sweep.points import Point
from sparsense.sweep.recipe import HalvingSection
from sparsense.sweep.store import Store

Reports = list[tuple[int, float]]
"""Epoch and value, in order."""


class Halving:
    """Who goes on: at epochs `least`, `least * factor`, ... the best 1 / factor of those that came so far.

    Points compete with points that have the same values of the keys `within`. What ended points had reported is told
    again when a sweep goes on, so decisions do not depend on interruptions.

    Args:
        section: How.
        points: Of the sweep.
        store: What was reported before.

    Raises:
        MissingExtraError: Optuna is not installed.

    Reference:
        L. Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020, arXiv:1810.05934.
    """

    def __init__(self, section: HalvingSection, points: Sequence[Point], store: Store) -> None:
        self._optuna = need("optuna", doing="a sweep with halving", extra="sweep")
        self._optuna.logging.set_verbosity(self._optuna.logging.ERROR)
        self._section = section
        self._groups = {point.key: _group(point.values, section.within) for point in points}
        self._studies: dict[str, Any] = {}
        self._trials: dict[str, Any] = {}
        self._told: dict[str, Reports] = {}
        for key, event in store.latest().items():
            if key in self._groups:
                self.tell(key, [(int(step), float(value)) for step, value in event.body.get("reports", ())])

    def tell(self, key: str, reports: Iterable[tuple[int, float]]) -> bool:
        """Hear what a point reports; whether it should end now. What was heard before is left out."""
        told = self._told.setdefault(key, [])
        stop = False
        for step, value in reports:
            if told and step <= told[-1][0]:
                continue
            told.append((step, value))
            trial = self._trial(key)
            trial.report(value, step)
            stop = stop or bool(trial.should_prune())
        return stop

    def reports(self, key: str) -> Reports:
        """What a point has reported, for the store."""
        return self._told.get(key, [])

    def _trial(self, key: str) -> Any:
        if key not in self._trials:
            self._trials[key] = self._study(self._groups[key]).ask()
        return self._trials[key]

    def _study(self, group: str) -> Any:
        if group not in self._studies:
            pruner = self._optuna.pruners.SuccessiveHalvingPruner(
                min_resource=self._section.least, reduction_factor=self._section.factor
            )
            self._studies[group] = self._optuna.create_study(direction="maximize", pruner=pruner)
        return self._studies[group]


def read_pulse(file: Path) -> Reports:
    """What a run has reported so far; a line that is still being written is left for the next time.

    A line that a full disk or a kill has cut off is left out: the run that goes on reports its epoch again.
    """
    if not file.is_file():
        return []
    whole, _, _ = file.read_text(encoding="utf-8").rpartition("\n")
    lines = (line for line in whole.splitlines() if line.endswith("}"))
    return [(int(row["epoch"]), float(row["value"])) for row in map(json.loads, lines)]


def _group(values: Mapping[str, Any], within: Sequence[str]) -> str:
    return json.dumps([values.get(key) for key in within], sort_keys=True, default=str)
