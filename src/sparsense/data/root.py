"""Where the published data sets lie: a folder that the user names, in one of three ways."""

from __future__ import annotations

import os
from pathlib import Path

from sparsense.errors import InputError

VARIABLE = "SPARSENSE_DATA"


def data_file(name: str, *, source: str, data_root: str | None) -> Path:
    """The path of one file of the data root.

    Args:
        name: Below the root, such as `ood/svhn_test_5k.npz`.
        source: The data source that asks, for the message.
        data_root: The root; None takes the environment variable SPARSENSE_DATA.

    Raises:
        InputError: No root, or no such file in it.
    """
    root = data_root or os.environ.get(VARIABLE)
    where = f"in the data root {root}, where there is none" if root else "and no data root is set"
    if not root or not (Path(root) / name).is_file():
        raise InputError(
            f"data source {source!r} needs the file {name} {where}. Set the data root with --data-root, the "
            f"environment variable {VARIABLE}, or the recipe key data_root; docs/data.md describes the files."
        )
    return Path(root) / name


def first_data_root(command_line: str | None, recipe: str | None) -> str | None:
    """The root that counts: `--data-root`, then SPARSENSE_DATA, then the recipe key `data_root`."""
    return command_line or os.environ.get(VARIABLE) or recipe


def available(folder: str, data_root: str | None) -> list[str]:
    """The stems of the .npz files in a folder of the data root; empty when there is none."""
    root = data_root or os.environ.get(VARIABLE)
    return sorted(file.stem for file in (Path(root) / folder).glob("*.npz")) if root else []
