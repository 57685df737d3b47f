"""The robustness half of a run's measurements."""

from __future__ import annotations

from collections.abc import Sequence

from sparsense.benchmark.card import StressRow
from sparsense.detector import Progress
from sparsense.pipeline.data import RunData
from sparsense.pipeline.detectors import Variant
from sparsense.recipe.robustness import RobustnessSection
from sparsense.robustness.certify import Smoothing
from sparsense.robustness.corruptions import CORRUPTIONS
from sparsense.robustness.stress import Assault, Stress, Trial, sets_of, stress_rows
from sparsense.robustness.victim import Victim


def robustness_rows(
    variants: Sequence[Variant], section: RobustnessSection, data: RunData, *, seed: int, progress: Progress
) -> list[StressRow]:
    """All float32 detectors of all variants, on the same samples, under the same attacks."""
    stress = as_stress(section, seed)
    rows = []
    for done, variant in enumerate(variants):
        progress("attacking", done, len(variants))
        preprocessing, task = variant.network.preprocessing, variant.network.task
        open_ones = [found for found in variant.detectors if found.precision == "float32"]  # rounding has no slope
        victims = {found.head: Victim(found.model, task=task) for found in open_ones}
        sets = sets_of(data.test, data.anomalies, preprocessing, stress)
        if victims:
            rows += stress_rows(variant.name, list(Trial(victims, sets, stress, preprocessing).rows()))
    progress("attacking", len(variants), len(variants))
    return rows


def as_stress(section: RobustnessSection, seed: int) -> Stress:
    """What a recipe says, as the library takes it."""
    smoothing = section.smoothing
    return Stress(
        samples=section.samples,
        attacks=tuple(Assault(a.name, a.norm, tuple(a.radii), a.steps) for a in section.attacks),
        corruptions=tuple(CORRUPTIONS) if section.corruptions == ["all"] else tuple(section.corruptions),
        severities=tuple(section.severities),
        smoothing=None if smoothing is None else Smoothing(smoothing.sigma, smoothing.guesses, smoothing.samples),
        certified=0 if smoothing is None else smoothing.inputs,
        radii=() if smoothing is None else tuple(smoothing.radii),
        seed=seed,
    )
