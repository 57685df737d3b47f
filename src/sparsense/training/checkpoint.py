"""A training run kept between its epochs, so that one that was killed goes on and ends the same, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsense.errors import InputError
from sparsense.files import atomic_write
from sparsense.training.loop import Training
from sparsense.training.selection import below, prefixed

FORMAT = "sparsense.training.1"
_GENERATOR, _RANDOM, _NOTES, _BEST = "batches", "random", "notes/", "best/"


def save_training(training: Training[Any], path: Path, **notes: Any) -> None:
    """Write weights, momenta, random states and losses into one file, whole or not at all.

    Args:
        training: Between two epochs.
        path: A `.safetensors` file; an older one is replaced.
        notes: Plain values and tensors that come back from `load_training`.
    """
    tensors = training.state()
    plain: dict[str, dict[str, Any]] = {}
    for index, state in training.optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            else:
                plain.setdefault(str(index), {})[key] = value
    tensors[_RANDOM] = training.random_state
    if (generator := getattr(training.batches, "generator", None)) is not None:
        tensors[_GENERATOR] = generator.get_state()
    if training.selection is not None:
        tensors |= prefixed(_BEST, training.selection.best)
    tensors |= {_NOTES + key: value for key, value in notes.items() if isinstance(value, Tensor)}
    notes = {key: value for key, value in notes.items() if not isinstance(value, Tensor)}
    metadata = {"format": FORMAT, "losses": json.dumps(training.losses), "optimizer": json.dumps(plain),
                "values": json.dumps([] if training.selection is None else training.selection.values),
                "notes": json.dumps(notes)}  # fmt: skip
    with atomic_write(path) as temporary:
        save_file({name: t.detach().clone().contiguous() for name, t in tensors.items()}, temporary, metadata)


def load_training(training: Training[Any], path: Path) -> dict[str, Any]:
    """Bring a run that was made anew, with the same settings, to where `save_training` left it.

    Returns:
        The notes.

    Raises:
        InputError: The file is not of such a run.
    """
    with safe_open(path, framework="pt") as file:
        metadata = _metadata(file, path)
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    training.load_state(tensors)
    training.optimizer.load_state_dict(_optimizer_state(training, tensors, json.loads(metadata["optimizer"])))
    training.random_state = tensors[_RANDOM]
    if _GENERATOR in tensors:
        training.batches.generator.set_state(tensors[_GENERATOR])  # type: ignore[attr-defined]
    training.losses = json.loads(metadata["losses"])
    if training.selection is not None:
        training.selection.values = json.loads(metadata.get("values", "[]"))
        training.selection.best = below(_BEST, tensors)
    return {**json.loads(metadata["notes"]), **below(_NOTES, tensors)}


def _optimizer_state(
    training: Training[Any], tensors: Mapping[str, Tensor], plain: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(index): dict(entries) for index, entries in plain.items()}
    for key, tensor in below("optimizer/", tensors).items():
        index, name = key.split("/")
        state.setdefault(int(index), {})[name] = tensor
    return {**training.optimizer.state_dict(), "state": state}


def read_notes(path: Path) -> dict[str, Any]:
    """The plain values that were kept with a training run.

    Raises:
        InputError: The file is not of a training run.
    """
    with safe_open(path, framework="pt") as file:
        notes: dict[str, Any] = json.loads(_metadata(file, path)["notes"])
        return notes


def _metadata(file: Any, path: Path) -> dict[str, str]:
    metadata: dict[str, str] = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise InputError(f"going on with a training run: {path} is not in the format {FORMAT!r}; remove it")
    return metadata
