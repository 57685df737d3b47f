"""How much of every group or weight goes, as one amount grows from nothing to everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from sparsense.errors import InputError

Shares = Callable[[float], Mapping[str, float]]
"""Amount in [0, 1] -> name of a group or weight -> share of it that goes; no share falls while the amount grows."""


def block_of(names: Sequence[str]) -> str:
    """The innermost submodule that holds all the given layers, "" for the network itself.

    Example:
        >>> block_of(["layer1.0.conv1"]), block_of(["layer1.0.conv2", "layer1.1.conv2"])
        ('layer1.0', 'layer1')
    """
    paths = [name.split(".")[:-1] for name in names]
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def shares_by_pattern(ratios: Mapping[str, float], layers: Iterable[Sequence[str]]) -> dict[str, float]:
    """The share that patterns ask of every group of layers; groups that no pattern names keep all they have.

    Args:
        ratios: Name pattern -> share in [0, 1); of several that fit, the last one counts.
        layers: The layers of each group, whose first one is the group's name.

    Raises:
        InputError: A pattern that no layer fits.

    Example:
        >>> shares_by_pattern({"*": 0.2, "head.*": 0.5}, [("stem",), ("head.0", "head.1")])
        {'stem': 0.2, 'head.0': 0.5}
    """
    groups = [tuple(names) for names in layers]
    for pattern in ratios:
        if not any(fnmatchcase(name, pattern) for names in groups for name in names):
            known = ", ".join(names[0] for names in groups)
            raise InputError(f"ratios: {pattern!r} fits no layer that can be pruned; these can: {known}")
    found: dict[str, float] = {}
    for names in groups:
        fitting = [share for pattern, share in ratios.items() if any(fnmatchcase(name, pattern) for name in names)]
        if fitting:
            found[names[0]] = fitting[-1]
    return found


def smallest(reaches: Callable[[float], bool | None], *, resolution: float) -> float | None:
    """The smallest amount in (0, 1) that reaches a target, by bisection; None when none does.

    Args:
        reaches: Amount -> whether it is enough, or None when so much cannot be had; enough stays enough.
        resolution: How close to the true amount.

    Example:
        >>> smallest(lambda amount: amount > 0.3, resolution=0.01)
        0.3046875
    """
    low, high, best = 0.0, 1.0, None
    while high - low > resolution:
        middle = (low + high) / 2
        answer = reaches(middle)
        if answer is False:
            low = middle
        else:
            high = middle
            best = middle if answer else best
    return best
