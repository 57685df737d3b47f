"""Runs that are kept, chosen, logged, killed and diverge."""

import csv
import math
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparsense.errors import TrainingError
from sparsense.training import fit as fitting
from sparsense.training.batches import Batches
from sparsense.training.chosen import how_chosen
from sparsense.training.fit import Kept
from sparsense.training.logs import csv_log, rows, tensorboard_log
from sparsense.training.loop import Training
from sparsense.training.objectives import GradCon, LatentNorm, Reconstruction
from sparsense.training.selection import HeldOut, Selection, auroc, below, mean_loss
from sparsense.training.settings import TrainingSettings

ROOT = Path(__file__).parents[2]
INPUTS = torch.rand(24, 5, generator=torch.Generator().manual_seed(0))
HELD = HeldOut(INPUTS[:6], torch.zeros(6), INPUTS[:4] + 1)


class Auto(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Dropout(0.2))
        self.decoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5))

    def forward(self, x):
        return self.decoder(self.encoder(x))


def start(objective=None, *, rule=None, patience=None, epochs=5, rate=0.01):
    batches = Batches(INPUTS, torch.zeros(24), batch_size=7, seed=5)
    settings = TrainingSettings(epochs=epochs, learning_rate=rate, optimizer="adam", schedule="constant", seed=7)
    selection = Selection(rule, HELD, patience=patience) if rule else None
    return Training(Auto(), objective or GradCon(alpha=0.3), batches, settings, selection=selection)


def weights(training):
    return {name: tensor.clone() for name, tensor in training.module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def fit(training, *, checkpoint, identity, **options):
    kept = Kept(checkpoint, identity, checkpoint.with_name("last-good.safetensors"))
    return fitting.fit(training, kept, **options)


class Killed(BaseException):
    """Not an error that anything catches."""


def killed_at(step):
    def report(_what, done, _of):
        if done == step:
            raise Killed

    return report


@pytest.mark.parametrize("rule", [None, "val_loss", "val_auroc"])
def test_a_killed_run_ends_like_one_that_was_not_bit_for_bit(rule, tmp_path):
    whole = start(rule=rule)
    losses = fit(whole, checkpoint=tmp_path / "whole.safetensors", identity="it")
    file = tmp_path / "part.safetensors"
    for step in (6, 11, 18):  # within the second, third and fifth epoch
        with pytest.raises(Killed):
            fit(start(rule=rule), checkpoint=file, identity="it", report=killed_at(step))
    part = start(rule=rule)
    assert fit(part, checkpoint=file, identity="it") == losses
    assert same(weights(part), weights(whole))
    assert same(part.objective.state(), whole.objective.state())
    over = start(rule=rule)  # killed before the result was put in its place: the file is still there, and all is in it
    assert fit(over, checkpoint=file, identity="it", report=killed_at(1)) == losses
    assert same(weights(over), weights(whole))


def test_a_file_of_another_run_is_not_gone_on_with(tmp_path):
    file = tmp_path / "t.safetensors"
    with pytest.raises(Killed):
        fit(start(), checkpoint=file, identity="one", report=killed_at(6))
    done = []
    fit(start(), checkpoint=file, identity="other", report=lambda _, step, __: done.append(step))
    assert done == list(range(1, 21))


def test_the_epoch_of_the_smallest_held_out_loss_is_kept_with_the_objectives_state():
    training, states, values = start(rule="val_loss", rate=0.3), [], []
    while not training.done:
        training.epoch()
        if not training.done:
            states.append(training.state())
            states[-1] = {name: tensor.clone() for name, tensor in states[-1].items()}
            values.append(mean_loss(training.objective, training.module, HELD))
    assert training.selection.values[:-1] == pytest.approx(values)
    best = training.selection.best_epoch
    assert best < 4, "the last epoch is the best one: nothing is chosen"
    assert best == min(range(5), key=lambda epoch: training.selection.values[epoch])
    assert same(training.state(), states[best])


def test_patience_ends_a_run_that_gets_no_better():
    training = start(rule="val_loss", patience=2, epochs=30, rate=0.3)
    while not training.done:
        training.epoch()
    assert len(training.losses) == training.selection.best_epoch + 3 < 30


def test_held_out_losses_are_means_over_samples_and_leave_no_gradient():
    module = Auto().eval()
    expected = ((module(HELD.inputs) - HELD.inputs) ** 2).mean().item()
    assert mean_loss(Reconstruction(), module, HELD) == pytest.approx(expected)
    mean_loss(LatentNorm(), module, HELD)
    assert all(parameter.grad is None for parameter in module.parameters())


class Known:
    def scores(self, _module, inputs):
        return inputs[:, 0]


def test_auroc_counts_ties_half():
    held = HeldOut(torch.tensor([[1.0], [2.0]]), torch.zeros(2), torch.tensor([[2.0], [3.0]]))
    assert auroc(Known(), Auto(), held) == (1 + 0.5 + 1 + 1) / 4


class Largest(TorchDispatchMode):
    """Looks at the size of every tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(each.numel() for each in tree_leaves(found) if isinstance(each, Tensor))])
        return found


def test_auroc_needs_memory_for_the_scores_alone():
    generator = torch.Generator().manual_seed(1)
    normal, anomalous = (torch.randint(50, (count, 1), generator=generator).double() for count in (3000, 2000))
    tracemalloc.start()
    with Largest() as seen:
        found = auroc(Known(), Auto(), HeldOut(normal, torch.zeros(3000), anomalous))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    pairs = anomalous - normal.T
    assert found == pytest.approx(((pairs > 0).sum() + (pairs == 0).sum() / 2).item() / 6e6, rel=1e-6)
    assert seen.numbers == 3000  # not one per pair
    assert peak < 2_000_000


def test_scores_that_are_not_numbers_are_never_the_best():
    held = HeldOut(torch.tensor([[1.0], [math.nan]]), torch.zeros(2), torch.tensor([[2.0]]))
    assert math.isnan(auroc(Known(), Auto(), held))


def test_a_run_whose_epochs_cannot_be_judged_is_refused_and_not_ended_with_the_first():
    training = start(Reconstruction(), epochs=2)
    training.selection = Selection("val_loss", HeldOut(INPUTS[:6] * 1e30, torch.zeros(6)))
    training.epoch()
    assert how_chosen(training)["values"] == [None]  # JSON has no word for infinity
    with pytest.raises(TrainingError, match=r"'val_loss': expected a number after one of 2 epochs at least; found inf"):
        training.epoch()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Selection("last", HELD), "expected val_loss or val_auroc"),
        (lambda: Selection("val_auroc", HeldOut(INPUTS, torch.zeros(24))), "name them in the recipe under data.valid"),
        (lambda: auroc(object(), Auto(), HELD), "object gives no anomaly scores; use val_loss"),
    ],
)
def test_what_cannot_choose_an_epoch_is_refused(make, message):
    with pytest.raises(TrainingError, match=message):
        make()


class Bursts(Reconstruction):
    """Infinite from a step on."""

    def __call__(self, module, batch):
        self.__dict__["step"] = self.__dict__.get("step", -1) + 1
        return super().__call__(module, batch) * (float("nan") if self.__dict__["step"] >= 9 else 1)


def test_a_run_that_diverges_leaves_its_last_good_weights(tmp_path):
    good = start(Reconstruction())
    good.epoch(), good.epoch()
    file = tmp_path / "run.training.safetensors"
    with pytest.raises(
        TrainingError, match=r"loss is nan at step 9, with learning rate 0\.01\. Try.*last good epoch"
    ) as told:
        fit(start(Bursts()), checkpoint=file, identity="it")
    assert told.value.step == 9
    assert told.value.learning_rate == 0.01
    assert str(tmp_path / "last-good.safetensors") in str(told.value)
    assert same(load_file(tmp_path / "last-good.safetensors"), weights(good))
    assert not file.exists()


def test_a_run_that_diverges_at_once_leaves_nothing(tmp_path):
    with pytest.raises(TrainingError, match="nothing is kept"):
        fit(start(rate=1e30), checkpoint=tmp_path / "t.safetensors", identity="it")
    assert not list(tmp_path.iterdir())


def test_the_good_weights_of_another_run_are_not_taken_for_its_own(tmp_path):
    file = tmp_path / "t.safetensors"
    with pytest.raises(Killed):
        fit(start(), checkpoint=file, identity="one", report=killed_at(6))
    before = file.read_bytes()
    with pytest.raises(TrainingError, match="nothing is kept"):
        fit(start(rate=1e30), checkpoint=file, identity="other")
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


class BurstingGradCon(GradCon):
    """NaN from a step on."""

    def __call__(self, module, batch):
        return super().__call__(module, batch) * (float("nan") if self.steps >= 21 else 1)


def test_what_a_diverged_run_leaves_is_its_best_epoch_with_the_means_that_belong_to_it(tmp_path):
    options = {"rule": "val_loss", "rate": 0.3, "epochs": 6}
    good, states = start(**options), []
    for _ in range(5):
        good.epoch()
        states.append({name: tensor.clone() for name, tensor in good.state().items()})
    best = good.selection.best_epoch
    assert best < 4, "the last good epoch is the best one: nothing is chosen"
    with pytest.raises(
        TrainingError, match=rf"weights of the best good epoch \({best + 1} of 5, by val_loss\) are kept"
    ):
        fit(start(BurstingGradCon(alpha=0.3), **options), checkpoint=tmp_path / "t", identity="it")
    found = load_file(tmp_path / "last-good.safetensors")
    means = {name.removeprefix("remembered/"): mean for name, mean in found.items() if name.startswith("remembered/")}
    assert same({name: found[name] for name in weights(good)}, below("module/", states[best]))
    assert same(means, {name: mean for name, mean in below("objective/", states[best]).items() if name != "steps"})


def test_the_csv_file_has_every_epoch_once_even_after_a_kill(tmp_path):
    file, log = tmp_path / "t.safetensors", csv_log(tmp_path / "log.csv")
    with pytest.raises(Killed):
        fit(start(rule="val_loss"), checkpoint=file, identity="it", logs=[log], report=killed_at(10))
    training = start(rule="val_loss")
    fit(training, checkpoint=file, identity="it", logs=[log])
    with (tmp_path / "log.csv").open() as stream:
        found = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]
    assert found == rows(training)
    assert [row["epoch"] for row in found] == [1, 2, 3, 4, 5]
    assert [row["val_loss"] for row in found] == training.selection.values


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_epoch_that_was_kept_but_not_logged_is_logged_by_the_next_run(tmp_path):
    def kill(training):
        if len(training.losses) == 5:
            raise Killed

    places = {"checkpoint": tmp_path / "kept.safetensors", "identity": "a"}
    with pytest.raises(Killed):
        fit(start(), **places, logs=[kill, csv_log(tmp_path / "log.csv")])
    again = start()
    losses = fit(again, **places, logs=[csv_log(tmp_path / "log.csv")])
    with (tmp_path / "log.csv").open() as stream:
        assert [float(row["loss"]) for row in csv.DictReader(stream)] == losses
    assert len(losses) == 5


def test_tensorboard_gets_the_same(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    training = start()
    fit(training, checkpoint=tmp_path / "t.safetensors", identity="it", logs=[tensorboard_log(tmp_path / "tb")])
    events = EventAccumulator(str(tmp_path / "tb")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(training.losses)


@pytest.mark.slow
def test_a_command_killed_by_the_system_goes_on_bit_for_bit(tmp_path):
    def command(folder):
        return [sys.executable, "-m", "sparsense", "train", "recipes/digits-gradcon.yaml", "--output", str(folder),
                "--set", "train.epochs=12"]  # fmt: skip

    subprocess.run(command(tmp_path / "whole"), cwd=ROOT, check=True)
    process = subprocess.Popen(command(tmp_path / "part"), cwd=ROOT)
    checkpoint = tmp_path / "part" / "digits_gradcon.training.safetensors"
    while not checkpoint.exists():
        assert process.poll() is None, "it was over before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    subprocess.run(command(tmp_path / "part"), cwd=ROOT, check=True)
    one, other = (load_file(tmp_path / name / "digits_gradcon.safetensors") for name in ("whole", "part"))
    assert same(one, other)
