import contextlib
import multiprocessing
import os
import signal
import sqlite3
import stat
import sys
from pathlib import Path

import pytest

from sparsense.errors import InputError
from sparsense.files import atomic_write, check_place, staged_folder


def write_half_and_stop(*paths):
    with contextlib.ExitStack() as stack:
        for path in paths:
            stack.enter_context(atomic_write(path)).write_text("half")
        raise RuntimeError("stop")


def test_the_new_content_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "card.json"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "card.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"):
        write_half_and_stop(path)
    assert [file.name for file in tmp_path.iterdir()] == ["card.json"]
    assert path.read_text() == "old"


def test_a_failure_between_two_files_replaces_neither(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("old")
    with pytest.raises(RuntimeError, match="stop"):
        write_half_and_stop(first, second)
    assert first.read_text() == "old"
    assert not second.exists()


def test_the_temporary_name_is_in_the_same_folder_with_the_same_suffix(tmp_path):
    with atomic_write(tmp_path / "deep" / "scores.npz") as temporary:
        assert temporary.parent == tmp_path / "deep"
        assert temporary.suffix == ".npz"
        temporary.touch()


def test_writing_nothing_is_an_error_that_leaves_no_file(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "card.json"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="it is a folder; give a name in it"), atomic_write(tmp_path):
        pass
    with pytest.raises(InputError, match="it is a folder; give a name in it"):
        check_place(tmp_path)


def test_a_place_that_cannot_be_written_to_is_known_beforehand(tmp_path, monkeypatch):
    check_place(tmp_path / "deep" / "er" / "a.onnx")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is no folder; choose another place"):
        check_place(tmp_path / "file" / "a.onnx")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match=f"{tmp_path} cannot be written to"):
        check_place(tmp_path / "a.onnx")


def test_a_link_stays_and_leads_to_the_new_content(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    file, link = tmp_path / "elsewhere" / "v1.onnx", tmp_path / "current.onnx"
    file.write_text("old")
    link.symlink_to(Path("elsewhere") / "v1.onnx")
    with atomic_write(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert file.read_text() == "new"
    assert not file.is_symlink()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["current.onnx", "elsewhere", "v1.onnx"]


@pytest.mark.skipif(sys.platform == "win32", reason="has other permissions")
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_text("old")
    path.chmod(0o640)
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def _write_many(path, letter):
    for _ in range(50):
        with atomic_write(path) as temporary:
            temporary.write_text(letter * 10_000)


def test_two_writers_at_once_never_mix(tmp_path):
    path = tmp_path / "shared.txt"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert path.read_text() in ("a" * 10_000, "b" * 10_000)
    assert [file.name for file in tmp_path.iterdir()] == ["shared.txt"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_result(path, text):
    with staged_folder(path) as staged:
        (staged / "card.json").write_text(text)


def test_a_folder_takes_its_place_and_leaves_nothing_beside_it(tmp_path):
    for text in ("first", "second"):
        write_result(tmp_path / "deep" / "out", text)
        assert (tmp_path / "deep" / "out" / "card.json").read_text() == text
        assert names(tmp_path / "deep") == ["out"]
    with pytest.raises(RuntimeError, match="stop"), staged_folder(tmp_path / "deep" / "out"):
        raise RuntimeError("stop")
    assert (tmp_path / "deep" / "out" / "card.json").read_text() == "second"
    assert names(tmp_path / "deep") == ["out"]
    with (
        pytest.raises(InputError, match="cannot be made"),
        staged_folder(tmp_path / "deep" / "out" / "card.json" / "a"),
    ):
        pass


def _killed_while_it_writes(path):
    with staged_folder(path) as staged:
        (staged / "card.json").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="has other signals")
def test_what_a_killed_process_has_staged_is_removed_by_the_next(tmp_path):
    killed = multiprocessing.get_context("spawn").Process(target=_killed_while_it_writes, args=(tmp_path / "out",))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert any(name.startswith(".out.") for name in names(tmp_path))
    write_result(tmp_path / "out", "whole")
    assert names(tmp_path) == ["out"]


def test_only_what_was_staged_for_this_folder_is_removed(tmp_path):
    mine = [".o+t.0123abcd", ".o+t.89abcdef"]
    others = [".o+t.0123abcde", ".o+t.state", ".o+t.0123ABCD", ".oot.0123abcd", ".o+t.txt.0123abcd", "o+t.0123abcd"]
    for name in (*mine, *others):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").touch()
    (tmp_path / ".o+t.0123abcd.lock").touch()
    write_result(tmp_path / "o+t", "whole")
    assert names(tmp_path) == sorted([*others, "o+t"])


def test_a_result_that_a_killed_process_had_moved_aside_comes_back(tmp_path):
    (tmp_path / ".out.0123abcd").mkdir()
    (tmp_path / ".out.0123abcd.older").mkdir()
    (tmp_path / ".out.0123abcd.older" / "card.json").write_text("older")
    with pytest.raises(RuntimeError, match="stop"), staged_folder(tmp_path / "out"):
        raise RuntimeError("stop")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "card.json").read_text() == "older"
    (tmp_path / ".out.0123abcd.older").mkdir()  # killed later: the newer one was in its place
    write_result(tmp_path / "out", "newer")
    assert names(tmp_path) == ["out"]


def _write_when_told(path, text, begun, go_on):
    with staged_folder(path) as staged:
        begun.set()
        assert go_on.wait(60)
        (staged / "card.json").write_text(text)


def test_two_processes_with_one_folder_both_end_well(tmp_path):
    context = multiprocessing.get_context("spawn")
    begun, go_on = context.Event(), context.Event()
    slow = context.Process(target=_write_when_told, args=(tmp_path / "out", "slow", begun, go_on))
    slow.start()
    assert begun.wait(60)
    write_result(tmp_path / "out", "quick")
    assert (tmp_path / "out" / "card.json").read_text() == "quick"
    assert len([path for path in tmp_path.glob(".out.*") if path.is_dir()]) == 1  # the slow one goes on
    go_on.set()
    slow.join()
    assert slow.exitcode == 0
    assert (tmp_path / "out" / "card.json").read_text() == "slow"
    assert names(tmp_path) == ["out"]


def test_where_locks_cannot_be_had_nothing_counts_as_left_behind(tmp_path, monkeypatch):
    def no_locks(lock):
        raise sqlite3.OperationalError("disk I/O error")

    (tmp_path / ".out.0123abcd").mkdir()
    monkeypatch.setattr("sparsense.files.held_alone", no_locks)
    write_result(tmp_path / "out", "whole")
    assert names(tmp_path) == [".out.0123abcd", "out"]
