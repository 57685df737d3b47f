"""What was trained outlives errors of what comes later, and a training that diverges leaves its last good network."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import jobs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_train_recipe import recipe
from torch import nn

from sparsense.benchmark.card import load_card
from sparsense.errors import ExportError, InputError, TrainingError
from sparsense.networks import load_checkpoint
from sparsense.pipeline import run, run_recipe
from sparsense.pipeline.run import identity
from sparsense.pipeline.state import kept_state
from sparsense.training.loop import Training
from sparsense.training.run import Samples, training_identity

PLAIN = {
    "heads": ["reconstruction_error"], "train.objective": "reconstruction", "train.validation": 0.0,
    "train.select": "last",
}  # fmt: skip
MASKS = {"prune.structure": "weight", "prune.sparsity": 0.5}
TUNING = {**MASKS, "finetune": {"epochs": 3, "batch_size": 80}}
STEPS = {**TUNING, "prune.schedule": {"name": "cubic", "steps": 2, "epochs": 3}}
SEARCH = {**MASKS, "prune.search": {"epochs": 3, "batch_size": 80, "validation": 0.1}}


def failing(error):
    def fail(*_args, **_options):
        raise error

    return fail


def test_an_error_after_training_keeps_the_weights_and_another_run_goes_on_from_them(tmp_path, monkeypatch):
    attach_heads = run.attach_heads
    monkeypatch.setattr(run, "attach_heads", failing(ExportError("it differs from its oracle")))
    with pytest.raises(ExportError) as told:
        run_recipe(recipe(**PLAIN), output=tmp_path / "tiny")
    kept = tmp_path / ".tiny.training"
    assert f"it is kept in {kept}, and the next run with this output goes on from there" in told.value.__notes__[-1]
    assert load_file(kept / "trained" / "trained.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tiny.training", "tiny.csv"]

    done = Counter()
    monkeypatch.setattr(run, "attach_heads", attach_heads)
    mended = recipe(**PLAIN, **{"calibrate.false_alarm_rate": 0.2, "data.calibration.limit": 25, "fit.samples": 20})
    folder = run_recipe(mended, output=tmp_path / "tiny", progress=lambda what, *_: done.update([what]))
    assert not done["training"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny", "tiny.csv"]
    monkeypatch.setattr(run, "attach_heads", failing(ExportError("no")))
    with pytest.raises(ExportError):
        run_recipe(recipe(**PLAIN, seed=1), output=tmp_path / "tiny")
    whole = load_file(kept / "trained" / "trained.safetensors")
    card, trained = load_card(folder / "card.json"), load_checkpoint(folder).module.state_dict()
    assert any(not torch.equal(trained[name], whole[name]) for name in trained)  # of another seed: trained anew
    assert card.trained.epoch == len(card.trained.losses) == 2


def test_an_error_after_fine_tuning_keeps_it(tmp_path, monkeypatch):
    epochs, epoch = [], Training.epoch
    monkeypatch.setattr(Training, "epoch", lambda self, **options: (epochs.append(1), epoch(self, **options))[1])

    def later(state, fail):
        found = jobs.pruned(TUNING, state)
        if fail:
            raise InputError("no")
        return found

    with pytest.raises(InputError) as told, kept_state(tmp_path / "s", "job", stays="the recipe") as state:
        later(state, fail=True)
    assert f"kept in {tmp_path / 's'}" in told.value.__notes__[0]
    assert told.value.__notes__[0].endswith("goes on from there, if these are as now: the recipe.")
    assert len(epochs) == 3
    with kept_state(tmp_path / "s", "job") as state:
        found = later(state, fail=False)
    assert len(epochs) == 3
    assert not (tmp_path / "s").exists()
    assert jobs.same(found, jobs.pruned(TUNING))


def test_a_job_depends_on_what_its_pieces_depend_on_and_on_nothing_else():
    def of(changes):
        with jobs.job(changes) as job:
            data = jobs.load_data(job.recipe, None)
            return identity(job.recipe, data, job.dense)

    later = {"heads": ["energy"], "fit.samples": 9, "calibrate.false_alarm_rate": 0.2, "export.tolerance": 1e-4,
             "data.calibration.limit": 25, "data.test.limit": 9}  # fmt: skip
    assert of(TUNING | later) == of(TUNING)
    changed = (
        {"data.train.limit": 150},
        {"data.outliers": {"source": "letters", "limit": 9}},
        {"prune.sparsity": 0.4},
        {"finetune": {"epochs": 2}},
        {"export.layout": "NCHW"},
        {"seed": 1},
    )
    assert len({of(TUNING), *(of(TUNING | change) for change in changed)}) == 7


def test_a_job_depends_on_what_its_network_computes():
    """Tensors stay the same when somebody writes another activation or another rate of dropout into the code."""

    def of(*parts):
        with jobs.job(TUNING) as job:
            data, samples = jobs.load_data(job.recipe, None), Samples(jobs.load_data(job.recipe, None).train)
            side = job.dense.input_shape[-1]
            layers = nn.Linear(side * side, 4), nn.Linear(4, 4)
            for layer in layers:
                nn.init.constant_(layer.weight, 0.01)
                nn.init.zeros_(layer.bias)
            module = nn.Sequential(nn.Flatten(), layers[0], *parts, layers[1]).eval()
            network = replace(job.dense, module=module)
            return identity(job.recipe, data, network), training_identity(network, job.recipe, samples)

    found = [of(nn.ReLU(), nn.Dropout(0.1)), of(nn.Tanh(), nn.Dropout(0.1)), of(nn.ReLU(), nn.Dropout(0.2))]
    assert of(nn.ReLU(), nn.Dropout(0.1)) == found[0]
    for each in zip(*found, strict=True):
        assert len(set(each)) == 3


@pytest.mark.parametrize(
    ("changes", "name"),
    [(TUNING, "fine-tuning"), (STEPS, "training after step 1"), (SEARCH, "learning the mask")],
    ids=["fine-tuning", "steps", "search"],
)
def test_a_training_that_diverges_leaves_its_last_good_network(changes, name, tmp_path, monkeypatch):
    good, epoch = [], Training.epoch

    def diverging(self, **options):
        if len(good) < 2:
            found = epoch(self, **options)
            good.append({name: tensor.clone() for name, tensor in self.module.state_dict().items()})
            return found
        for parameter in self.module.parameters():
            parameter.data.fill_(float("nan"))
        raise TrainingError("training diverged", step=5, learning_rate=0.5)

    monkeypatch.setattr(Training, "epoch", diverging)
    file = tmp_path / "tiny.last-good.safetensors"
    with (
        pytest.raises(TrainingError, match=rf"diverged\. The network after the .* of {name} is kept in {file}") as told,
        kept_state(tmp_path / "state", "job", output=tmp_path / "tiny") as state,
    ):
        jobs.pruned(changes, state)
    assert (told.value.step, told.value.learning_rate) == (5, 0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.last-good.json", "tiny.last-good.safetensors"]
    left = load_checkpoint(file).module.state_dict()
    weights = [tensor for key, tensor in left.items() if tensor.ndim == 4]
    assert sum(int((w == 0).sum()) for w in weights) > 0.2 * sum(w.numel() for w in weights)
    if name != "learning the mask":
        assert all(torch.equal(tensor, good[1][key]) for key, tensor in left.items())
    assert all(np.isfinite(tensor.numpy()).all() for tensor in left.values())


def test_a_last_good_network_that_cannot_be_written_does_not_hide_that_training_diverged(tmp_path, monkeypatch):
    done, epoch = [], Training.epoch

    def diverging(self, **options):
        if done:
            raise TrainingError("training diverged.")
        done.append(epoch(self, **options))
        for parameter in self.module.parameters():
            parameter.data.mul_(1e20)  # finite, but what they give is not
        return done[0]

    monkeypatch.setattr(Training, "epoch", diverging)
    with (
        pytest.raises(TrainingError, match=r"training diverged\. The network .* cannot be kept: .* NaN or infinity"),
        kept_state(tmp_path / "state", "job", output=tmp_path / "tiny") as state,
    ):
        jobs.pruned(TUNING, state)
    assert not list(tmp_path.iterdir())


def test_a_fine_tuning_that_diverges_at_once_says_that_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "epoch", failing(TrainingError("training diverged.")))
    with (
        pytest.raises(TrainingError, match=r"diverged\. No epoch of fine-tuning was finished before, so nothing"),
        kept_state(tmp_path / "state", "job", output=tmp_path / "tiny") as state,
    ):
        jobs.pruned(TUNING, state)
    assert not list(tmp_path.iterdir())
