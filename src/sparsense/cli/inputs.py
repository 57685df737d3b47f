"""What the user wants scored, as batches of bounded size: images, folders, arrays, tables, lists of paths."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from sparsense.errors import InputError
from sparsense.runtime import ExportedDetector
from sparsense.scoring.pieces import pieces
from sparsense.scoring.reading import Batch, read


def batches(detector: ExportedDetector, names: Iterable[str], *, size: int = 64) -> Iterator[Batch]:
    """Names and inputs of at most `size` samples at a time.

    Args:
        detector: Says what an input looks like.
        names: Image files, folders of images (subfolders included), .npy or .npz files, .csv or .parquet tables, or
            `-`: paths, one per line, on standard input.
        size: Samples per batch; of a detector that judges groups, a sample is a group of consecutive inputs.

    Raises:
        InputError: Nothing there, nothing to score in it, or something the detector does not take.
    """
    for piece in pieces(paths(names), size * detector.group):
        yield from read(piece, detector, size)


def paths(names: Iterable[str]) -> Iterator[Path]:
    """Files, in order; a folder stands for the images in it."""
    for name in names:
        if name == "-":
            yield from paths(line.rstrip("\r\n") for line in sys.stdin if line.strip())
        elif Path(name).is_dir():
            yield from _below(Path(name))
        else:
            yield Path(name)


def _below(folder: Path) -> list[Path]:
    from sparsense.data.image_folder import SUFFIXES, image_files

    visible = image_files(
        file for file in folder.rglob("*") if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    if not visible:
        raise InputError(f"the folder {folder} holds no image ({', '.join(SUFFIXES)})")
    return visible
