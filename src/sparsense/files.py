"""Files are written whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from sparsense.errors import InputError

OLDER, LOCK = ".older", ".lock"
"""Endings of what lies beside a staged folder: the result that it replaces, and the lock of who writes it."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what was written to it takes the place of `path` at the end.

    When the block raises, or writes nothing, `path` stays as it was and nothing is left behind. Missing
    folders are made. Nested blocks commit from the inside out, after all of them were written. Where `path` is a link,
    the file that it leads to is replaced; a file that is replaced keeps its permissions.

    Args:
        path: The file to write. The temporary name keeps its suffix, as some writers look at it.

    Raises:
        FileNotFoundError: The block ended without writing the file.
        InputError: `path` is a folder.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> with atomic_write(folder / "card.json") as temporary:
        ...     _ = temporary.write_text("{}")
        >>> [file.name for file in folder.iterdir()]
        ['card.json']
    """
    path = Path(path)
    _refuse_folder(path)
    target = path.resolve() if path.is_symlink() else path
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)  # noqa: PTH105 - the one call that is atomic on every system
    finally:
        temporary.unlink(missing_ok=True)


def check_place(path: str | os.PathLike[str]) -> None:
    """Refuse, before any work is done, a file that could not be written at the end of it.

    Raises:
        InputError: `path` is a folder, or its folder cannot be written to.
    """
    path = Path(path)
    _refuse_folder(path)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        found = "cannot be written to" if folder.is_dir() else "is no folder"
        raise InputError(f"writing the file {path}: {folder} {found}; choose another place")


def _refuse_folder(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"writing the file {path}: it is a folder; give a name in it, such as {path / 'file'}")


@contextmanager
def held_alone(lock: str | os.PathLike[str], *, seconds: float = 0) -> Iterator[None]:
    """Hold a lock file that the operating system takes back from a process that dies; its folder is there.

    Args:
        lock: The file.
        seconds: How long to wait for another process that holds it.

    Raises:
        BlockingIOError: Another process holds it still.
        sqlite3.OperationalError: The file cannot be made.
    """
    with closing(sqlite3.connect(lock, timeout=seconds, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            raise BlockingIOError(f"{lock} is held by another process") from error
        yield


@contextmanager
def staged_folder(path: str | os.PathLike[str], *, mark: str = "card.json") -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes its place at the end; on any failure nothing has changed.

    What processes that were killed have left of such folders is removed first. A lock beside the folder says that this
    one lives.

    Args:
        path: The folder to write. One that is there already is replaced, if it is empty or holds `mark`.
        mark: The file by which a folder of ours is known.

    Raises:
        InputError: There is something else at `path`, or its parent cannot be written to.
    """
    path = Path(path)
    check_replaceable(path, mark)
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    _make(path.parent, path)
    remove_given_up(path)
    try:
        with _held_where_possible(_beside(staged, LOCK)):
            _make(staged, path)
            try:
                yield staged
                _replace_folder(staged, path)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
    finally:
        _beside(staged, LOCK).unlink(missing_ok=True)


def remove_given_up(path: Path) -> None:
    """Remove the folders that killed processes have staged for `path`; those of living ones stay.

    Of a process that was killed between its two renames, the result that it had moved aside comes back.
    """
    kind = re.compile(re.escape(f".{path.name}.") + f"[0-9a-f]{{8}}({re.escape(OLDER)})?")
    entries = path.parent.iterdir() if path.parent.is_dir() else ()
    names = {entry.name.removesuffix(OLDER) for entry in entries if kind.fullmatch(entry.name)}
    for name in sorted(names):
        _remove_unless_held(path.with_name(name), path)


def _remove_unless_held(staged: Path, path: Path) -> None:
    lock, older = _beside(staged, LOCK), _beside(staged, OLDER)
    try:
        with held_alone(lock):
            if older.is_dir() and not path.exists():
                older.rename(path)
            for left in (staged, older):
                shutil.rmtree(left, ignore_errors=True)
    except (BlockingIOError, sqlite3.OperationalError):
        return  # a living process writes there, or it cannot be known whether one does
    lock.unlink(missing_ok=True)


@contextmanager
def _held_where_possible(lock: Path) -> Iterator[None]:
    """Hold a lock file; where the file system has no locks, go without: nobody else can take it there, either."""
    with ExitStack() as held:
        with suppress(sqlite3.OperationalError):
            held.enter_context(held_alone(lock))
        yield


def _beside(staged: Path, ending: str) -> Path:
    return staged.with_name(f"{staged.name}{ending}")


def _make(folder: Path, path: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"writing the folder {path}: it cannot be made ({error.strerror}); choose another output folder"
        ) from error


def check_replaceable(path: Path, mark: str = "card.json") -> None:
    """Refuse to put a folder in the place of something that is not ours.

    Raises:
        InputError: There is a file, or a folder without `mark`.
    """
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / mark).is_file())):
        raise InputError(
            f"writing the folder {path}: it holds other things (no {mark}); remove it or choose another output folder"
        )


def _replace_folder(staged: Path, path: Path) -> None:
    """Two renames: the older result is out of the way for a moment, and comes back if the second one fails."""
    if not path.exists():
        staged.rename(path)
        return
    older = _beside(staged, OLDER)
    path.rename(older)
    try:
        staged.rename(path)
    except OSError:
        older.rename(path)
        raise
    shutil.rmtree(older)
