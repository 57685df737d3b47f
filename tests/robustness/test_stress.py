"""Detector files under attack: against torch, against closed forms, and what a run and a command say of it."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sparsense.benchmark.card import load_card
from sparsense.cli import app
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import fit_head
from sparsense.detector.close import calibrated
from sparsense.errors import InputError, MissingExtraError, RecipeError, UnknownNameError
from sparsense.graph import load_graph
from sparsense.graph.run import Session
from sparsense.graph.simplify import simplify
from sparsense.heads import HEADS
from sparsense.pipeline import run_recipe
from sparsense.recipe.load import read_recipe
from sparsense.recipe.names import check_names
from sparsense.robustness.attack import Ball
from sparsense.robustness.attacks import ATTACKS, Asked
from sparsense.robustness.certify import Smoothing
from sparsense.robustness.slopes import classifier_slope, score_slope
from sparsense.robustness.stress import Assault, Sets, Stress, Trial
from sparsense.robustness.victim import Victim
from tiny_classifier import CLASSES, tiny_data, tiny_graph, tiny_network
from tiny_detectors import card, write_detector


@cache
def scored(name="energy"):
    return fit_head(
        tiny_graph(), HEADS[name](), tiny_data("fit", 80, seed=1), preprocessing=tiny_network().preprocessing
    )


@cache
def detector(name="energy"):
    held_out = scored(name).judge(tiny_data("calibration", 40, seed=2).inputs)
    return calibrated(scored(name), held_out, 0.1)[0]


def pixels(count=12, seed=3):
    return tiny_data("test", count, seed=seed).inputs


def channels_first(values):
    return np.moveaxis(values, -1, 1)


def test_a_victim_says_what_the_file_says():
    session = Session(detector())
    score, _, flags, output = session(pixels())
    says = Victim(detector())(pixels() / 255)
    np.testing.assert_allclose(says.score, score, rtol=1e-5)
    np.testing.assert_allclose(says.output, output, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(says.flags, flags)


def test_the_slope_of_the_loss_is_that_of_torch():
    labels = np.arange(12) % CLASSES
    value, gradient = Victim(detector()).loss_slope(labels)(pixels() / 255)
    expected, theirs = classifier_slope(tiny_network(), labels)(channels_first(pixels() / 255))
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    np.testing.assert_allclose(channels_first(gradient), theirs, rtol=1e-3, atol=1e-4)


def test_the_slope_of_the_margin_is_that_of_torch():
    labels = np.arange(12) % CLASSES
    value, gradient = Victim(detector()).loss_slope(labels, "margin")(pixels() / 255)
    see = tiny_network().preprocessing
    inputs = torch.tensor(see.apply(pixels()), requires_grad=True)
    logits = tiny_network().module(inputs)
    truth = torch.nn.functional.one_hot(torch.tensor(labels), CLASSES).bool()
    margin = logits.masked_fill(truth, -torch.inf).amax(1) - logits[truth]
    margin.sum().backward()
    np.testing.assert_allclose(value, margin.detach(), rtol=1e-4, atol=1e-5)
    raw = inputs.grad.numpy() / np.reshape(see.std, (1, 3, 1, 1))
    np.testing.assert_allclose(channels_first(gradient), raw, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["energy", "sensnorm"])
def test_the_slope_of_the_score_is_that_of_the_open_graph(name):
    value, gradient = Victim(detector(name)).score_slope()(pixels(4) / 255)
    expected, theirs = score_slope(scored(name), tiny_network().preprocessing)(channels_first(pixels(4) / 255))
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    np.testing.assert_allclose(channels_first(gradient), theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["fgsm", "pgd", "margin", "evasion"])
def test_attacks_stay_in_the_ball_and_gain(name, norm):
    victim, inputs = Victim(detector()), pixels(24) / 255
    labels = victim(inputs).output.argmax(1)
    radius = 0.05 if norm == "linf" else 0.5
    moved = ATTACKS[name](victim, inputs, labels, Asked(victim.ball(norm, radius), 8))
    change = moved - inputs
    size = np.abs(change).max() if norm == "linf" else np.sqrt((change**2).sum((1, 2, 3))).max()
    assert size <= radius * (1 + 1e-9)
    assert (moved >= 0).all()
    assert (moved <= 1).all()
    slope = victim.loss_slope(labels, "margin" if name == "margin" else "cross_entropy")
    assert slope(moved)[0].mean() > slope(inputs)[0].mean()


def test_evasion_is_quieter_than_pgd():
    victim, inputs = Victim(detector()), pixels(24) / 255
    labels = victim(inputs).output.argmax(1)
    asked = Asked(Ball("linf", 0.05), 10)
    loud, quiet = (victim(ATTACKS[name](victim, inputs, labels, asked)).score.mean() for name in ("pgd", "evasion"))
    assert quiet < loud


def test_the_ensemble_is_at_least_as_strong_as_pgd():
    pytest.importorskip("art", reason="needs adversarial-robustness-toolbox")
    victim, inputs = Victim(detector()), pixels(24) / 255
    labels = victim(inputs).output.argmax(1)
    for ball in (Ball("linf", 0.05), Ball("l2", 0.4)):
        moved = ATTACKS["ensemble"](victim, inputs, labels, Asked(ball, 10))
        weaker = ATTACKS["pgd"](victim, inputs, labels, Asked(ball, 10))
        left, more = ((victim(x).output.argmax(1) == labels).mean() for x in (moved, weaker))
        assert left <= more
        assert left < 1
        size = (
            np.abs(moved - inputs).max()
            if ball.norm == "linf"
            else np.sqrt(((moved - inputs) ** 2).sum((1, 2, 3))).max()
        )
        assert size <= ball.radius * (1 + 1e-4)


def test_without_the_toolbox_the_ensemble_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "art", None)
    monkeypatch.setitem(__import__("sys").modules, "art.attacks.evasion", None)
    victim = Victim(detector())
    with pytest.raises(MissingExtraError, match=r"sparsense\[attacks\]"):
        ATTACKS["ensemble"](
            victim, pixels(4) / 255, victim(pixels(4) / 255).output.argmax(1), Asked(Ball("linf", 0.05))
        )


# A detector whose score is the mean of the image, and whose threshold is 95


@pytest.fixture
def mean(tmp_path):
    return write_detector(tmp_path / "mean.onnx")


def greys(*levels):
    return np.stack([np.full((4, 5, 3), level, np.uint8) for level in levels])


def opened(path):
    """The hand-made file says no shapes; those that are exported do."""
    return Victim(simplify(load_graph(path)))


def trial(path, **stress):
    sets = Sets(greys(10, 20), np.array([0, 0]), {"bright": greys(97, 104, 120, 90)})
    return list(Trial({"mean": opened(path)}, sets, Stress(**stress), Preprocessing()).rows())


def value(rows, **what):
    found = [row for row in rows if all(row.get(key) == wanted for key, wanted in what.items())]
    assert len(found) == 1
    return found[0]["value"]


def test_an_anomaly_hides_if_its_mean_is_within_the_radius_of_the_threshold(mean):
    rows = trial(mean, attacks=(Assault("hiding", "linf", (4 / 255, 12 / 255)), Assault("hiding", "l2", (0.5,))))
    assert value(rows, kind="clean", dataset="bright") == 0.75
    shares = [value(rows, name="hiding", norm="linf", strength=radius) for radius in (4 / 255, 12 / 255)]
    assert shares == [0.5, 0.25]  # 104 and 120 are left, then 120 alone
    root = np.sqrt(60)  # pixels of an image: moved by 0.5 in L2, its mean falls by 0.5 / root
    assert value(rows, name="hiding", norm="l2") == np.mean(np.array([97, 104, 120, 90]) - 255 * 0.5 / root > 95)


def test_certificates_of_detection_reach_as_far_as_the_mean_is_from_the_threshold(mean):
    rows = trial(mean, attacks=(), smoothing=Smoothing(0.2, 20, 2000), certified=4, radii=(0.0, 0.2))
    found = [value(rows, kind="certificate", measure="detected", strength=radius) for radius in (0.0, 0.2)]
    # the mean of 60 noisy pixels has the spread 255 * 0.2 / sqrt(60) = 6.6: 104 and 120 are flagged in more than half
    # of the copies by far, 97 in 62 %, 90 in fewer; to 0.2 one has to lie one such spread above 95
    assert found == [0.75, 0.5]


def test_damage_is_judged_against_the_inputs_as_they_were(mean):
    rows = trial(mean, attacks=(), corruptions=("brightness",), severities=(1, 5))
    assert value(rows, kind="corruption", strength=5, measure="detected") == 1.0  # 0.42 * 255 is added
    assert value(rows, kind="corruption", strength=1, measure="detected") == 0.0
    assert value(rows, kind="corruption", strength=5, measure="auroc") == 1.0


def test_attacks_on_classes_are_not_for_autoencoders(mean):
    victim = Victim(Victim.open(mean).model, task="reconstruction")
    with pytest.raises(InputError, match="'hiding' attacks the score"):
        Trial({"mean": victim}, Sets(greys(1), None, {}), Stress(attacks=(Assault("pgd"),)), Preprocessing())


def test_rows_of_numbers_have_no_limits_and_no_damage(tmp_path):
    file = write_detector(tmp_path / "rows.onnx", shape=("N", 4), card=card(layout="ND", dtype="float32"))
    victim = opened(file)
    moved = victim.score_slope(sign=1)(np.full((1, 4), 300.0))
    assert moved[0] == 300
    assert victim.ball("linf", 1).high == np.inf
    with pytest.raises(InputError, match="those of images"):
        Trial({"x": victim}, Sets(np.ones((1, 4)), None, {}), Stress(attacks=(), corruptions=("fog",)), Preprocessing())


# Recipes and commands

RECIPE = """
name: stressed
network: {source: digits_resnet, weights: bundled}
data:
  train: {source: digits, split: train, limit: 200}
  calibration: {source: digits, split: calibration, limit: 60}
  test: {source: digits, split: test, limit: 60}
  anomalies:
    letters: {source: letters, limit: 30}
sensitivity: {samples: 40}
prune: {sparsity: 0.25}
batch_norm: {samples: 100}
finetune: null
heads: [energy]
fit: {samples: 100}
calibrate: {false_alarm_rate: 0.1}
benchmark: null
robustness:
  samples: 20
  attacks: [{name: pgd, radii: [0.02, 0.08], steps: 5}, {name: hiding, norm: l2, radii: [0.5], steps: 5}]
  corruptions: [gaussian_noise]
  smoothing: {sigma: 0.1, radii: [0.02], inputs: 3, guesses: 10, samples: 50}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return run_recipe(read_recipe(RECIPE), output=tmp_path_factory.mktemp("stress") / "run")


def test_a_run_puts_its_results_in_card_and_report(folder):
    rows = load_card(folder / "card.json").robustness
    assert {(row.variant, row.head) for row in rows} == {(v, h) for v in ("dense", "pruned") for h in (None, "energy")}
    assert {row.kind for row in rows} == {"clean", "attack", "corruption", "certificate"}
    assert all(row.n == (3 if row.kind == "certificate" else 20) for row in rows)
    for variant in ("dense", "pruned"):
        shares = [r.value for r in rows if (r.variant, r.name, r.measure) == (variant, "pgd", "accuracy")]
        clean = next(r.value for r in rows if (r.variant, r.kind, r.measure) == (variant, "clean", "accuracy"))
        assert clean >= shares[0] > shares[1]
    text = (folder / "report.md").read_text()
    assert "## Robustness" in text
    assert "| pgd (linf) | 0.08 | " in text
    assert "Robustness" in (folder / "report.html").read_text()


def test_the_command_says_the_same_of_the_file(folder, tmp_path):
    from sparsense.data import SOURCES

    test = SOURCES["digits"]("test", limit=60, seed=0)
    np.savez(tmp_path / "test.npz", images=test.inputs, labels=test.labels)
    arguments = ["stress", folder / "detector.onnx", "--test", tmp_path / "test.npz", "--attack", "pgd", "--radius",
                 0.02, "--radius", 0.08, "--steps", 5, "--samples", 20, "--json"]  # fmt: skip
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    said = {(r["strength"], r["measure"]): r["value"] for r in map(json.loads, done.output.splitlines())}
    rows = [r for r in load_card(folder / "card.json").robustness if (r.variant, r.name) == ("pruned", "pgd")]
    assert len(rows) == 8
    assert all(said[row.strength, row.measure] == pytest.approx(row.value, abs=1e-6) for row in rows)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "nothing to put the detector to"),
        (["--attack", "pdg"], "unknown attack 'pdg'. Did you mean 'pgd'"),
        (["--corruption", "frog"], "unknown corruption 'frog'. Did you mean"),
        (["--attack", "pgd", "--labels", "missing"], "has no array 'missing'"),
    ],
)
def test_mistakes_are_one_message(folder, tmp_path, more, message):
    np.savez(tmp_path / "test.npz", images=np.zeros((4, 16, 16, 1), np.uint8), labels=np.zeros(4, int))
    done = CliRunner().invoke(
        app, ["stress", str(folder / "detector.onnx"), "--test", str(tmp_path / "test.npz"), *more]
    )
    assert done.exit_code == 2
    assert message in done.output


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("robustness.attacks", ["pdg"], "robustness.attacks.0.name"),
        ("robustness.corruptions", ["frog"], "robustness.corruptions.0"),
        ("robustness.severities", [6], "robustness.severities.0"),
    ],
)
def test_a_recipe_with_an_unknown_attack_or_damage_is_refused(key, value, named):
    with pytest.raises(RecipeError) as raised:
        check_names(read_recipe(RECIPE, {key: value}))
    assert raised.value.key == named


def test_a_file_that_is_no_detector_is_refused(tmp_path):
    file = write_detector(tmp_path / "bare.onnx", card=None)
    with pytest.raises(InputError, match="is no detector"):
        Victim.open(file)
    with pytest.raises(UnknownNameError):
        _ = ATTACKS["nothing"]
