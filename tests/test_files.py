import contextlib
import multiprocessing

import pytest

from sparsense.files import atomic_write


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
    with pytest.raises(IsADirectoryError, match="it is a folder"), atomic_write(tmp_path):
        pass


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
