"""Observations kept on disk, batch by batch, so that a long fitting goes on where it was interrupted."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from sparsense.files import atomic_write
from sparsense.graph.run import with_outputs

Arrays = list[NDArray[Any]]
DAMAGED = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile)


@dataclass(frozen=True)
class KeptBatches:
    """The batches of one pass of one graph over one data set, in a folder of their own.

    Attributes:
        folder: Holds a file per batch that was done.
    """

    folder: Path

    @classmethod
    def of(cls, cache: Path, model: ir.Model, values: Sequence[ir.Value], *, data: str, batch_size: int) -> KeptBatches:
        """The place for these values of this graph.

        Args:
            cache: Folder of all passes; it grows until the user removes it.
            model: The graph. Another weight, another node, another runtime: another place.
            values: What is kept.
            data: Hash of the data set, its labels included.
            batch_size: Samples per batch.
        """
        content = ir.to_proto(with_outputs(model, values)).SerializeToString(deterministic=True)
        digest = hashlib.sha256(content)
        digest.update(f"{data} {batch_size} {ort.__version__} {np.__version__}".encode())
        return cls(cache / digest.hexdigest()[:32])

    def read(self, index: int) -> Arrays | None:
        """A batch that was done before; None when it was not, or its file is damaged."""
        try:
            with self._file(index).open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return [stored[f"value_{i}"] for i in range(len(stored.files))]
        except DAMAGED:
            return None

    def write(self, index: int, batch: Arrays) -> None:
        """Keep a batch; a kill while writing leaves nothing."""
        with atomic_write(self._file(index)) as temporary:
            np.savez(temporary, **{f"value_{i}": array for i, array in enumerate(batch)})  # type: ignore[arg-type]

    def _file(self, index: int) -> Path:
        return self.folder / f"{index:06}.npz"
