"""A run that a sweep watches: after every epoch of fine-tuning it says how good it is, and may be told to end."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from sparsense.data import Dataset
from sparsense.errors import TrainingError
from sparsense.networks.network import Network
from sparsense.training.evaluate import accuracy, predict

PULSE = "SPARSENSE_PULSE"
"""Environment variable: the file that is written to. A file beside it with the suffix `.stop` ends the run."""
SAMPLES = 500


class Pulse:
    """Writes a line per epoch: the accuracy on some training samples, of autoencoders the error with a minus.

    No sample of the test set is looked at, so a point is not chosen by what it is judged on.

    Args:
        file: Where to.
        network: Whose copy is trained.
        data: Training samples.
    """

    def __init__(self, file: Path, network: Network, data: Dataset) -> None:
        self.file, self.network = file, network
        self.data = data.subset(SAMPLES, seed=0)
        self.epochs = 0

    def update(self, module: nn.Module) -> bool:
        """Report; never ends the training as if it were complete.

        Raises:
            TrainingError: The sweep has said that the run need not go on.
        """
        self.epochs += 1
        was_training = module.training
        value = quality(replace(self.network, module=module), self.data)
        module.train(was_training)
        with self.file.open("a", encoding="utf-8") as stream:
            cut_off = stream.tell() > 0 and not self.file.read_bytes().endswith(b"\n")
            stream.write("\n" * cut_off + json.dumps({"epoch": self.epochs, "value": value}) + "\n")
        if self.file.with_suffix(".stop").exists():
            raise TrainingError(f"stopped by the sweep after epoch {self.epochs}: others of its kind are better")
        return False

    def state(self) -> dict[str, Any]:
        """Kept with the weights."""
        return {"epochs": self.epochs}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.epochs = int(state["epochs"])


def quality(network: Network, data: Dataset) -> float:
    """Higher is better."""
    if network.task == "classifier" and data.labels is not None:
        return accuracy(network, data)
    inputs = network.preprocessing.arrange(data.inputs)
    return -float(np.mean((predict(network, inputs) - network.preprocessing.apply(inputs)) ** 2))


def pulse(network: Network, data: Dataset) -> Pulse | None:
    """The pulse that a sweep has asked this process for."""
    file = os.environ.get(PULSE)
    return None if file is None else Pulse(Path(file), network, data)
