"""What a recipe may say about attacks, damage and noise."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sparsense.recipe.section import BareName, Count, Positive, Section

Severity = Annotated[int, Field(ge=1, le=5)]


class AttackSection(Section):
    """An attack by name; a bare name stands for itself with defaults."""

    name: str
    """On the classifier: `fgsm`, `pgd`, `margin` (PGD on the difference of logits), `ensemble` (needs
    `sparsense[attacks]`), or `evasion`, which also keeps the detector's score small; `hiding`: anomalies make the
    detector's own score small."""
    norm: Literal["linf", "l2"] = "linf"
    """`linf`: the largest change of a pixel; `l2`: the root of the sum of squares."""
    radii: list[Positive] = Field(default=[0.008, 0.03], min_length=1)
    """How far it may go, for pixels in [0, 1]."""
    steps: Count = 20
    """How often it looks at the slope."""


class SmoothingSection(Section):
    """Certificates by randomised smoothing: of the class, and of anomalies being detected."""

    sigma: Positive = 0.25
    """Standard deviation of the noise, for pixels in [0, 1]."""
    radii: list[Positive] = Field(default=[0.25], min_length=1)
    """L2 distances at which certificates are counted."""
    inputs: Count = 20
    """So many of every set get a certificate."""
    guesses: Count = 50
    """Noisy copies that choose the class."""
    samples: Count = 500
    """Further noisy copies that count how often it comes."""


class RobustnessSection(Section):
    """How detectors and their networks are put under stress; results are in the card and the report."""

    samples: Count = 100
    """Of the test set, and of each set of anomalies."""
    attacks: list[Annotated[AttackSection, BareName]] = Field(
        default=[AttackSection(name="pgd"), AttackSection(name="hiding")]
    )
    """Which attacks."""
    corruptions: list[str] = Field(default=[])
    """Damages of images, such as `fog`; `[all]` for the fifteen."""
    severities: list[Severity] = Field(default=[3], min_length=1)
    """Of each damage, 1 to 5."""
    smoothing: SmoothingSection | None = None
    """Certificates; null: none, as they take many forward passes."""
