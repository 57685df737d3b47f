"""The tables of record: layers, files, data, machine and versions."""

from __future__ import annotations

from sparsense.benchmark import numbers
from sparsense.benchmark.card import Card
from sparsense.benchmark.table import Table

_HASH_DIGITS = 16


def pruning(card: Card) -> Table:
    """What was removed and what was verified."""
    if card.pruning is None:
        return Table("Pruning.", ["", ""], [])
    found = card.pruning
    rows = [
        ["criterion", found.criterion],
        ["structure", found.structure],
        ["scope", found.scope],
        ["target", found.target],
        *[[f"reached: {name}", numbers.digits(value)] for name, value in found.reached.items()],
        ["verified", found.proof],
    ]
    return Table("Pruning.", ["property", "value"], rows, labels=2)


def alignment(card: Card) -> list[Table]:
    """Which widths the runtime was fastest with: all variants, and every group."""
    found = None if card.pruning is None else card.pruning.alignment
    if found is None:
        return []
    times = [[name, numbers.digits(value), "chosen" if name == found.chosen else ""]
             for name, value in found.milliseconds.items()]  # fmt: skip
    groups = [[g.group, numbers.integer(g.before), numbers.integer(g.after), g.way] for g in found.groups]
    return [
        Table(f"Widths as ONNX Runtime likes them, measured in turns at batch {found.batch}.",
              ["widths", "forward pass, ms", ""], times),
        Table("What became of every group of channels, named by its first layer.",
              ["group", "width", "width in the file", "way"], groups),
    ]  # fmt: skip


def layers(card: Card) -> Table:
    """Widths and sensitivities."""
    return Table(
        "Layers: output channels, and root mean square of the elasticity w dL/dw over weights and samples.",
        ["layer", "width before", "width after", "sensitivity before", "sensitivity after"],
        [
            [
                row.name,
                numbers.integer(row.width_before),
                numbers.integer(row.width_after),
                numbers.small(row.sensitivity_before),
                numbers.small(row.sensitivity_after),
            ]
            for row in card.layers
        ],
    )


def files(card: Card) -> Table:
    """The exported detectors."""
    return Table(
        "The exported detectors. Of every SHA-256 the first 16 digits are shown; card.json has all.",
        ["head", "network", "file", "size", "under gzip", "SHA-256"],
        [
            [row.head, row.variant, row.file, numbers.size(row.bytes), numbers.size(row.gzip_bytes), _short(row.sha256)]
            for row in card.detectors
        ],
        labels=3,
    )


def data(card: Card) -> Table:
    """What was used for what."""
    return Table(
        "Data. The hash covers type, shape and bytes of inputs and labels.",
        ["name", "used as", "source", "n", "SHA-256"],
        [[row.name, row.role, row.source, numbers.integer(row.count), _short(row.sha256)] for row in card.data],
        labels=3,
    )


def environment(card: Card) -> Table:
    """Machine and versions."""
    machine = card.machine
    rows = [
        ["processor", machine.cpu],
        ["cores", numbers.integer(machine.cores)],
        ["memory", numbers.size(machine.memory_bytes)],
        ["instruction sets", ", ".join(machine.features) or numbers.NONE],
        ["system", machine.system],
        ["Python", machine.python],
        *[[name, version] for name, version in card.versions.items()],
    ]
    return Table("Machine and versions.", ["what", "value"], rows, labels=2)


def _short(digest: str) -> str:
    return digest[:_HASH_DIGITS]
