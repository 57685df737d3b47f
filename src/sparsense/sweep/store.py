"""The one file that remembers a sweep: an append-only SQLite database whose rows are chained by hashes."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from sparsense.errors import InputError
from sparsense.files import held_alone

SCHEMA: Final = 2
APPLICATION: Final = 0x53505357  # "SPSW"; by it a database of ours is known
FIRST: Final = "0" * 64
KINDS: Final = ("sweep", "done", "failed", "stopped", "measured")
_TABLES = f"""
CREATE TABLE events (
  number INTEGER PRIMARY KEY,
  time TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN {KINDS}),
  point TEXT NOT NULL,
  body TEXT NOT NULL,
  digest TEXT NOT NULL
) STRICT;
"""
_GUARDS = f"""
CREATE TRIGGER events_never_change BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events never change'); END;
CREATE TRIGGER events_never_go BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events never go'); END;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {SCHEMA};
"""
_FROM_1 = f"""
DROP TRIGGER events_never_change;
DROP TRIGGER events_never_go;
ALTER TABLE events RENAME TO older;
{_TABLES}
INSERT INTO events SELECT * FROM older ORDER BY number;
DROP TABLE older;
{_GUARDS}
"""
"""Schema 1 knew fewer kinds; the rows and their digests stay as they are."""


class Event(NamedTuple):
    """One row: a sweep that began or was measured (`point` is empty), or a point that was done, failed or stopped."""

    kind: str
    point: str
    body: dict[str, Any]


class Store:
    """Events of a sweep, in the order in which they happened.

    A row is on the disk when `append` returns, and a process that is killed at any moment leaves whole rows only. The
    digest of a row is SHA-256 over its contents and the digest before it: a row that was edited, removed from between
    others, or moved, is found when the store is opened. Rows taken off the end are not; those points run again.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection, self.path = connection, path
        self.events: list[Event] = []
        self._digest = FIRST
        self._load()

    def append(self, kind: str, point: str = "", **body: Any) -> None:
        """Write one row, whole or not at all.

        Raises:
            InputError: The disk is full, the file cannot be written to, or another program has it locked.
        """
        number, time = len(self.events) + 1, datetime.now(UTC).isoformat(timespec="seconds")
        text = json.dumps(body, ensure_ascii=False, allow_nan=False)
        digest = digest_of(self._digest, number, time, kind, point, text)
        row = (number, time, kind, point, text, digest)
        with _explained(self.path, "writing to"), self._connection:
            self._connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", row)
        self.events.append(Event(kind, point, json.loads(text)))
        self._digest = digest

    def latest(self) -> dict[str, Event]:
        """Point -> its last event, in the order in which the points first came."""
        return {event.point: event for event in self.events if event.point}

    def seconds(self) -> float:
        """Time spent on all points, failed ones included."""
        return sum(float(event.body.get("seconds", 0.0)) for event in self.events)

    def _load(self) -> None:
        with _explained(self.path, "reading"):
            rows = self._connection.execute("SELECT * FROM events ORDER BY number").fetchall()
        for expected, (number, time, kind, point, text, digest) in enumerate(rows, 1):
            self._digest = digest_of(self._digest, number, time, kind, point, text)
            if digest != self._digest or number != expected:
                raise InputError(
                    f"reading the store {self.path}: row {expected} is not as it was written (its digest does not fit "
                    "its contents and the row before it); put back a copy, or give the sweep another --output"
                )
            self.events.append(Event(kind, point, json.loads(text)))


def digest_of(before: str, number: int, time: str, kind: str, point: str, body: str) -> str:
    """SHA-256 of a row and of the digest before it."""
    return hashlib.sha256(json.dumps([before, number, time, kind, point, body]).encode()).hexdigest()


@contextmanager
def open_store(path: str | Path, *, read_only: bool = False) -> Iterator[Store]:
    """Open a store, made if it is not there; only one program at a time may write to it.

    Args:
        path: The database.
        read_only: Look at it while it may be written to; it must be there.

    Raises:
        InputError: No such file, not a store, made by a newer version, edited by hand, or being written to.
    """
    file = Path(path)
    if read_only and not file.is_file():
        raise InputError(f"there is no store {file}; sparsense sweep writes it")
    with _one_writer(file, read_only=read_only), closing(_connect(file, read_only=read_only)) as connection:
        _check_schema(connection, file, read_only=read_only)
        yield Store(connection, file)


@contextmanager
def _one_writer(file: Path, *, read_only: bool) -> Iterator[None]:
    """Hold a lock that the operating system takes back from a process that dies."""
    if read_only:
        yield
        return
    with ExitStack() as held:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(held_alone(file.with_suffix(".lock")))
        except BlockingIOError as error:
            raise InputError(
                f"opening the store {file}: another sweep is writing to it; wait for it, or give another --output"
            ) from error
        except (sqlite3.Error, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"opening the store {file}: {reason}; choose another --output") from error
        yield


def _connect(file: Path, *, read_only: bool) -> sqlite3.Connection:
    mode = "ro" if read_only else "rwc"
    with _explained(file, "opening"):
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True, timeout=10)
        connection.execute("PRAGMA synchronous = FULL")
        return connection


def _check_schema(connection: sqlite3.Connection, file: Path, *, read_only: bool) -> None:
    """Make the tables of an empty file; refuse a stranger's or a newer one."""
    with _explained(file, "opening"):
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            connection.executescript(f"BEGIN; {_TABLES} {_GUARDS} COMMIT;")
            return
    if application != APPLICATION:
        raise InputError(f"opening the store {file}: it is a database of another program; give another --output")
    if version > SCHEMA:
        raise InputError(
            f"opening the store {file}: it has schema {version}, this sparsense knows up to {SCHEMA}; "
            "install a newer sparsense, or give another --output"
        )
    if version == 1 and not read_only:
        with _explained(file, "bringing up to date"):
            connection.executescript(f"BEGIN; {_FROM_1} COMMIT;")


@contextmanager
def _explained(file: Path, doing: str) -> Iterator[None]:
    """Faults of database and disk in words."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise InputError(
            f"{doing} the store {file}: {error}. What was stored is kept; make room, or make the file writable, and "
            "start the sweep again: it goes on where it was"
        ) from error
