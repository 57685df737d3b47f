import io
import zipfile
from contextlib import suppress

import numpy as np
import pytest

from sparsense.data import arrays
from sparsense.data.array_rows import array_shape
from sparsense.data.arrays import npz_keys, read_npy, read_npz
from sparsense.errors import InputError, UnsafeFileError

CASES = {
    "c": np.arange(12, dtype=np.int16).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big_endian": np.arange(3, dtype=">f4"),
    "scalar": np.float32(2.5),
    "text": np.array(["a", "bc"]),
    "empty": np.zeros((0, 3), np.uint8),
}


@pytest.mark.parametrize("name", CASES)
def test_npy_as_numpy_reads_it(name, tmp_path):
    np.save(tmp_path / "a.npy", CASES[name])
    read = read_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(read, np.load(tmp_path / "a.npy"), strict=True)
    assert read.flags.writeable


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_as_numpy_reads_it(save, tmp_path):
    save(tmp_path / "a.npz", **CASES)
    assert npz_keys(tmp_path / "a.npz") == list(CASES)
    for read, case in zip(read_npz(tmp_path / "a.npz", list(CASES)), CASES.values(), strict=True):
        np.testing.assert_array_equal(read, case)


def test_lzma_inside_the_zip(tmp_path):
    stream = io.BytesIO()
    np.save(stream, CASES["c"])
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("c.npy", stream.getvalue())
    assert (read_npz(tmp_path / "a.npz", ["c"])[0] == CASES["c"]).all()


def test_a_missing_key_lists_the_others(tmp_path):
    np.savez(tmp_path / "a.npz", images=[1], y=[2])
    with pytest.raises(InputError, match=r"no array 'labels'; it has images, y"):
        read_npz(tmp_path / "a.npz", ["labels"])


def test_pickles_are_refused(tmp_path):
    objects = np.array([{"run": "me"}], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", images=objects)
    with pytest.raises(UnsafeFileError, match="pickled"):
        read_npy(tmp_path / "a.npy")
    with pytest.raises(UnsafeFileError, match="array 'images', holds pickled"):
        read_npz(tmp_path / "a.npz", ["images"])


def header(shape):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def test_a_header_that_promises_too_much_allocates_nothing(tmp_path):
    (tmp_path / "a.npy").write_bytes(header((10**15,)))
    with pytest.raises(UnsafeFileError, match="limit"):
        read_npy(tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes(header((10**8,)) + bytes(80))
    with pytest.raises(InputError, match="cut off: expected 800,000,000 bytes"):
        read_npy(tmp_path / "a.npy")


def test_the_limit_is_that_of_a_file_not_of_an_array(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(600, np.uint8), b=np.zeros(600, np.uint8))
    monkeypatch.setattr(arrays, "MAX_BYTES", 1000)
    assert len(read_npz(tmp_path / "a.npz", ["b"])[0]) == 600
    message = r"array 'b', is refused: 600 bytes, and 600 of the same file were read; the limit is 1,000"
    with pytest.raises(UnsafeFileError, match=message):
        read_npz(tmp_path / "a.npz", ["a", "b"])


def test_negative_sizes_are_damage(tmp_path, monkeypatch):
    """A product of sizes with a negative one is below every limit, and reading -8 bytes is reading all."""
    np.save(tmp_path / "a.npy", np.zeros((8, 8), np.uint8))
    content = (tmp_path / "a.npy").read_bytes().replace(b"(8, 8)", b"(-1,8)")
    (tmp_path / "a.npy").write_bytes(content)
    monkeypatch.setattr(arrays, "MAX_BYTES", 10)
    for read in (read_npy, array_shape):
        with pytest.raises(InputError, match=r"its header says the shape \(-1, 8\)"):
            read(tmp_path / "a.npy")


def test_the_limit_counts_what_comes_out_of_the_zip(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_BYTES", 1000)
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros(2000, np.uint8), labels=np.zeros(1000, np.uint8))
    assert len(read_npz(tmp_path / "a.npz", ["labels"])[0]) == 1000
    with pytest.raises(UnsafeFileError, match=r"array 'images', is refused: 2,000 bytes; the limit is 1,000"):
        read_npz(tmp_path / "a.npz", ["images"])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing more", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x09\x00ab"])
def test_files_that_are_something_else(content, tmp_path):
    for name, read in (("a.npy", read_npy), ("a.npz", npz_keys)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            read(tmp_path / name)
        with pytest.raises(InputError, match=f"there is no file .*no_{name}"):
            read(tmp_path / f"no_{name}")


def test_damage_to_an_npy_is_an_input_error(tmp_path):
    file = tmp_path / "a.npy"
    np.save(file, np.arange(4))
    whole = file.read_bytes()
    for place in range(len(whole)):
        for value in (0, 0x28, 0x39, 0x80, 0xFF):
            file.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            with suppress(InputError, UserWarning):  # numpy warns of headers written by Python 2
                read_npy(file)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_anywhere_is_an_input_error(save, tmp_path):
    file = tmp_path / "a.npz"
    save(file, images=np.arange(100))
    whole = file.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        data[random.integers(len(data))] ^= int(random.integers(1, 256))
        file.write_bytes(bytes(data))
        with suppress(InputError):
            assert read_npz(file, ["images"])[0].size <= 100
