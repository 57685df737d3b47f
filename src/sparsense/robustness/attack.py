"""Gradient attacks (FGSM, PGD) on anything that has a value and a slope: a classifier's loss, a detector's score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsense.errors import InputError

Array = NDArray[np.float64]
Slope = Callable[[Array], tuple[Array, Array]]
"""Inputs `[N, ...]` in [0, 1] -> the value of each `[N]`, which the attack makes large, and its gradient `[N, ...]`."""
Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class Ball:
    """All inputs within a distance, that are still inputs.

    Args:
        norm: `linf`: the largest change of a number; `l2`: the root of the sum of squares.
        radius: In the unit of inputs in [0, 1]; 8/255 and 0.5 are usual for small images.
        low: The smallest number that an input may have.
        high: The largest.
    """

    norm: Norm
    radius: float
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2") or not self.radius > 0:
            raise InputError(
                f"attacking: expected norm linf or l2 and a radius above 0; got {self.norm}, {self.radius}"
            )

    def steepest(self, gradient: Array) -> Array:
        """The direction of length 1 in which a linear function with that gradient rises most; 0 where it is flat."""
        if self.norm == "linf":
            return np.sign(gradient)
        return gradient / np.maximum(lengths(gradient), 1e-30)

    def project(self, moved: Array, centre: Array) -> Array:
        """The point of the ball around `centre` nearest to `moved`, then within the limits of inputs."""
        change = moved - centre
        if self.norm == "linf":
            change = np.clip(change, -self.radius, self.radius)
        else:
            change = change * np.minimum(1.0, self.radius / np.maximum(lengths(change), 1e-30))
        return np.clip(centre + change, self.low, self.high)

    def draw(self, centre: Array, random: np.random.Generator) -> Array:
        """A random point of the ball."""
        if self.norm == "linf":
            return self.project(centre + random.uniform(-self.radius, self.radius, centre.shape), centre)
        direction = random.normal(size=centre.shape)
        distance = self.radius * random.random((len(centre), *[1] * (centre.ndim - 1)))
        return self.project(centre + distance * direction / np.maximum(lengths(direction), 1e-30), centre)


def fgsm(inputs: Array, slope: Slope, ball: Ball) -> Array:
    """One step of the whole radius: x' = clip(x + e sign(d value / dx)); in L2, e times the gradient of length 1.

    Reference:
        I. Goodfellow et al., "Explaining and harnessing adversarial examples", ICLR 2015, arXiv:1412.6572.

    Example:
        >>> x = np.array([[0.5, 0.5]])
        >>> fgsm(x, lambda x: (x @ [1.0, -2.0], np.full_like(x, 1) * [1.0, -2.0]), Ball("linf", 0.1)).round(3).tolist()
        [[0.6, 0.4]]
    """
    _, gradient = slope(inputs)
    return ball.project(inputs + ball.radius * ball.steepest(gradient), inputs)


def pgd(
    inputs: Array,
    slope: Slope,
    ball: Ball,
    *,
    steps: int = 20,
    step: float | None = None,
    random: np.random.Generator | None = None,
) -> Array:
    """Projected gradient ascent; of each input, the point with the largest value that was passed.

    x <- project(x + step * steepest(d value / dx)), from x itself or from a random point of the ball.

    Args:
        inputs: `[N, ...]`, within the limits of the ball.
        slope: What is made large.
        ball: How far it may go.
        steps: How often.
        step: Of each; default 2.5 radius / steps, which can reach every point of the ball.
        random: Draws where to start; None starts at the inputs.

    Returns:
        Inputs of the ball, none of them with a smaller value than where it started.

    Raises:
        InputError: Inputs outside of the limits, no steps.

    Reference:
        A. Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018, arXiv:1706.06083.
    """
    if steps < 1 or inputs.min() < ball.low or inputs.max() > ball.high:
        raise InputError(
            f"attacking: expected inputs in [{ball.low:g}, {ball.high:g}] and at least one step; found "
            f"{inputs.min():g} to {inputs.max():g}, {steps} steps"
        )
    length = 2.5 * ball.radius / steps if step is None else step
    now = np.asarray(inputs, np.float64) if random is None else ball.draw(inputs, random)
    value, gradient = slope(now)
    best, highest = now.copy(), value.copy()
    for _ in range(steps):
        now = ball.project(now + length * ball.steepest(gradient), inputs)
        value, gradient = slope(now)
        better = value > highest
        best[better], highest[better] = now[better], value[better]
    return best


def lengths(values: NDArray[Any]) -> Array:
    """The Euclidean length of every sample, `[N, 1, ...]`."""
    flat = np.sqrt((np.asarray(values, np.float64) ** 2).reshape(len(values), -1).sum(1))
    shaped: Array = flat.reshape(-1, *[1] * (values.ndim - 1))
    return shaped
