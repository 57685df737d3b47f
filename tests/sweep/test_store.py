"""The store of a sweep: nothing lost, nothing changed unseen, nothing guessed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from sparsense.errors import InputError
from sparsense.sweep.store import SCHEMA, digest_of, open_store


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.sqlite"
    with open_store(path) as store:
        store.append("sweep", text="name: x")
        store.append("done", "a", seconds=2.5, values={"prune.sparsity": 0.5})
        store.append("failed", "b", seconds=1.0, reason="no such data")
    return path


def edit(file: Path, statement: str) -> None:
    """What somebody does who knows SQL and means it."""
    connection = sqlite3.connect(file)
    connection.executescript("DROP TRIGGER IF EXISTS events_never_change; DROP TRIGGER IF EXISTS events_never_go;")
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_rows_come_back_as_they_were_written(file):
    with open_store(file) as store:
        assert [(e.kind, e.point) for e in store.events] == [("sweep", ""), ("done", "a"), ("failed", "b")]
        assert store.latest()["a"].body == {"seconds": 2.5, "values": {"prune.sparsity": 0.5}}
        assert store.seconds() == 3.5
        store.append("done", "b", seconds=4.0)
    with open_store(file, read_only=True) as store:
        assert store.latest()["b"].kind == "done"
        assert store.seconds() == 7.5


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("""UPDATE events SET body = '{"seconds": 0.1}' WHERE number = 2""", 2),
        ("UPDATE events SET kind = 'done' WHERE number = 3", 3),
        ("UPDATE events SET time = 'now' WHERE number = 1", 1),
        ("DELETE FROM events WHERE number = 2", 2),
        ("UPDATE events SET number = 9 WHERE number = 3", 3),
    ],
)
def test_a_row_that_was_edited_is_found(file, statement, row):
    edit(file, statement)
    with pytest.raises(InputError, match=f"row {row} is not as it was written"), open_store(file):
        pass


def test_an_edited_row_with_a_digest_of_its_own_breaks_the_next_one(file):
    rows = sqlite3.connect(file).execute("SELECT number, time, kind, point, body, digest FROM events").fetchall()
    forged = digest_of(rows[0][5], 2, rows[1][1], "done", "a", "{}")
    edit(file, f"UPDATE events SET body = '{{}}', digest = '{forged}' WHERE number = 2")
    with pytest.raises(InputError, match="row 3 is not as it was written"), open_store(file):
        pass


@pytest.mark.parametrize("statement", ["UPDATE events SET body = '{}'", "DELETE FROM events"])
def test_rows_are_not_changed_by_accident(file, statement):
    connection = sqlite3.connect(file)
    with pytest.raises(sqlite3.IntegrityError, match="events never"):
        connection.execute(statement)
    connection.close()


def test_a_newer_schema_is_refused_by_name(file):
    edit(file, f"PRAGMA user_version = {SCHEMA + 6}")
    with pytest.raises(InputError, match=f"schema {SCHEMA + 6}, this sparsense knows up to {SCHEMA}"), open_store(file):
        pass


def test_the_database_of_another_program_is_left_alone(tmp_path):
    connection = sqlite3.connect(tmp_path / "other.sqlite")
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.commit()
    connection.close()
    before = (tmp_path / "other.sqlite").read_bytes()
    with pytest.raises(InputError, match="another program"), open_store(tmp_path / "other.sqlite"):
        pass
    assert (tmp_path / "other.sqlite").read_bytes() == before
    (tmp_path / "text.sqlite").write_text("name: no database\n" * 100)
    with pytest.raises(InputError, match="not a database"), open_store(tmp_path / "text.sqlite"):
        pass


def test_a_full_disk_is_said_and_loses_nothing(file):
    with open_store(file) as store:
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(InputError, match=r"disk is full.*goes on where it was"):
            store.append("done", "c", values={"text": "x" * 100_000})
        assert "c" not in store.latest()
    with open_store(file) as store:
        assert list(store.latest()) == ["a", "b"]
        store.append("done", "c", seconds=1.0)  # there is room again


def test_a_store_that_cannot_be_written_is_said(file):
    with (
        open_store(file, read_only=True) as store,
        pytest.raises(InputError, match=r"writing to the store .*readonly database"),
    ):
        store.append("done", "c")
    with open_store(file) as store:
        assert list(store.latest()) == ["a", "b"]


def test_two_sweeps_do_not_write_at_once_but_one_may_look(file):
    with open_store(file) as store:
        with pytest.raises(InputError, match="another sweep is writing"), open_store(file):
            pass
        store.append("done", "c", seconds=1.0)
        with open_store(file, read_only=True) as looking:
            assert "c" in looking.latest()


def test_to_look_at_a_store_it_must_be_there(tmp_path):
    with pytest.raises(InputError, match="there is no store"), open_store(tmp_path / "none.sqlite", read_only=True):
        pass
    assert list(tmp_path.iterdir()) == []


WRITE_UNTIL_KILLED = """
import sys
from sparsense.sweep.store import open_store
with open_store(sys.argv[1]) as store:
    for number in range(100000):
        store.append("done", f"p{number}", seconds=1.0, filling="x" * 3000)
        print(number, flush=True)
"""


def test_a_kill_at_any_moment_leaves_whole_rows_and_a_store_that_opens(tmp_path):
    file = tmp_path / "sweep.sqlite"
    process = subprocess.Popen([sys.executable, "-c", WRITE_UNTIL_KILLED, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(25)]
    process.kill()
    said += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    with open_store(file) as store:
        assert len(store.events) >= len([line for line in said if line.endswith("\n")]) >= 25
        store.append("done", "after", seconds=1.0)
