"""What is written down about every epoch: a CSV file, TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsense.extras import need
from sparsense.files import atomic_write
from sparsense.training.loop import Training

Log = Callable[[Training[Any]], None]
"""Told after every epoch, and once at the end."""


def rows(training: Training[Any]) -> list[dict[str, float]]:
    """One row per epoch: number, learning rate of its first step, loss, and the value it is chosen by."""
    selection, steps = training.selection, len(training.batches)
    found: list[dict[str, float]] = []
    for index, loss in enumerate(training.losses):
        row = {"epoch": index + 1, "learning_rate": training.rates[index * steps], "loss": loss}
        found.append(row if selection is None else row | {selection.rule: selection.values[index]})
    return found


def csv_log(path: Path) -> Log:
    """Write all epochs into a CSV file, whole every time, so that a run that goes on leaves no row twice."""

    def write(training: Training[Any]) -> None:
        table = rows(training)
        with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(table[0]))
            writer.writeheader()
            writer.writerows(table)

    return write


def tensorboard_log(folder: Path) -> Log:
    """Add every epoch to a TensorBoard folder.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """
    need("tensorboard", doing="writing TensorBoard logs", extra="train")
    from torch.utils.tensorboard.writer import SummaryWriter

    def write(training: Training[Any]) -> None:
        row = rows(training)[-1]
        epoch = int(row.pop("epoch"))
        with SummaryWriter(str(folder), purge_step=epoch) as writer:
            for name, value in row.items():
                writer.add_scalar(name, value, epoch)

    return write
