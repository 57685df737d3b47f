"""A learnt mask is the best of its epochs by the rule of the recipe, and never saw what it is judged on."""

from __future__ import annotations

import jobs
import pytest
import torch

from sparsense.errors import InputError, RecipeError
from sparsense.pipeline.data import load_data
from sparsense.pruning.search import MaskSearch
from sparsense.recipe.load import read_recipe
from sparsense.recipe.training import ObjectiveSection, SearchSection
from sparsense.training.objectives import Adversarial, OutlierExposure
from sparsense.training.run import make_search_run
from sparsense.training.warm_up import WarmUp

SEARCH = {"epochs": 4, "batch_size": 40, "learning_rate": 0.05, "init": "magnitude"}
WEIGHTS = {"prune.structure": "weight", "prune.sparsity": 0.8, "batch_norm": None}
ANOMALIES = {"source": "letters", "limit": 20}


def epochs_of(changes):
    """The mask after every epoch, and how each was judged."""
    with jobs.job(changes) as job:
        section = job.section.search
        module = MaskSearch(job.dense.module, sparsity=0.8, init=section.init)
        training = make_search_run(job.dense, module, job.samples, section, seed=0)
        masks = []
        while not training.done:
            training.epoch()
            masks.append({name: keep.clone() for name, keep in module.mask().keep.items()})
        return masks, training.selection


@pytest.mark.parametrize(
    ("rule", "best"), [("val_loss", min), ("val_auroc", max)], ids=["smallest loss", "largest area"]
)
def test_the_best_mask_is_kept(rule, best):
    changes = {**WEIGHTS, "prune.search": {**SEARCH, "select": rule}, "data.validation_anomalies": ANOMALIES}
    masks, selection = epochs_of(changes)
    chosen = selection.values.index(best(selection.values))
    assert len({str(mask) for mask in map(describe, masks[:3])}) == 3  # they differ, so the choice shows
    result = jobs.pruned(changes)
    state = result.network.module.state_dict()
    kept = masks[chosen]  # after the last epoch the best one is there again
    assert all(torch.equal(state[name] != 0, keep & (state[name] != 0)) for name, keep in kept.items())
    assert sum(int((state[name] != 0).sum()) for name in kept) == sum(int(keep.sum()) for keep in kept.values())
    assert result.notes[0].startswith(f"The mask is that of epoch {chosen + 1} of 4, after which")
    assert "16 held-out training samples" in result.notes[0]


def describe(mask):
    return [int(keep.flatten().int().cumsum(0).sum()) for keep in mask.values()]


def test_the_last_mask_is_kept_where_that_is_asked():
    search = {**SEARCH, "epochs": 2, "select": "last", "validation": 0.0}
    result = jobs.pruned({**WEIGHTS, "prune.search": search})
    assert result.notes == ["The mask is that of the last of 2 epochs."]


@pytest.mark.parametrize(
    ("search", "warm"),
    [
        ({"objective": "outlier_exposure", "epochs": 10}, 1),
        ({"objective": "outlier_exposure", "epochs": 11}, 2),
        ({"objective": "outlier_exposure", "epochs": 10, "warm_up": 0}, 0),
        ({"objective": "noise", "epochs": 10}, 0),
        ({"objective": "noise", "epochs": 10, "warm_up": 3}, 3),
        ({"epochs": 10}, 0),
    ],
)
def test_outlier_exposure_warms_up_as_published(search, warm):
    with jobs.job({**WEIGHTS, "prune.search": search, "data.outliers": ANOMALIES}) as job:
        module = MaskSearch(job.dense.module, sparsity=0.5)
        objective = make_search_run(job.dense, module, job.samples, job.section.search, seed=0).objective
    assert (objective.epochs if isinstance(objective, WarmUp) else 0) == warm
    if warm == 1:
        assert isinstance(objective.then, OutlierExposure)


def test_an_attacked_batch_is_normalised_like_any_other():
    """The published search attacks images in [0, 1] and forgets to normalise what it then shows the network."""
    preprocessing = {"layout": "NHWC", "mean": [0.3], "std": [0.2]}
    search = SearchSection(epochs=1, batch_size=8, validation=0.0, select="last",
                           objective=ObjectiveSection(name="adversarial"))  # fmt: skip
    with jobs.job({**WEIGHTS, "prune.search": {}, "network.preprocessing": preprocessing}) as job:
        module = MaskSearch(job.dense.module, sparsity=0.5)
        training = make_search_run(job.dense, module, job.samples, search, seed=0)
    assert isinstance(training.objective, Adversarial)
    seen = []
    module.register_forward_pre_hook(lambda _module, given: seen.append(given[0].detach().clone()))
    training.objective(module.train(), next(iter(training.batches)))
    pixels = [shown * 0.2 + 0.3 for shown in seen]
    _, clean, attacked = pixels  # the first pass finds the direction of the attack
    assert float(clean.min()) == pytest.approx(0, abs=1e-6)
    assert -1e-6 <= float(attacked.min()) <= float(attacked.max()) <= 1 + 1e-6
    assert float((attacked - clean).abs().max()) == pytest.approx(8 / 255, abs=1e-6)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("data.train", r"60 samples of data\.test are also in data\.train"),
        ("data.outliers", r"60 samples of data\.outliers are also in data\.test"),
        ("data.validation_anomalies", r"60 samples of data\.validation_anomalies are also in data\.test"),
    ],
)
def test_scores_are_never_learnt_from_what_is_measured_on(key, message, tmp_path):
    """Also where the same images come from another file, so that no name gives it away."""
    import numpy as np

    with jobs.job({}) as job:
        data = load_data(job.recipe, None).test
    np.savez(tmp_path / "copied.npz", images=data.inputs, labels=data.labels)
    copied = {"source": "npz", "options": {"path": str(tmp_path / "copied.npz")}}
    with pytest.raises(InputError, match=message):
        jobs.pruned({**WEIGHTS, "prune.search": SEARCH, key: copied})


def test_outliers_that_choose_the_mask_are_not_those_it_learns_from():
    changes = {"data.outliers": ANOMALIES, "data.validation_anomalies": ANOMALIES}
    with pytest.raises(InputError, match=r"20 samples of data\.validation_anomalies are also in data\.outliers"):
        jobs.pruned(changes)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"select": "val_auroc"}, r"prune\.search\.select: val_auroc needs data\.validation_anomalies"),
        ({"select": "last"}, "with select: last set validation: 0"),
        ({"validation": 0.0}, "val_loss needs held-out samples"),
        ({"objective": "outlier_exposure"}, r"name them in data\.outliers"),
        ({"init": "zeros"}, "hydra"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(search, message):
    with pytest.raises(RecipeError, match=message):
        jobs.recipe({**WEIGHTS, "prune.search": search})


def test_every_default_can_be_written_out_and_read_again():
    recipe = jobs.recipe({**WEIGHTS, "prune.search": {}})
    assert read_recipe(recipe.to_yaml(), {}) == recipe
