"""The attacks by name, each as a function of a detector: what a recipe or a command asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsense.errors import InputError
from sparsense.extras import need
from sparsense.registry import Registry
from sparsense.robustness.attack import Array, Ball, Slope, fgsm, pgd
from sparsense.robustness.victim import Victim


class Asked(NamedTuple):
    """How an attack is made.

    Args:
        ball: How far it may go.
        steps: How often it may look.
        seed: Of what it draws.
    """

    ball: Ball
    steps: int = 20
    seed: int = 0

    def climb(self, inputs: Array, slope: Slope) -> Array:
        """PGD from a random start."""
        return pgd(inputs, slope, self.ball, steps=self.steps, random=np.random.default_rng(self.seed))


Attack = Callable[[Victim, Array, NDArray[Any], Asked], Array]
"""Detector, inputs, their true labels, how -> inputs moved within the ball."""
ATTACKS: Registry[Attack] = Registry("attack")


@ATTACKS.register("fgsm")
def _fgsm(victim: Victim, inputs: Array, labels: NDArray[Any], asked: Asked) -> Array:
    """One step against the classifier's cross entropy."""
    return fgsm(inputs, victim.loss_slope(labels), asked.ball)


@ATTACKS.register("pgd")
def _pgd(victim: Victim, inputs: Array, labels: NDArray[Any], asked: Asked) -> Array:
    """Many steps against the classifier's cross entropy."""
    return asked.climb(inputs, victim.loss_slope(labels))


@ATTACKS.register("margin")
def _margin(victim: Victim, inputs: Array, labels: NDArray[Any], asked: Asked) -> Array:
    """Many steps against the margin between the true logit and the next one."""
    return asked.climb(inputs, victim.loss_slope(labels, "margin"))


@ATTACKS.register("evasion")
def evasion(victim: Victim, inputs: Array, labels: NDArray[Any], asked: Asked) -> Array:
    """Against classifier and detector at once: cross entropy - score / s, s the spread of the scores of the inputs.

    Reference:
        F. Tramer et al., "On adaptive attacks to adversarial example defenses", NeurIPS 2020, arXiv:2002.08347.
    """
    loss, quiet = victim.loss_slope(labels), victim.score_slope(sign=-1)
    spread = max(float(victim(inputs).score.std()), 1e-12)

    def slope(moved: Array) -> tuple[Array, Array]:
        (value, gradient), (score, climb) = loss(moved), quiet(moved)
        return value + score / spread, gradient + climb / spread

    return asked.climb(inputs, slope)


@ATTACKS.register("ensemble")
def ensemble(victim: Victim, inputs: Array, labels: NDArray[Any], asked: Asked) -> Array:
    """Of each input, the first success of APGD on cross entropy, APGD on the ratio of logits, and Square.

    The members of AutoAttack without its targeted ones, as the Adversarial Robustness Toolbox implements them.

    Raises:
        MissingExtraError: torch or the toolbox is not installed.

    Reference:
        F. Croce, M. Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
        attacks", ICML 2020, arXiv:2003.01690.
    """
    need("torch", doing="the attack 'ensemble'", extra="prune")
    from sparsense.robustness.ensemble import members

    moved = inputs.copy()
    left = victim(inputs).output.argmax(1) == labels
    for attack in members(victim, asked):
        if not left.any():
            break
        tried = attack(inputs[left], labels[left])
        fooled = victim(tried).output.argmax(1) != labels[left]
        places = np.flatnonzero(left)[fooled]
        moved[places], left[places] = tried[fooled], False
    return moved


def hiding(victim: Victim, inputs: Array, asked: Asked) -> Array:
    """Anomalies that try to look usual: many steps against the detector's own score."""
    return asked.climb(inputs, victim.score_slope(sign=-1))


def check_attack(name: str, victim: Victim) -> None:
    """Refuse what is not an attack, or not on this detector.

    Raises:
        UnknownNameError: No such attack.
        InputError: An attack on classes, of a detector whose network has none.
    """
    if name != "hiding":
        _ = ATTACKS[name]
    if name != "hiding" and victim.classes is None:
        raise InputError(
            f"attack {name!r} is on a classifier, and this network reconstructs: 'hiding' attacks the score"
        )
