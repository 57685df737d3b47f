"""What is left of detectors under attack, damage and noise: one row per number, with its interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsense.benchmark.card import StressRow
from sparsense.benchmark.metrics import auroc
from sparsense.benchmark.uncertainty import wilson_interval
from sparsense.data.dataset import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import InputError
from sparsense.robustness.attack import Array, Norm
from sparsense.robustness.attacks import ATTACKS, Asked, check_attack, hiding
from sparsense.robustness.certify import Certificate, Smoothing, certify
from sparsense.robustness.corruptions import corrupt
from sparsense.robustness.victim import Victim

Row = dict[str, Any]


@dataclass(frozen=True)
class Assault:
    """An attack at several radii; `hiding` moves the anomalies, all others the test set."""

    name: str
    norm: Norm = "linf"
    radii: tuple[float, ...] = (2 / 255, 8 / 255)
    steps: int = 20


@dataclass(frozen=True)
class Stress:
    """What detectors are put to.

    Args:
        samples: Of the test set, and of each set of anomalies.
        attacks: By name.
        corruptions: Names of damages; images only.
        severities: Of each damage, 1 to 5.
        smoothing: Noise of certificates; None: none are made.
        certified: Inputs with a certificate, of the test set and of each set of anomalies.
        radii: L2 distances at which certificates are counted.
        seed: Of everything that is drawn.
    """

    samples: int = 100
    attacks: tuple[Assault, ...] = (Assault("pgd"), Assault("hiding"))
    corruptions: tuple[str, ...] = ()
    severities: tuple[int, ...] = (3,)
    smoothing: Smoothing | None = None
    certified: int = 20
    radii: tuple[float, ...] = (0.25,)
    seed: int = 0


class Sets(NamedTuple):
    """The inputs as detectors take them; `labels` of the test set where it has some."""

    test: NDArray[Any]
    labels: NDArray[Any] | None
    anomalies: Mapping[str, NDArray[Any]]


@dataclass
class Trial:
    """Detectors of one network, by head, and how what they say becomes rows.

    Args:
        victims: Head -> detector; attacks on the classifier are made on the first.
        sets: What is moved.
        stress: How.
        preprocessing: Of the network; damage needs to know where the channels are.
    """

    victims: Mapping[str, Victim]
    sets: Sets
    stress: Stress
    preprocessing: Preprocessing
    first: Victim = field(init=False)

    def __post_init__(self) -> None:
        self.first = next(iter(self.victims.values()))
        for attack in self.stress.attacks:
            check_attack(attack.name, self.first)
        if self.stress.corruptions and not self.first.is_image:
            raise InputError(
                "damaging inputs: the damages are those of images, and this detector takes rows of numbers"
            )

    def rows(self) -> Iterator[Row]:
        """Everything that was asked for, the clean inputs first."""
        test = self.first.real(self.sets.test)
        yield from self._judged({"kind": "clean", "name": "", "strength": 0.0}, test, test)
        for name, inputs in self.sets.anomalies.items():
            for head, victim in self.victims.items():
                flags = victim(victim.real(inputs)).flags
                yield _share(flags, "detected", kind="clean", name="", strength=0.0, head=head, dataset=name)
        for attack in self.stress.attacks:
            yield from self._hidden(attack) if attack.name == "hiding" else self._attacked(attack, test)
        for name in self.stress.corruptions:
            for severity in self.stress.severities:
                moved = self.first.real(self._damaged(name, severity))
                yield from self._judged({"kind": "corruption", "name": name, "strength": severity}, moved, test)
        if self.stress.smoothing is not None:
            yield from self._certified(self.stress.smoothing)

    def _attacked(self, attack: Assault, test: Array) -> Iterator[Row]:
        labels = self._labels()
        for radius in attack.radii:
            asked = Asked(self.first.ball(attack.norm, radius), attack.steps, self.stress.seed)
            what = {"kind": "attack", "name": attack.name, "norm": attack.norm, "strength": radius}
            if attack.name == "evasion":  # each detector is evaded for itself
                for head, victim in self.victims.items():
                    moved = ATTACKS[attack.name](victim, test, labels, asked)
                    yield from self._judged(what, moved, test, heads={head: victim}, accuracy=False)
            else:
                yield from self._judged(what, ATTACKS[attack.name](self.first, test, labels, asked), test)

    def _hidden(self, attack: Assault) -> Iterator[Row]:
        for radius in attack.radii:
            asked = Asked(self.first.ball(attack.norm, radius), attack.steps, self.stress.seed)
            for head, victim in self.victims.items():
                for name, inputs in self.sets.anomalies.items():
                    clean = victim.real(inputs)
                    flags = victim(clean).flags & victim(hiding(victim, clean, asked)).flags
                    yield _share(
                        flags, "detected", kind="attack", name="hiding", norm=attack.norm, strength=radius, head=head,
                        dataset=name,
                    )  # fmt: skip

    def _judged(
        self, what: Row, moved: Array, test: Array, *, heads: Mapping[str, Victim] | None = None, accuracy: bool = True
    ) -> Iterator[Row]:
        """The classifier's accuracy, and of each detector: how much it flags, and how much is right or flagged."""
        what = {**what, "dataset": "test"}
        labels = self.sets.labels if self.first.classes is not None else None
        if labels is not None and accuracy:
            right = self._right(self.first, moved, test, what["kind"])
            yield _share(right, "accuracy", head=None, **what)
        for head, victim in (heads or self.victims).items():
            found = victim(moved)
            yield _share(found.flags, "detected", head=head, **what)
            if labels is not None:
                yield _share(
                    self._right(victim, moved, test, what["kind"]) | found.flags, "defended", head=head, **what
                )
            if moved is not test:
                area = auroc(victim(test).score, found.score)
                yield {**what, "head": head, "measure": "auroc", "value": area, "n": len(moved), "interval": None}

    def _right(self, victim: Victim, moved: Array, test: Array, kind: str) -> NDArray[np.bool_]:
        """Rightly classified; an attacker may also do nothing."""
        right = np.asarray(victim(moved).output.argmax(1) == self.sets.labels)
        return np.asarray(right & (victim(test).output.argmax(1) == self.sets.labels)) if kind == "attack" else right

    def _certified(self, smoothing: Smoothing) -> Iterator[Row]:
        count, what = self.stress.certified, {"kind": "certificate", "name": "smoothing", "norm": "l2"}
        if self.sets.labels is not None and self.first.classes is not None:
            found = self._certificates(self.sets.test[:count], smoothing, "output", self.first)
            good = np.array([one.label for one in found]) == self.sets.labels[:count]
            yield from _at_radii(found, good, self.stress.radii, measure="accuracy", head=None, dataset="test", **what)
        for head, victim in self.victims.items():
            for name, inputs in self.sets.anomalies.items():
                found = self._certificates(inputs[:count], smoothing, "flags", victim)
                good = np.array([one.label == 1 for one in found])
                rows = _at_radii(found, good, self.stress.radii, measure="detected", head=head, dataset=name, **what)
                yield from rows

    def _certificates(
        self, inputs: NDArray[Any], smoothing: Smoothing, which: str, victim: Victim
    ) -> list[Certificate]:
        def classify(copies: Array) -> NDArray[Any]:
            says = victim(copies)
            return says.output.argmax(1) if which == "output" else says.flags.astype(np.int64)

        classes = victim.classes if which == "output" else 2
        random = np.random.default_rng(self.stress.seed)
        return [
            certify(classify, image, smoothing, classes=classes or 2, random=random) for image in victim.real(inputs)
        ]

    def _damaged(self, name: str, severity: int) -> NDArray[np.uint8]:
        last = self.preprocessing.layout == "NHWC"
        images = self.sets.test if last else np.moveaxis(self.sets.test, 1, -1)
        found = corrupt(images, name, severity, seed=self.stress.seed)
        return found if last else np.moveaxis(found, -1, 1)

    def _labels(self) -> NDArray[Any]:
        if self.sets.labels is None:
            raise InputError("attacking a classifier: expected labels of the test set, found none")
        return self.sets.labels


def sets_of(test: Dataset, anomalies: Mapping[str, Dataset], preprocessing: Preprocessing, stress: Stress) -> Sets:
    """As many samples as are asked for, as detectors take them."""
    chosen = test.subset(stress.samples, seed=stress.seed)
    some = {name: data.subset(stress.samples, seed=stress.seed) for name, data in anomalies.items()}
    return Sets(
        preprocessing.arrange(chosen.inputs),
        chosen.labels,
        {name: preprocessing.arrange(data.inputs) for name, data in some.items()},
    )


def stress_rows(variant: str, rows: Sequence[Row]) -> list[StressRow]:
    """For the card of a run."""
    return [StressRow(variant=variant, **row) for row in rows]  # type: ignore[arg-type]


def _share(good: NDArray[np.bool_], measure: str, **what: Any) -> Row:
    count, n = int(good.sum()), len(good)
    return {**what, "measure": measure, "value": count / n, "interval": wilson_interval(count, n), "n": n}


def _at_radii(
    found: Sequence[Certificate], good: NDArray[np.bool_], radii: Sequence[float], *, measure: str, **what: Any
) -> Iterator[Row]:
    lengths = np.array([one.radius for one in found])
    for radius in radii:
        yield _share(good & (lengths >= radius), measure, strength=radius, **what)
