"""Observations on disk: an interrupted fitting goes on, and nothing stale is ever used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from sparsense.data.dataset import Dataset
from sparsense.detector import Scored, fit, fit_head
from sparsense.graph import Session
from sparsense.heads import HEADS
from tiny_classifier import tiny_data, tiny_graph, tiny_network

DATA = tiny_data("fit", 100, seed=0)
TEST = tiny_data("test", 20, seed=5).inputs


def fitted(cache: Path | None, head: str = "mahalanobis", data: Dataset = DATA, **options: Any) -> Scored:
    arguments: dict[str, Any] = {"preprocessing": tiny_network().preprocessing, "batch_size": 16, "cache": cache}
    return fit_head(tiny_graph(), HEADS[head](), data, **arguments | options)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that ONNX Runtime was given."""
    sizes: list[int] = []

    class Spy(Session):
        def __call__(self, feeds: Any) -> Any:
            sizes.append(len(next(iter(feeds.values()))))
            return super().__call__(feeds)

    monkeypatch.setattr("sparsense.detector.fit.Session", Spy)
    return sizes


@pytest.mark.parametrize("head", ["mahalanobis", "sensnorm", "grood"])
def test_the_cache_changes_nothing(tmp_path: Path, head: str) -> None:
    usual = fitted(None, head).scores(TEST)
    np.testing.assert_array_equal(fitted(tmp_path, head).scores(TEST), usual)
    np.testing.assert_array_equal(fitted(tmp_path, head).scores(TEST), usual)


@pytest.mark.parametrize("head", ["fusion", "grood"])  # both look at the range of the inputs
def test_inputs_are_not_kept(tmp_path: Path, head: str) -> None:
    fitted(tmp_path, head)
    kept = [array for file in tmp_path.rglob("*.npz") for array in np.load(file).values()]
    assert kept
    assert not any(array.shape[1:] == DATA.inputs.shape[1:] for array in kept)


def test_a_second_fitting_runs_nothing(tmp_path: Path, ran: list[int]) -> None:
    fitted(tmp_path)
    assert ran == [16] * 6 + [4]
    fitted(tmp_path)
    assert len(ran) == 7


def test_an_interrupted_fitting_goes_on_where_it_was(tmp_path: Path, ran: list[int]) -> None:
    def stop(what: str, done: int, of: int) -> None:
        if done >= 48:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, progress=stop)
    assert ran == [16] * 3
    scores = fitted(tmp_path).scores(TEST)
    assert ran == [16] * 6 + [4]
    np.testing.assert_array_equal(scores, fitted(None).scores(TEST))


def test_another_head_of_the_same_observations_shares_them(tmp_path: Path, ran: list[int]) -> None:
    fitted(tmp_path, "mahalanobis")
    fitted(tmp_path, "relative_mahalanobis")
    assert len(ran) == 7
    fitted(tmp_path, "knn")  # which looks at directions of features
    assert len(ran) == 14


@pytest.mark.parametrize("change", ["data", "labels", "batch_size"])
def test_whatever_changed_is_observed_anew(tmp_path: Path, ran: list[int], change: str) -> None:
    fitted(tmp_path)
    before = len(ran)
    options: dict[str, Any] = {}
    if change == "data":
        options["data"] = Dataset("fit", DATA.inputs[::-1].copy(), DATA.labels)
    elif change == "labels":
        options["data"] = Dataset("fit", DATA.inputs, DATA.labels[::-1].copy())  # type: ignore[index]
    else:
        options["batch_size"] = 50
    fitted(tmp_path, **options)
    assert len(ran) > before


def test_another_weight_is_another_graph(tmp_path: Path, ran: list[int]) -> None:
    fitted(tmp_path)
    graph = tiny_graph().copy()
    value = next(v for name, v in graph.model.graph.initializers.items() if name.startswith("stem"))
    value.const_value = ir.tensor(value.const_value.numpy() * 1.5, name=value.name)  # type: ignore[union-attr]
    fit_head(
        graph, HEADS["mahalanobis"](), DATA, preprocessing=tiny_network().preprocessing, batch_size=16, cache=tmp_path
    )
    assert len(ran) == 14


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_a_damaged_batch_is_observed_again(tmp_path: Path, ran: list[int], damage: bytes | None) -> None:
    usual = fitted(tmp_path).scores(TEST)
    file = sorted(tmp_path.rglob("*.npz"))[2]
    file.write_bytes(file.read_bytes()[:40] if damage is None else damage)
    np.testing.assert_array_equal(fitted(tmp_path).scores(TEST), usual)
    assert len(ran) == 8


def test_progress_tells_the_same_with_a_cache(tmp_path: Path) -> None:
    seen: list[list[tuple[str, int, int]]] = []
    for _ in range(2):
        seen.append([])
        fitted(tmp_path, progress=lambda *args: seen[-1].append(args))
    assert seen[0] == seen[1] == [("fitting on fit", done, 100) for done in (16, 32, 48, 64, 80, 96, 100)]


def test_only_batches_lie_in_the_cache(tmp_path: Path) -> None:
    fitted(tmp_path)
    (folder,) = tmp_path.iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [f"{i:06}.npz" for i in range(7)]
    assert fit.KeptBatches(folder).read(6)[0].shape[0] == 4  # type: ignore[index]
