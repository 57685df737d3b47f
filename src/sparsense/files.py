"""Files are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what was written to it takes the place of `path` at the end.

    When the block raises, or writes nothing, `path` stays as it was and nothing is left behind. Missing
    folders are made. Nested blocks commit from the inside out, after all of them were written.

    Args:
        path: The file to write. The temporary name keeps its suffix, as some writers look at it.

    Raises:
        FileNotFoundError: The block ended without writing the file.
        IsADirectoryError: `path` is a folder.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> with atomic_write(folder / "card.json") as temporary:
        ...     _ = temporary.write_text("{}")
        >>> [file.name for file in folder.iterdir()]
        ['card.json']
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write the file {path}: it is a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)  # noqa: PTH105 - the one call that is atomic on every system
    finally:
        temporary.unlink(missing_ok=True)
