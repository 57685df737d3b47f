"""Stored parity inputs: what goes in comes out, and a stranger's text cannot do harm."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sparsense.errors import ExportError, InputError
from sparsense.parity import (
    BATCH_SIZES,
    CLEARLY,
    DISTURBANCES,
    MAXIMUM_STORED,
    MORE_DISTURBANCES,
    Parity,
    compare,
    disturb,
    require,
    settled,
    steady,
)


def means(inputs: Any) -> Any:
    return inputs.reshape(len(inputs), -1).mean(1)


def make(count: int = 5) -> Parity:
    inputs = np.random.default_rng(0).integers(0, 256, (count, 4, 3, 3)).astype(np.uint8)
    return Parity(inputs, means(inputs), "by hand", 1e-6)


def text_of(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_unpacking_gives_what_was_packed() -> None:
    parity = make()
    again = Parity.unpack(parity.pack())
    np.testing.assert_array_equal(again.inputs, parity.inputs)
    np.testing.assert_array_equal(again.scores, parity.scores)
    assert again.inputs.dtype == np.uint8
    assert (again.oracle, again.tolerance) == ("by hand", 1e-6)


class Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (exec, ("raise SystemExit('code from a file was run')",))


@pytest.mark.parametrize(
    "text",
    [
        "not base64!",
        base64.b64encode(b"not zlib").decode(),
        text_of(b"not an npz"),
        make().pack()[:-40],
        make().pack().replace("a", "b"),
        text_of(npz(inputs=np.zeros(2), scores=np.zeros(2), oracle="x")),
        text_of(npz(inputs=np.zeros(2), scores=np.zeros(2), oracle="x", tolerance="wide")),
        text_of(npz(inputs=np.array([Evil()], object), scores=np.zeros(1), oracle="x", tolerance=1.0)),
        text_of(npz(inputs=np.zeros(2), scores=np.zeros(3), oracle="x", tolerance=1.0)),
        text_of(npz(inputs=np.zeros(0), scores=np.zeros(0), oracle="x", tolerance=1.0)),
        text_of(npz(inputs=np.zeros(2), scores=np.array([0, np.nan]), oracle="x", tolerance=1.0)),
    ],
    ids=["alphabet", "zlib", "zip", "cut off", "altered", "missing", "word", "pickle", "lengths", "empty", "nan"],
)
def test_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="reading the stored parity inputs"):
        Parity.unpack(text)


def test_text_that_swells_is_refused_before_it_fills_the_memory() -> None:
    bomb = text_of(b"\0" * (MAXIMUM_STORED + 1))
    assert len(bomb) < MAXIMUM_STORED / 500
    with pytest.raises(InputError, match="at most"):
        Parity.unpack(bomb)


def test_an_archive_inside_that_swells_is_refused() -> None:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, inputs=np.zeros(MAXIMUM_STORED, np.uint8), scores=np.zeros(1), oracle="x", tolerance=1.0
    )
    assert len(buffer.getvalue()) < MAXIMUM_STORED / 500
    with pytest.raises(InputError, match="at most"):
        Parity.unpack(text_of(buffer.getvalue()))


def test_an_exact_score_agrees_at_every_batch_size() -> None:
    rows = compare(means, make())
    assert [row["batch"] for row in rows] == list(BATCH_SIZES)
    assert [row["inputs"] for row in rows] == [5, 4, 7, 32]
    assert all(row["error"] == 0 and row["agrees"] for row in rows)
    require(rows, what="the file", oracle="by hand")


def test_error_is_relative_to_the_score_or_to_the_spread() -> None:
    parity = Parity(np.arange(4, dtype=np.float32)[:, None], np.array([0.0, 10, -10, 100]), "by hand", 1e-3)
    spread = parity.scores.std()
    row = compare(lambda inputs: parity.scores[inputs[:, 0].astype(int)] + [0.1, 0, 0, 0], parity, batch_sizes=[4])[0]
    assert row["error"] == pytest.approx(0.1 / spread)
    row = compare(lambda inputs: parity.scores[inputs[:, 0].astype(int)] + [0, 0, 0, 0.1], parity, batch_sizes=[4])[0]
    assert row["error"] == pytest.approx(0.1 / 100)


def test_scores_of_zero_equal_zero() -> None:
    """A probability that vanishes for all inputs compared, in float32 for sure."""
    parity = Parity(np.zeros((4, 1), np.float32), np.zeros(4), "by hand", 1e-5)
    require(compare(lambda inputs: np.zeros(len(inputs)), parity), what="the file", oracle="by hand")
    with pytest.raises(ExportError, match="within 1e-05 of the oracle"):
        require(compare(lambda inputs: np.full(len(inputs), 1e-30), parity), what="the file", oracle="by hand")
    kept = steady(parity.inputs, parity.scores, [parity.scores], oracle="by hand", tolerance=1e-5)
    assert len(kept.inputs) == 4


def test_a_score_that_depends_on_the_batch_is_found_and_refused() -> None:
    rows = compare(lambda inputs: means(inputs) + (0.1 if len(inputs) == 7 else 0), make())
    assert [row["agrees"] for row in rows] == [True, True, False, True]
    with pytest.raises(ExportError, match=r"the file: .* at batch 7; the file was not kept") as error:
        require(rows, what="the file", oracle="by hand")
    assert error.value.worst == rows[2]["error"]
    assert "do not depend on the other inputs of a batch" in str(error.value)
    assert "seems to mix its samples" in str(error.value)


def test_a_small_error_in_one_batch_is_no_mixing_of_samples() -> None:
    rows = compare(lambda inputs: means(inputs) * (1 + (3e-6 if len(inputs) == 7 else 0)), make())
    assert rows[2]["tolerance"] < rows[2]["error"] < CLEARLY * rows[2]["tolerance"]
    with pytest.raises(ExportError, match=r"the file: .* at batch 7; the file was not kept") as error:
        require(rows, what="the file", oracle="by hand")
    assert "Raise the tolerance (attach --tolerance; export.tolerance of a recipe) only if" in str(error.value)
    assert "mix" not in str(error.value)


def test_a_part_can_be_left_out_but_not_all() -> None:
    parity = make()
    some = np.arange(len(parity.inputs)) < 2
    left = parity.without(some)
    np.testing.assert_array_equal(left.inputs, parity.inputs[2:])
    np.testing.assert_array_equal(left.scores, parity.scores[2:])
    with pytest.raises(ExportError, match="expected random ones on which scores are steady, found none"):
        parity.without(np.ones(len(parity.inputs), bool))


def test_nan_is_the_worst_error() -> None:
    rows = compare(lambda inputs: means(inputs) * (np.nan if len(inputs) == 2 else 1.1), make())
    with pytest.raises(ExportError, match="at batch 2"):
        require(rows, what="the file", oracle="by hand")


def test_inputs_whose_oracle_moves_under_rounding_are_left_out() -> None:
    inputs, scores = np.arange(6, dtype=np.float32)[:, None], np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    jumps = scores + np.array([0, 0, 0.1, 0, 0, 0])
    found = steady(inputs, scores, [scores * (1 + 1e-7), jumps], oracle="by hand", tolerance=1e-5)
    np.testing.assert_array_equal(found.inputs[:, 0], [0, 1, 3, 4, 5])
    np.testing.assert_array_equal(found.scores, [1, 2, 4, 5, 6])
    assert found.oracle == "by hand; 1 of 6 drawn inputs left out, within rounding of a kink"


def test_steady_inputs_are_kept_up_to_the_count_and_nothing_is_said() -> None:
    scores = np.linspace(1, 2, 5)
    found = steady(np.zeros((5, 1)), scores, [scores], oracle="by hand", tolerance=1e-5, count=3)
    assert (len(found.scores), found.oracle) == (3, "by hand")


def test_a_score_that_moves_almost_everywhere_is_refused() -> None:
    scores = np.linspace(1, 2, 6)
    moved = scores + np.array([0, 0, 1, 1, 1, 1])
    with pytest.raises(ExportError, match=r"4 of 6 that move more .* ill-conditioned in float32"):
        steady(np.zeros((6, 1)), scores, [moved], oracle="by hand", tolerance=1e-5)


def on_the_other_side(seeds: set[int]) -> Any:
    """An oracle whose score of the third input jumps with some disturbances."""
    return lambda inputs, seed: inputs[:, 0] + np.where((inputs[:, 0] == 3) & (seed in seeds), 0.1, 0)


@pytest.mark.parametrize("seeds", [{1}, {20}])
def test_inputs_that_differ_are_asked_about_more_often(seeds: set[int]) -> None:
    inputs, scores = np.arange(1, 7, dtype=np.float64)[:, None], np.arange(1, 7, dtype=np.float64)
    other = scores + np.array([0, 0, 0.1, 0, 0, 0])
    ask = on_the_other_side(seeds)
    found = settled(inputs, scores, [scores, other], ask, oracle="by hand", tolerance=1e-5)
    np.testing.assert_array_equal(found.scores, [1, 2, 4, 5, 6])
    calm = settled(inputs, scores, [scores, scores], ask, oracle="by hand", tolerance=1e-5)
    np.testing.assert_array_equal(calm.scores, [1, 2, 4, 5, 6] if seeds == {1} else scores)


@pytest.mark.parametrize("wrong", [0.1, np.nan])
def test_a_wrong_program_is_wrong_on_inputs_that_stay(wrong: float) -> None:
    inputs, scores = np.arange(1, 7, dtype=np.float64)[:, None], np.arange(1, 7, dtype=np.float64)
    asked: list[int] = []

    def ask(values: np.ndarray, seed: int) -> np.ndarray:
        asked.append(len(values))
        return values[:, 0]

    other = scores + np.array([0, wrong, 0, 0, 0, 0])
    found = settled(inputs, scores, [other], ask, oracle="by hand", tolerance=1e-5)
    np.testing.assert_array_equal(found.scores, scores)
    assert asked == [6] * DISTURBANCES + [1] * MORE_DISTURBANCES


def test_a_disturbance_is_of_the_size_of_rounding() -> None:
    weight = np.linspace(-3, 3, 1000)
    relative = np.abs(disturb(weight, np.random.default_rng(0)) / weight - 1)
    assert 0 < relative.max() < 1e-5
    assert np.sqrt((relative**2).mean()) == pytest.approx(2.0**-21, rel=0.1)
