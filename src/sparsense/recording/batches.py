"""Inputs and labels, checked once and cut into batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsense.errors import InputError

Arrays = Tensor | NDArray[Any]


@dataclass(frozen=True)
class Samples:
    """Inputs as the network sees them, `[N, ...]`, with their labels `[N]` or None."""

    inputs: Arrays
    labels: Arrays | None

    def __post_init__(self) -> None:
        if not len(self.inputs):
            raise InputError("a recording pass needs at least one sample; got none")
        if self.labels is not None and len(self.labels) != len(self.inputs):
            raise InputError(f"there must be one label per input; got {len(self.labels)} labels "
                             f"for {len(self.inputs)} inputs")  # fmt: skip

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(self, batch_size: int, like: nn.Module) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches in order, on the device of the network; only one is in memory at a time."""
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1; got {batch_size}")
        parameter = next(like.parameters(), None)
        device = torch.device("cpu") if parameter is None else parameter.device
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            labels = None if self.labels is None else _tensor(self.labels[part]).to(device)
            yield _tensor(self.inputs[part]).to(device), labels

    def sha256(self) -> str:
        """Hash of shapes, types and values of inputs and labels."""
        digest = hashlib.sha256()
        for array in (self.inputs, self.labels):
            if array is None:
                continue
            digest.update(f"{tuple(array.shape)} {str(array.dtype).removeprefix('torch.')}".encode())
            for start in range(0, len(array), 1024):
                part = _tensor(array[start : start + 1024]).cpu().contiguous()
                digest.update(part.flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _tensor(array: Arrays) -> Tensor:
    return array.detach() if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))
