"""The first table of a report: the network before and after pruning, one property a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from sparsense.benchmark import numbers
from sparsense.benchmark.card import AccuracyRow, Card, LatencyRow, NetworkSize
from sparsense.benchmark.headline import final_accuracy, latency_of
from sparsense.benchmark.table import Table


class _Property(NamedTuple):
    title: str
    get: Callable[[NetworkSize], int | None]
    show: Callable[[float | None], str]


_NONZERO = "parameters that are not 0"
_PROPERTIES = (
    _Property("parameters", lambda network: network.parameters, numbers.amount),
    _Property(_NONZERO, lambda network: network.nonzero, numbers.amount),
    _Property("multiply-adds per sample", lambda network: network.multiply_adds, numbers.amount),
    _Property("bytes of the forward file", lambda network: network.bytes, numbers.size),
    _Property("the same under gzip", lambda network: network.gzip_bytes, numbers.size),
)


def overview(card: Card) -> Table:
    """Sizes, quality on the test set and time of the plain forward pass; rows without any number are left out."""
    networks = [network for network in (card.network.dense, card.network.pruned) if network is not None]
    variants = ("dense", "pruned")[: len(networks)]
    zeros = any(network.nonzero not in (None, network.parameters) for network in networks)
    rows = [_property_row(item, networks) for item in _PROPERTIES if zeros or item.title != _NONZERO]
    rows.append(_quality_row([final_accuracy(card, variant) for variant in variants]))
    rows.append(_time_row([latency_of(card, variant, None) for variant in variants]))
    width = 1 + len(networks) + (len(networks) > 1)
    return Table(
        "The network before and after pruning." if len(networks) > 1 else "The network.",
        ["property", "dense", "pruned", "change"][:width],
        [row[:width] for row in rows if any(cell != numbers.NONE for cell in row[1:])],
    )


def _property_row(item: _Property, networks: Sequence[NetworkSize]) -> list[str]:
    values = [item.get(network) for network in networks]
    first, last = values[0], values[-1]
    relative = numbers.relative(last / first - 1) if first and last is not None else numbers.NONE
    return [item.title, *map(item.show, values), relative]


def _quality_row(rows: Sequence[AccuracyRow | None]) -> list[str]:
    first, last = rows[0], rows[-1]
    known = next((row for row in rows if row is not None), None)
    if known is None:
        return ["", *[numbers.NONE for _ in rows], numbers.NONE]
    place = f"{known.dataset} (n = {numbers.integer(known.n)})"
    if known.reconstruction_error is not None:
        errors = [None if row is None else row.reconstruction_error for row in rows]
        return [f"reconstruction error on {place}", *map(numbers.digits, errors), numbers.NONE]
    values = [None if row is None else row.accuracy for row in rows]
    cells = [numbers.percent(value) for value in values]
    intervals = ["" if row is None else numbers.interval(row.accuracy_interval) for row in rows]
    both = first is not None and last is not None and None not in (first.accuracy, last.accuracy)
    difference = f"{numbers.change((values[-1] or 0) - (values[0] or 0))} points" if both else numbers.NONE
    return [f"accuracy on {place}", *[f"{c} {i}".strip() for c, i in zip(cells, intervals, strict=True)], difference]


def _time_row(rows: Sequence[LatencyRow | None]) -> list[str]:
    last = rows[-1]
    known = next((row for row in rows if row is not None), None)
    batch = "" if known is None else f", batch {known.batch}, ms"
    cells = [numbers.NONE if row is None else numbers.digits(row.median_ms) for row in rows]
    told = last is not None and last.verdict != "baseline"
    change = f"{numbers.ratio(last.ratio)} ({last.verdict})" if last is not None and told else numbers.NONE
    return [f"time of the plain forward pass{batch}", *cells, change]
