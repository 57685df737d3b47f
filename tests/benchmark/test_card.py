import json

import numpy as np
import pytest
from example_run import make_card, make_scores
from pydantic import ValidationError

from sparsense.benchmark.card import CARD_FORMAT, CalibrationRow, Card, load_card
from sparsense.benchmark.score_file import ScoreKey, read_scores, write_scores
from sparsense.errors import InputError


@pytest.fixture(scope="module")
def card():
    return make_card(make_scores())


def test_a_card_survives_the_file(card, tmp_path):
    card.save(tmp_path / "card.json")
    assert load_card(tmp_path / "card.json") == card
    assert json.loads((tmp_path / "card.json").read_text())["format"] == CARD_FORMAT == 1


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("format",), 2, "format"),
        (("colour",), "blue", r"colour: Extra inputs are not permitted"),
        (("results", 0, "auroc"), 1.2, "results.0.auroc"),
        (("results", 0, "head"), "gone", "results names the detector dense/gone, which is not in detectors"),
        (("results", 0, "dataset"), "gone", "results name the data set 'gone', which is not in data"),
        (("network", "dense", "bytes"), None, "network.dense.bytes"),
        (("data", 0, "sha256"), "abc", "data.0.sha256"),
        (("calibration", 0, "rate"), 0, "calibration.0.rate"),
        (("latency", 0, "verdict"), "fast", "latency.0.verdict"),
    ],
)
def test_what_is_refused(card, place, value, message, tmp_path):
    document = json.loads(card.model_dump_json())
    part = document
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    (tmp_path / "card.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=message):
        load_card(tmp_path / "card.json")


def test_nan_never_enters_a_card(card):
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValidationError, match=r"threshold\n +Input should be a finite number"):
            CalibrationRow(**card.calibration[0].model_dump() | {"threshold": value})
    first = card.calibration[0].threshold
    with pytest.raises(ValidationError, match=r"calibration\.0\.threshold"):
        Card.model_validate_json(card.model_dump_json().replace(f'"threshold":{first}', '"threshold":NaN', 1))


def test_files_that_are_no_cards(tmp_path):
    with pytest.raises(InputError, match="no card"):
        load_card(tmp_path / "card.json")
    (tmp_path / "card.json").write_text("[1, 2")
    with pytest.raises(InputError, match=r"card\.json is not a card of format 1: the whole document"):
        load_card(tmp_path / "card.json")


def test_a_failed_save_leaves_the_old_card(card, tmp_path, monkeypatch):
    card.save(tmp_path / "card.json")
    monkeypatch.setattr(Card, "model_dump_json", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        card.save(tmp_path / "card.json")
    monkeypatch.undo()
    assert load_card(tmp_path / "card.json") == card
    assert len(list(tmp_path.iterdir())) == 1


def test_scores_survive_the_file(tmp_path):
    scores = {ScoreKey("dense", "energy", "a/b"): np.array([1.0, np.inf]), ScoreKey("pruned", "x", "y"): np.array([2])}
    write_scores(tmp_path / "scores.npz", scores)
    found = read_scores(tmp_path / "scores.npz")
    assert list(found) == list(scores)
    for key, values in scores.items():
        np.testing.assert_array_equal(found[key], values)
        assert found[key].dtype == np.float64


def test_scores_under_other_names(tmp_path):
    np.savez(tmp_path / "scores.npz", energy=[1.0])
    with pytest.raises(InputError, match="expected arrays named variant/head/dataset; found 'energy'"):
        read_scores(tmp_path / "scores.npz")
