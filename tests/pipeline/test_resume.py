"""A job that was killed goes on and ends like one that was not, bit for bit; what is finished is not done again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import jobs
import pytest
import torch

from sparsense.errors import InputError
from sparsense.pipeline.state import kept_state
from sparsense.sensitivity import SensitivityRecord

STEPS = {
    "sensitivity.batch_size": 4,
    "finetune": {"epochs": 2, "batch_size": 40, "augment": ["shift"]}, "prune.structure": "weight",
    "prune.sparsity": 0.7, "prune.schedule": {"name": "cubic", "steps": 2, "epochs": 2, "dense_epochs": 1},
}  # fmt: skip
CHANNELS = {
    **STEPS,
    "prune.structure": "channel",
    "prune.criterion": "taylor",
    "finetune": {**STEPS["finetune"], "optimizer": "adam"},
}
EARLY = {
    "network.weights": None, "finetune": {"epochs": 1, "batch_size": 40, "learning_rate": 1e-4},
    "prune.structure": "weight", "prune.sparsity": 0.5,
    "prune.schedule": {"name": "early_crop", "dense_epochs": 8, "steps": 1},
}  # fmt: skip
SHORT = {"finetune": STEPS["finetune"], "prune.structure": "weight", "prune.sparsity": 0.5}
ANALYSIS = {"prune.scope": "sensitivity", "prune.sparsity": 0.2, "finetune": None, "prune.schedule": "one_shot"}


class Stop(BaseException):
    """Not an error that anything would handle."""


def stopping(what, at):
    """A progress that stops the job when a piece of work has come so far."""

    def progress(name, done, _of):
        if name == what and done == at:
            raise Stop

    return progress


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        (
            STEPS,
            [
                ("recording sensitivities", 24),
                ("training the dense network", 2),
                ("training after step 1", 5),
                ("pruning", 1),
                ("fine-tuning", 6),
            ],
        ),
        (CHANNELS, [("training after step 1", 6), ("fine-tuning", 5)]),
        ({**STEPS, **ANALYSIS}, [("analysing stages.0.conv1.weight", 1), ("analysing stages.2.conv1.weight", 1)]),
        (
            {
                "prune.structure": "weight",
                "prune.sparsity": 0.5,
                "data.outliers": {"source": "letters", "limit": 30},
                "prune.search": {
                    "epochs": 4,
                    "batch_size": 40,
                    "objective": "outlier_exposure",
                    "patience": 3,
                    "precision": "bf16",
                },
            },
            [("learning the mask", 6), ("learning the mask", 11)],
        ),
        (EARLY, [("training the dense network", 9), ("training the dense network", 22)]),
    ],
    ids=["steps", "channels", "analysis", "search", "early"],
)
def test_going_on_ends_the_same(changes, stops, tmp_path):
    whole = jobs.pruned(changes)
    for what, at in stops:
        with pytest.raises(Stop), kept_state(tmp_path / "state", "job") as state:
            jobs.pruned(changes, state, stopping(what, at))
        assert (tmp_path / "state").is_dir()
    with kept_state(tmp_path / "state", "job") as state:
        assert jobs.same(jobs.pruned(changes, state), whole)
    assert not (tmp_path / "state").exists()


def test_finished_pieces_are_not_done_again(tmp_path):
    done = []
    with pytest.raises(Stop), kept_state(tmp_path / "state", "job") as state:
        jobs.pruned(STEPS, state, stopping("fine-tuning", 6))
    with kept_state(tmp_path / "state", "job") as state:
        jobs.pruned(STEPS, state, lambda what, done_, _of: done.append((what, done_)))
    assert not any(what.startswith("training") for what, _ in done)
    assert min(step for what, step in done if what == "fine-tuning") == 5  # the second epoch of four batches


def interrupted(folder, key, write=None, error=Stop):
    """A job that keeps one piece, if one is given, and then ends with an error."""
    with kept_state(folder, key) as state:
        if write is not None:
            state.piece("one", write)
        raise error


def test_another_job_starts_afresh_and_an_explained_error_leaves_nothing(tmp_path):
    folder = tmp_path / "state"
    with pytest.raises(Stop):
        interrupted(folder, "job", lambda piece: (piece / "x").write_text("1"))
    with pytest.raises(Stop):
        interrupted(folder, "job", lambda piece: (piece / "x").write_text("2"))
    assert (folder / "one" / "x").read_text() == "1"
    with pytest.raises(Stop):
        interrupted(folder, "another job", lambda piece: (piece / "x").write_text("3"))
    assert (folder / "one" / "x").read_text() == "3"
    with pytest.raises(InputError):
        interrupted(folder, "another job", error=InputError("explained"))
    assert list(tmp_path.iterdir()) == []


def test_a_piece_is_whole_or_not_there(tmp_path):
    def half(folder):
        (folder / "x").write_text("half")
        raise Stop

    with pytest.raises(Stop):
        interrupted(tmp_path / "state", "job", half)
    assert not (tmp_path / "state" / "one").exists()
    with kept_state(tmp_path / "state", "job") as state:
        piece = state.piece("one", lambda folder: (folder / "x").write_text("whole"))
        assert (piece / "x").read_text() == "whole"


CHILD = """
import os, signal, sys
from pathlib import Path
import torch
import jobs
from sparsense.pipeline.state import kept_state
from test_resume import SHORT

torch.set_num_threads(1)
def progress(what, done, of):
    if (what, done) == ("fine-tuning", 6):  # of four steps to an epoch
        os.kill(os.getpid(), signal.SIGKILL)
with kept_state(Path(sys.argv[1]), "job") as state:
    jobs.pruned(SHORT, state, progress)
"""


def test_kill_minus_nine_is_survived(tmp_path):
    """In another process, in the middle of an epoch."""
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    command = [sys.executable, "-c", CHILD, str(tmp_path / "state")]
    killed = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "state" / "fine-tuning.safetensors").is_file()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with kept_state(tmp_path / "state", "job") as state:
            assert jobs.same(jobs.pruned(SHORT, state), jobs.pruned(SHORT))
    finally:
        torch.set_num_threads(threads)


# Records


def test_a_record_is_used_again_without_another_pass(tmp_path, monkeypatch):
    changes = {
        "sensitivity.record": str(tmp_path / "r.safetensors"),
        "prune.criterion": "crop",
        "sensitivity.samples": 12,
    }
    first = jobs.pruned(changes)
    held = SensitivityRecord.load(tmp_path / "r.safetensors").moments["conv1.weight"]
    assert {"gradient", "elasticity", "hessian_gradient"} <= set(held)

    def refuse(*_args, **_options):
        raise AssertionError("another pass")

    monkeypatch.setattr("sparsense.pipeline.records.record_sensitivities", refuse)
    monkeypatch.setattr("sparsense.pipeline.records.record_for", refuse)
    assert jobs.same(jobs.pruned(changes), first)
    assert jobs.pruned({**changes, "prune.criterion": "taylor"}).row.criterion == "taylor"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 1}, r"another samples \("),
        ({"sensitivity.loss": "energy"}, r"another loss \(cross_entropy instead of energy\)"),
        ({"network.weights": None}, r"another network \("),
    ],
)
def test_a_record_of_something_else_is_refused(changes, what, tmp_path):
    kept = {"sensitivity.record": str(tmp_path / "r.safetensors")}
    jobs.pruned(kept)
    with pytest.raises(InputError, match=f"they were recorded with {what}.*remove the file to record anew"):
        jobs.pruned({**kept, **changes})
