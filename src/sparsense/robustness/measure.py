"""How much is left: accuracy under attack, and detection of anomalies that know the detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsense.robustness.attack import Array, Ball, Slope, pgd


class UnderAttack(NamedTuple):
    """A share of inputs at each strength of an attack; strength 0 are the inputs as they are."""

    radii: list[float]
    shares: list[float]


def share_under_attack(
    inputs: Array,
    good: Callable[[Array], NDArray[np.bool_]],
    slope: Slope,
    balls: Sequence[Ball],
    *,
    steps: int = 20,
    seed: int = 0,
) -> UnderAttack:
    """The share of inputs that are still good after PGD: rightly classified, or still detected.

    An input counts at a radius only if it is good unchanged and after the attack: the attacker may do nothing, too.

    Args:
        inputs: `[N, ...]` in [0, 1].
        good: Whether each input is still good.
        slope: What the attack makes large.
        balls: From small to large.
        steps: Of each attack.
        seed: Of the starts.
    """
    clean = good(inputs)
    radii, shares = [0.0], [float(clean.mean())]
    for ball in balls:
        attacked = pgd(inputs, slope, ball, steps=steps, random=np.random.default_rng(seed))
        radii.append(ball.radius)
        shares.append(float((clean & good(attacked)).mean()))
    return UnderAttack(radii, shares)
