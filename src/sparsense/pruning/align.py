"""Widths that the runtime likes: rounded down, kept, or padded with zero channels, whichever measures fastest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from sparsense.errors import InputError
from sparsense.pruning.aligner import Aligner, Alignment, Measure
from sparsense.pruning.protect import Example

LEAST_GAIN = 0.02
"""A group leaves the way it has only for one that saves this share of the time: less is noise."""


def align_widths(
    module: nn.Module,
    example_input: Example,
    *,
    measure: Measure,
    multiple: int | Sequence[int] = 8,
    saliency: Mapping[str, Tensor] | None = None,
    exact: bool = False,
) -> Alignment:
    """Measure a network with its widths kept, padded up and rounded down to multiples, and take the fastest.

    ONNX Runtime's blocked kernels compute in blocks of 8 channels (16 with AVX-512); other widths can be slower than
    the next multiple although they compute less. Padding adds channels that are zero and outputs that stay the same;
    rounding down removes the least salient channels and changes them.

    Args:
        module: A network, usually just pruned; it is not changed.
        example_input: One batch (or a tuple of arguments).
        measure: Gives the milliseconds of several networks side by side; exporting is up to it.
        multiple: Of channels; several are all tried.
        saliency: Says which channels go when rounding down; magnitude by default.
        exact: Leave out rounding down.

    Returns:
        The variants `kept`, `padded` and `rounded down` (those that differ from `kept`, with the multiple behind where
        there are several), and the best.

    Raises:
        InputError: A multiple is below 2.
        UnsupportedLayerError: The network cannot be traced.
    """
    aligner = Aligner(module, example_input, measure, saliency)
    everywhere = aligner.everywhere(_checked(multiple), exact)
    return aligner.measured({"kept": {}, **everywhere})


def align_each_group(
    module: nn.Module,
    example_input: Example,
    *,
    measure: Measure,
    multiple: int | Sequence[int] = (8, 16),
    saliency: Mapping[str, Tensor] | None = None,
    exact: bool = False,
) -> Alignment:
    """The same, then group by group: from the fastest variant on, each group takes the way that measures fastest.

    Groups of the largest layers come first; a group changes its way where that saves two hundredths of the time of a
    call. Costs one round of measurements per group.

    Args:
        module: As for `align_widths`.
        example_input: As for `align_widths`.
        measure: As for `align_widths`.
        multiple: As for `align_widths`.
        saliency: As for `align_widths`.
        exact: As for `align_widths`.

    Returns:
        The variants of `align_widths`, and `each group` where that is faster than the best of them.
    """
    multiples = _checked(multiple)
    aligner = Aligner(module, example_input, measure, saliency)
    first = aligner.measured({"kept": {}, **aligner.everywhere(multiples, exact)})
    best = first.variants[first.best]
    ways = dict(best.ways)
    for group in aligner.groups:
        tried = {"as it is": ways, "kept": {name: way for name, way in ways.items() if name != group.name}}
        tried |= {str(way): {**ways, group.name: way} for way in aligner.ways_of(group, multiples, exact)}
        tried = {name: chosen for name, chosen in tried.items() if name == "as it is" or chosen != ways}
        found = aligner.measured(tried)
        if found.variants[found.best].milliseconds < (1 - LEAST_GAIN) * found.variants["as it is"].milliseconds:
            ways = dict(tried[found.best])
    if ways == best.ways:
        return first
    last = aligner.measured({first.best: best.ways, "each group": ways})
    scale = best.milliseconds / last.variants[first.best].milliseconds  # both hours on the clock of the first
    mixed = last.variants["each group"]
    variants = {**first.variants, "each group": replace(mixed, milliseconds=scale * mixed.milliseconds)}
    return Alignment(variants, last.best, last.groups)


def _checked(multiple: int | Sequence[int]) -> tuple[int, ...]:
    multiples = (multiple,) if isinstance(multiple, int) else tuple(multiple)
    if not multiples or min(multiples) < 2:
        raise InputError(f"aligning widths: multiple must be at least 2; got {multiple}")
    return multiples
