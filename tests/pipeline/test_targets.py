"""What a recipe asks of pruning is what comes out: targets, scopes, patterns, steps, learnt masks."""

from __future__ import annotations

import re

import jobs
import pytest
import torch

from sparsense.benchmark.latency import Latency
from sparsense.errors import InputError, RecipeError, UnsupportedLayerError
from sparsense.networks.checkpoint import save_network
from sparsense.pipeline.amount import amount_for_time
from sparsense.pipeline.records import held_out_samples, recorded_samples
from sparsense.pruning.cost import measure_cost
from sparsense.pruning.mask import Mask
from sparsense.pruning.patterns import follows_n_of_m
from sparsense.recipe.prune import PruneSection
from sparsense.recording.layers import layouts, prunable_layers, prunable_weights
from sparsense.training.initial import open_network
from sparsense.training.objectives import OBJECTIVES


def dense():
    asked = jobs.recipe({})
    return open_network(asked.network, None, asked.export.layout)


def cost(network):
    return measure_cost(network.module, torch.zeros(1, *network.input_shape))


def widths(result):
    return {name: len(weight) for name, weight in prunable_weights(result.network.module).items()}


WEIGHTS = {"prune.structure": "weight"}


# How much


@pytest.mark.parametrize("measure", ["parameters", "multiply_adds"])
def test_channels_go_until_the_asked_share_of_a_measure_is_gone(measure):
    result = jobs.pruned({"prune.sparsity": 0.4, "prune.measure": measure})
    before, after = getattr(cost(dense()), measure), getattr(cost(result.network), measure)
    assert 0.4 <= 1 - after / before < 0.45
    assert result.row.reached[measure] == pytest.approx(1 - after / before)
    assert result.row.target == f"40% of the {measure.replace('_', '-')}"


@pytest.mark.parametrize("structure", ["channel", "weight"])
def test_files_become_as_small_as_asked(structure, tmp_path):
    changes = {"prune.structure": structure, "prune.at_most": 150_000, "prune.measure": "bytes"}
    result = jobs.pruned(changes)
    size = save_network(result.network, tmp_path).stat().st_size
    assert 135_000 < size < 157_000  # with names and shapes
    assert result.row.target == "at most 150,000 bytes"


@pytest.mark.parametrize("measure", ["parameters", "multiply_adds"])
def test_weights_go_until_the_asked_share_of_a_measure_is_gone(measure):
    result = jobs.pruned({**WEIGHTS, "prune.sparsity": 0.5, "prune.measure": measure})
    module, found = result.network.module, cost(result.network)
    if measure == "parameters":
        gone = sum(int((weight == 0).sum()) for weight in prunable_weights(module).values()) / found.parameters
    else:
        gone = sum(
            found.by_layer[name.removesuffix(".weight")] * float((weight == 0).double().mean())
            for name, weight in prunable_weights(module).items()
        )
        gone /= found.multiply_adds
    assert gone == pytest.approx(0.5, abs=2e-3)
    assert result.row.reached[measure] == pytest.approx(gone, abs=1e-6)


def test_a_network_that_is_small_enough_stays_and_it_is_told():
    result = jobs.pruned({"prune.at_most": 10**9, "prune.measure": "bytes"})
    assert cost(result.network) == cost(dense())
    assert result.notes == ["Nothing had to go: the dense network is as small as asked."]


def test_what_cannot_be_that_small_is_refused():
    with pytest.raises(InputError, match=r"no mask takes away 0\.990 of the asked measure"):
        jobs.pruned({**WEIGHTS, "prune.sparsity": 0.99, "prune.measure": "bytes"})


def fake(ratio):
    return Latency(ratio * 2, (1.0, 2.0), 3.0, ratio, (ratio, ratio), "faster", 6, 1)


def test_the_smallest_share_that_is_fast_enough_is_found():
    section = PruneSection(speedup=2.0)
    found = amount_for_time(section, lambda share: fake(1 - share) if share < 0.9 else None)
    assert 0.5 <= found <= 0.5 + 1 / 64
    both = PruneSection(speedup=2.0, milliseconds=0.6)  # 0.6 ms of 2 ms is the stricter one
    assert 0.7 <= amount_for_time(both, lambda share: fake(1 - share) if share < 0.9 else None) <= 0.7 + 1 / 64


def test_a_time_out_of_reach_says_how_fast_it_got():
    with pytest.raises(InputError, match=r"to 4 times as fast as dense: the fastest cut took .* ms, 1.\d+ times"):
        amount_for_time(PruneSection(speedup=4.0), lambda share: fake(1 - share) if share < 0.4 else None)


def test_a_speedup_is_searched_by_measuring_and_reported(monkeypatch):
    """The stopwatch is a count of multiply-adds, so the test does not depend on the machine."""
    whole, asked = cost(dense()).multiply_adds, []

    def timed(_self, module):
        asked.append(module)
        return fake(measure_cost(module, torch.zeros(1, 1, 16, 16)).multiply_adds / whole)

    monkeypatch.setattr("sparsense.pipeline.timing.Stopwatch.against_dense", timed)
    result = jobs.pruned({"prune.speedup": 3.0})
    assert 3.0 <= whole / cost(result.network).multiply_adds < 4.5
    assert result.row.reached["speedup"] == pytest.approx(whole / cost(result.network).multiply_adds)
    assert result.row.target == "3 times as fast as dense"
    assert all(width % 8 == 0 for name, width in widths(result).items() if name != "fc.weight")
    assert len(asked) > 3


def test_the_stopwatch_measures_in_onnx_runtime():
    with jobs.job({}) as job:
        from sparsense.pipeline.timing import Stopwatch

        watch = Stopwatch(job.dense, job.recipe.benchmark)
        same = watch.against_dense(job.dense.module)
        assert same.median_ms > 0
        assert watch.against_dense(job.dense.module) is same  # known widths are not measured again
        times = watch.side_by_side({"one": job.dense.module})
        assert list(times) == ["one"]
        assert times["one"] > 0


@pytest.mark.parametrize("best", ["kept", "padded to multiples of 8", "rounded down to multiples of 8"])
def test_widths_are_aligned_as_measured_and_it_is_told(monkeypatch, best):
    def times(_self, modules):
        return {name: 1.0 if name == best else 2.0 for name in modules}

    monkeypatch.setattr("sparsense.pipeline.timing.Stopwatch.side_by_side", times)
    result = jobs.pruned({"prune.sparsity": 0.4, "prune.align": "measure"})
    multiples = {width % 8 for name, width in widths(result).items() if name != "fc.weight"}
    assert (multiples == {0}) == (best != "kept")
    assert f"Widths: {best} measured fastest in ONNX Runtime at batch 1 (kept " in result.notes[0]
    row = result.row.alignment
    assert (row.chosen, row.batch, row.milliseconds[best]) == (best, 1, 1.0)
    assert {"kept", "padded to multiples of 8", "rounded down to multiples of 8"} <= set(row.milliseconds)
    left = widths(result)
    assert all(left[f"{group.group}.weight"] == group.after for group in row.groups)
    assert all((group.way == "kept") == (group.before == group.after) for group in row.groups)
    assert {group.way for group in row.groups} <= {best, "kept"}


def test_each_group_is_aligned_as_measured_and_it_is_told(monkeypatch):
    def times(_self, modules):
        return {name: price({key: len(weight) % 8 for key, weight in prunable_weights(module).items()})
                for name, module in modules.items()}  # fmt: skip

    def price(rest):
        return 10.0 + (rest["stages.2.conv1.weight"] != 0) + (rest["stages.1.conv1.weight"] == 0)

    monkeypatch.setattr("sparsense.pipeline.timing.Stopwatch.side_by_side", times)
    result = jobs.pruned({"prune.sparsity": 0.4, "prune.align": "each_group"})
    left = widths(result)
    assert left["stages.2.conv1.weight"] % 8 == 0
    assert left["stages.1.conv1.weight"] % 8 != 0
    assert "Widths: each group measured fastest" in result.notes[0]
    ways = {group.group: group for group in result.row.alignment.groups}
    assert ways["stages.1.conv1"].way == "kept"
    assert ways["stages.2.conv1"].way.startswith(("padded to", "rounded down to"))
    assert ways["stages.2.conv1"].after == left["stages.2.conv1.weight"] != ways["stages.2.conv1"].before


@pytest.mark.parametrize(("padded", "gains"), [(0.5, True), (0.99, False)])
def test_files_carry_zero_channels_where_that_is_faster(monkeypatch, padded, gains):
    def times(_self, modules):
        return {name: padded if name == "padded to multiples of 8" else 1.0 for name in modules}

    monkeypatch.setattr("sparsense.pipeline.timing.Stopwatch.side_by_side", times)
    result = jobs.pruned({"prune.sparsity": 0.4, "prune.align": None, "batch_norm": None})
    multiples = {len(w) % 8 for n, w in prunable_weights(result.shipped.module).items() if n != "fc.weight"}
    assert (multiples == {0}) is gains
    assert (result.shipped is result.network) is not gains
    assert [note for note in result.notes if "zero channels" in note] == (result.notes if gains else [])
    assert result.row.alignment.chosen == ("padded to multiples of 8" if gains else "kept")
    assert result.row.alignment.milliseconds["kept"] == 1.0
    assert widths(result)["stages.2.conv1.weight"] % 8
    x = torch.rand(3, *result.network.input_shape)
    torch.testing.assert_close(result.shipped.module(x), result.network.module(x), rtol=1e-5, atol=1e-6)


def test_widths_that_fit_are_kept_without_measuring(monkeypatch):
    monkeypatch.setattr("sparsense.pipeline.timing.Stopwatch.side_by_side", None)
    result = jobs.pruned({"prune.sparsity": 0.4, "prune.round_to": 8, "prune.align": "measure"})
    assert result.notes == ["Widths: kept, as there was nothing to round or to pad."]
    assert result.row.alignment is None


# From where


def test_ratios_by_pattern():
    result = jobs.pruned({**WEIGHTS, "prune.ratios": {"stages.0.*": 0.25, "stages.2.conv1": 0.75}})
    found = jobs.zeros(result)
    assert found["stages.0.conv1.weight"] == found["stages.0.conv2.weight"] == 0.25
    assert found["stages.2.conv1.weight"] == 0.75
    assert found["stages.1.conv1.weight"] == 0
    smaller = jobs.pruned({"prune.ratios": {"stages.2.conv1": 0.75}})
    assert widths(smaller) == {**widths(jobs.pruned({"prune.sparsity": 0.0})), "stages.2.conv1.weight": 16}


@pytest.mark.parametrize("structure", ["channel", "weight"])
def test_every_submodule_loses_the_same_share(structure):
    result = jobs.pruned({"prune.structure": structure, "prune.scope": "block", "prune.sparsity": 0.5})
    if structure == "weight":
        weights = prunable_weights(result.network.module)
        for stage in ("stages.0", "stages.1", "stages.2"):
            own = [weight.flatten() for name, weight in weights.items() if name.startswith(f"{stage}.conv")]
            assert float((torch.cat(own) == 0).double().mean()) == pytest.approx(0.5, abs=1e-3)
    assert result.row.scope == "block"


@pytest.mark.parametrize("structure", ["channel", "weight"])
def test_ratios_follow_a_sensitivity_analysis(structure, tmp_path):
    changes = {
        "prune.structure": structure, "prune.scope": "sensitivity", "prune.sparsity": 0.3,
        "sensitivity.analysis": str(tmp_path / "a.json"),
    }  # fmt: skip
    result = jobs.pruned(changes)
    reached = result.row.reached["sparsity" if structure == "weight" else "channels"]
    assert 0.3 <= reached < 0.35
    written = (tmp_path / "a.json").stat().st_mtime_ns
    assert jobs.same(jobs.pruned(changes), result)
    assert (tmp_path / "a.json").stat().st_mtime_ns == written


def test_an_analysis_of_something_else_is_refused(tmp_path):
    kept = {"prune.scope": "sensitivity", "prune.sparsity": 0.1, "sensitivity.analysis": str(tmp_path / "a.json")}
    jobs.pruned({**kept, "prune.ignore": ["conv1", "stages.0*", "stages.1*"]})
    with pytest.raises(InputError, match=r"a.json: it is of another criterion \(magnitude instead of random\); remove"):
        jobs.pruned({**kept, "prune.criterion": "random"})
    with pytest.raises(InputError, match="it is of another data"):
        jobs.pruned({**kept, "seed": 3})


def test_an_analysis_judges_samples_that_were_not_recorded():
    with jobs.job({"sensitivity.samples": 130}) as job:
        recorded, held_out = recorded_samples(job.recipe, job.data), held_out_samples(job.recipe, job.data)
        assert (len(recorded), len(held_out)) == (130, 30)
        rows = {row.tobytes() for row in recorded.inputs}
        assert not any(row.tobytes() in rows for row in held_out.inputs)
    with pytest.raises(InputError, match=r"sensitivity.samples \(150\) leaves 10 of 160, and 20 are needed"):
        jobs.pruned({"sensitivity.samples": 150, "prune.scope": "sensitivity", "prune.sparsity": 0.2})


def test_floors_and_ignored_types_hold():
    result = jobs.pruned({"prune.sparsity": 0.3, "prune.floor": 0.6})
    before = widths(jobs.pruned({"prune.sparsity": 0.0}))
    assert all(width >= 0.6 * before[name] for name, width in widths(result).items())
    stepped = jobs.pruned(
        {"prune.sparsity": 0.3, "prune.floor": 0.6, "prune.schedule": {"name": "linear", "epochs": 0}}
    )
    assert all(width >= 0.6 * before[name] for name, width in widths(stepped).items())
    with pytest.raises(InputError, match="no channel of the network can be removed"):
        jobs.pruned({"prune.ignore": ["Conv2d"]})


# In which shape


def test_patterns_of_weights():
    ignored = ["conv1"]  # one input channel cannot be cut into runs of four
    result = jobs.pruned({**WEIGHTS, "prune.pattern": "2:4", "prune.ignore": ignored})
    module = result.network.module
    kept = {
        name: weight != 0
        for name, weight in prunable_weights(module).items()
        if name not in ("conv1.weight", "fc.weight")
    }
    assert follows_n_of_m(Mask(kept), n=2, m=4, layouts=layouts(module))
    assert sum(int(keep.sum()) for keep in kept.values()) == sum(keep.numel() for keep in kept.values()) / 2
    with pytest.raises(InputError, match=r"'conv1\.weight' has 1; ignore 'conv1'"):
        jobs.pruned({**WEIGHTS, "prune.pattern": "2:4"})
    blocks = jobs.pruned({**WEIGHTS, "prune.pattern": "4x4", "prune.sparsity": 0.5})
    assert 0.49 < blocks.row.reached["sparsity"] <= 0.5
    assert blocks.row.target == "50% of the weights, in blocks of 4x4"


@pytest.mark.parametrize(("pattern", "n", "m"), [("2:4", 2, 4), ("4:8", 4, 8)])
def test_a_pattern_keeps_more_where_channels_may_change_places(pattern, n, m):
    changes = {**WEIGHTS, "prune.pattern": pattern, "prune.ignore": ["conv1"], "batch_norm": None}
    plain, permuted = jobs.pruned(changes), jobs.pruned({**changes, "prune.permute": True})
    size = {}
    for key, result in {"plain": plain, "permuted": permuted}.items():
        weights = {name: weight for name, weight in prunable_weights(result.network.module).items()
                   if name not in ("conv1.weight", "fc.weight")}  # fmt: skip
        kept = Mask({name: weight != 0 for name, weight in weights.items()})
        assert follows_n_of_m(kept, n=n, m=m, layouts=layouts(result.network.module))
        size[key] = sum(float(weight.abs().sum()) for weight in weights.values())
    assert size["permuted"] > 1.003 * size["plain"]
    [note] = permuted.notes
    assert re.match(rf"Channels of \d+ groups were put into another order \(outputs .* {pattern} keeps \d\d", note)


def test_a_permutation_is_for_patterns():
    with pytest.raises(RecipeError, match="permute is for patterns N:M"):
        jobs.recipe({**WEIGHTS, "prune.permute": True, "prune.sparsity": 0.5})


# In which steps


@pytest.mark.parametrize(
    ("structure", "schedule"),
    [("channel", "iterative"), *(("weight", name) for name in ("linear", "iterative", "cubic", "cosine", "crop_it"))],
)
def test_every_schedule_ends_at_the_target(schedule, structure):
    result = jobs.pruned(
        {
            "prune.structure": structure, "prune.sparsity": 0.6,
            "prune.schedule": {"name": schedule, "steps": 3, "epochs": 0},
        }
    )  # fmt: skip
    reached = result.row.reached["sparsity" if structure == "weight" else "channels"]
    assert 0.6 - 1e-4 <= reached < 0.65
    assert result.row.target.endswith(f"in 3 steps ({schedule})")


def test_masks_survive_training_between_the_steps_and_the_fine_tuning():
    result = jobs.pruned(
        {**WEIGHTS, **jobs.FINE_TUNING, "prune.sparsity": 0.8, "prune.schedule": {"name": "cubic", "steps": 2}}
    )
    weights = [weight for name, weight in prunable_weights(result.network.module).items() if name != "fc.weight"]
    share = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    assert share == pytest.approx(0.8, abs=1e-3)
    assert any(not torch.equal(weight, prunable_weights(dense().module)["conv1.weight"]) for weight in weights)


@pytest.mark.parametrize("structure", ["channel", "weight"])
def test_rewound_weights_are_those_of_the_beginning(structure):
    changes = {
        **jobs.FINE_TUNING, "prune.structure": structure, "prune.sparsity": 0.5,
        "prune.schedule": {"name": "linear", "steps": 2, "rewind": True, "dense_epochs": 1},
    }  # fmt: skip
    from sparsense.pipeline.steps import journey

    with jobs.job(changes) as job:
        found = journey(job, 0.5, None).now
    before = {name: set(weight.flatten().tolist()) for name, weight in prunable_weights(dense().module).items()}
    for name, weight in prunable_weights(found.network.module).items():
        kept = weight[found.mask.keep[name]] if name in found.mask.keep else weight
        assert set(kept.flatten().tolist()) <= before[name], name
    assert found.reached == pytest.approx(0.5, abs=0.03)


def test_early_crop_waits_for_the_weights_to_slow_down():
    told = []
    changes = {
        "network.weights": None, "finetune": {"epochs": 1, "batch_size": 32, "learning_rate": 1e-5},
        "prune.structure": "weight", "prune.criterion": "crop", "prune.sparsity": 0.6, "sensitivity.samples": 20,
        "prune.schedule": {"name": "early_crop", "dense_epochs": 9, "steps": 2, "epochs": 0},
    }  # fmt: skip
    jobs.pruned(changes, progress=lambda what, done, of: told.append((what, done, of)))
    assert [(done, of) for what, done, of in told if what == "pruning"] == [(1, 2), (2, 2)]
    epochs = [done / (of / 9) for what, done, of in told if what == "training the dense network"]
    assert 3 <= max(epochs) < 9  # it needs three epochs to see two distances; such a learning rate slows down at once


@pytest.mark.parametrize(("schedule", "first"), [("crop_it", 0.4), ("early_crop", 0.25)])
def test_small_targets_are_reached_at_once_or_from_a_quarter_on(schedule, first):
    """Published so: CroP-it begins at a half, EarlyCroP at a quarter where less than a half is asked."""
    from sparsense.pipeline.steps import journey

    changes = {
        **WEIGHTS, "prune.sparsity": 0.4, "finetune": {"epochs": 1, "batch_size": 160},
        "prune.schedule": {"name": schedule, "steps": 2, "epochs": 0, "dense_epochs": 1},
    }  # fmt: skip
    seen = []
    with jobs.job(changes) as job:
        job.scorer.saliency = watching(job.scorer.saliency, seen)
        assert journey(job, 0.4, None).now.reached == pytest.approx(0.4, abs=1e-4)
    assert seen == pytest.approx([0, first], abs=1e-3)  # as the network was before each step


def watching(saliency, seen):
    def watched(network):
        weights = [weight for name, weight in prunable_weights(network.module).items() if name != "fc.weight"]
        seen.append(sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights))
        return saliency(network)

    return watched


# Exact compaction


def test_channels_that_masks_have_emptied_go_at_the_end_and_nothing_changes():
    changes = {**WEIGHTS, **jobs.FINE_TUNING, "prune.sparsity": 0.97}
    masked, compacted = jobs.pruned(changes), jobs.pruned({**changes, "prune.compact": True})
    before, after = cost(masked.network), cost(compacted.network)
    assert after.parameters < before.parameters
    x = torch.rand(3, *masked.network.input_shape)
    torch.testing.assert_close(compacted.network.module(x), masked.network.module(x), rtol=1e-5, atol=1e-5)
    [note] = compacted.notes
    gone = sum(widths(masked).values()) - sum(widths(compacted).values())
    assert note.startswith(f"{gone} dead channels were removed, and with them ")
    assert f"{1 - after.multiply_adds / before.multiply_adds:.1%} of the multiply-adds" in note
    assert compacted.row.reached["sparsity"] == masked.row.reached["sparsity"]
    assert compacted.row.reached["bytes"] > masked.row.reached["bytes"]


def test_compacting_is_for_masks():
    with pytest.raises(RecipeError, match="compact removes channels that masks have emptied"):
        jobs.recipe({"prune.compact": True})


# Learnt masks


@pytest.mark.parametrize(
    ("init", "objective"),
    [
        ("hydra", "cross_entropy"),
        ("hydra", "adversarial"),
        ("edge_popup", "outlier_exposure"),
        ("edge_popup", "noise"),
    ],
)
def test_subnetworks_keep_the_weights_they_had(init, objective):
    changes = {
        **WEIGHTS, "prune.sparsity": 0.5, "batch_norm": None,
        "prune.search": {"init": init, "epochs": 1, "batch_size": 40, "objective": objective},
        "data.outliers": {"source": "noisy_digits", "limit": 30},
    }  # fmt: skip
    result = jobs.pruned(changes)
    before = prunable_weights(dense().module)
    for name, weight in prunable_weights(result.network.module).items():
        assert torch.equal(weight[weight != 0], before[name][weight != 0])
    assert result.row.reached["sparsity"] == pytest.approx(0.5, abs=1e-4)
    assert result.row.criterion == f"learnt mask ({objective}, from {init})"


def test_a_search_moves_the_mask():
    search = {"epochs": 3, "batch_size": 32, "learning_rate": 0.05}
    start = jobs.pruned({**WEIGHTS, "prune.search": {**search, "epochs": 1, "learning_rate": 1e-9}})
    end = jobs.pruned({**WEIGHTS, "prune.search": search})
    assert not jobs.same(start, end)


# Objectives and scores


@pytest.mark.parametrize("name", ["adversarial", "cross_entropy", "distillation", "noise", "outlier_exposure"])
def test_objectives_for_classifiers_can_fine_tune(name):
    assert name in OBJECTIVES
    changes = {
        "finetune": {"epochs": 1, "batch_size": 80, "objective": name},
        "data.outliers": {"source": "noisy_digits", "limit": 30},
    }
    result = jobs.pruned(changes)
    assert all(torch.isfinite(parameter).all() for parameter in result.network.module.parameters())


def test_distillation_learns_from_the_dense_network():
    changes = {"finetune": {"epochs": 2, "objective": {"name": "distillation", "options": {"weight": 1.0}}}}
    result, plain = jobs.pruned(changes), jobs.pruned({})
    x = torch.randn(16, 1, 16, 16)
    teacher = dense().module(x).softmax(1).detach()

    @torch.no_grad()
    def distance(found):
        return float((found.network.module(x).softmax(1) - teacher).square().sum())

    assert distance(result) < distance(plain)


def test_the_teacher_is_the_network_that_was_trained_first():
    changes = {
        "network.weights": None, "finetune": {"epochs": 1, "batch_size": 40, "objective": "distillation"},
        "prune.schedule": {"name": "linear", "steps": 1, "dense_epochs": 1},
    }  # fmt: skip
    from sparsense.pipeline.steps import journey

    with jobs.job(changes) as job:
        assert job.teacher() is job.dense.module
        journey(job, 0.3, None)
        x = torch.randn(4, 1, 16, 16)
        assert not torch.allclose(job.teacher()(x), job.dense.module(x))


@pytest.mark.parametrize("criterion", ["score_fisher", "gate_score_fisher"])
@pytest.mark.parametrize("score", ["energy", "max_softmax"])
def test_criteria_judge_by_a_detection_score(criterion, score):
    from sparsense.recording.losses import LOSSES

    with jobs.job({"prune.criterion": criterion, "sensitivity.loss": score, "sensitivity.samples": 12}) as job:
        found = job.scorer.saliency(job.dense)
        sample = job.data.subset(12, seed=0)
        inputs = torch.from_numpy(job.dense.preprocessing.apply(sample.inputs))
        module, name = job.dense.module, "stages.1.conv1.weight"
        weight = prunable_layers(module)[name].weight
        expected = torch.zeros_like(weight, dtype=torch.float64)
        for x in inputs:
            (slope,) = torch.autograd.grad(LOSSES[score](module(x[None]), x[None], None).sum(), weight)
            product = (weight * slope).double().detach()
            if criterion == "score_fisher":
                expected += product.square() / len(inputs)
            else:  # no bias: a gate's sensitivity is the sum of its weights'
                expected += product.flatten(1).sum(1).square()[:, None, None, None] / len(inputs) / weight[0].numel()
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-3 * float(expected.max()))


def test_a_score_criterion_refuses_the_class_loss():
    with pytest.raises(InputError, match="'score_fisher' needs a record of a detection score"):
        jobs.pruned({"prune.criterion": "score_fisher"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"finetune": {"objective": "distilation"}},
            r"finetune.objective.name: unknown .* Did you mean 'distillation'",
        ),
        ({"finetune": {"objective": {"name": "noise", "options": {"strenght": 2}}}}, "Did you mean 'strength'"),
        ({"finetune": {"objective": "outlier_exposure"}}, r"learns from outliers: name them in data\.outliers"),
        ({"train": {"objective": "distillation"}}, "so it is for finetune"),
    ],
)
def test_unknown_objectives_are_refused_before_anything_runs(changes, message):
    with pytest.raises(RecipeError, match=message):
        jobs.recipe(changes)


def test_other_layouts_of_images_are_trained_alike():
    one, other = (jobs.pruned({**jobs.FINE_TUNING, "export.layout": layout}) for layout in ("NHWC", "NCHW"))
    assert jobs.same(one, other)


# Other networks


def own(name):
    return {"network": {"source": f"odd_networks:{name}", "weights": None}, "batch_norm": None}


def test_what_cannot_be_cut_stops_the_job_or_is_left_alone_and_told():
    with pytest.raises(UnsupportedLayerError, match="ignore 'first'"):
        jobs.pruned({**own("Shuffled"), "prune.sparsity": 0.2})
    result = jobs.pruned({**own("Shuffled"), "prune.sparsity": 0.2, "prune.unsupported": "keep"})
    assert widths(result)["first.weight"] == 8
    assert widths(result)["second.weight"] < 12
    (note,) = result.notes
    assert note.startswith("Left alone, as it cannot be cut: first: ")


@pytest.mark.parametrize("align", [None, "measure", "each_group"])
def test_what_cannot_be_cut_keeps_its_width_when_the_others_are_aligned(monkeypatch, align):
    def times(_self, modules):  # the wider the faster
        return {name: 1 / sum(map(len, prunable_weights(module).values())) for name, module in modules.items()}

    monkeypatch.setattr("sparsense.pipeline.timing.Stopwatch.side_by_side", times)
    result = jobs.pruned({**own("Shuffled"), "prune.sparsity": 0.2, "prune.unsupported": "keep", "prune.align": align})
    shipped = {name: len(weight) for name, weight in prunable_weights(result.shipped.module).items()}
    assert shipped["first.weight"] == 8
    assert shipped["second.weight"] == 16


def test_attention_heads_go_whole():
    result = jobs.pruned({**own("Transformer"), "prune.structure": "head", "prune.sparsity": 0.5})
    assert result.network.module.attention.num_heads == 2
    assert result.row.reached["attention heads"] == 0.5
    assert result.row.target == "50% of the attention heads"


def test_autoencoders_are_pruned_and_trained_by_their_error():
    changes = {**own("Autoencoder"), "sensitivity.loss": "reconstruction", "prune.criterion": "taylor"}
    result = jobs.pruned({**changes, "prune.sparsity": 0.4, "finetune": {"epochs": 3, "learning_rate": 0.1}})
    start = jobs.pruned({**changes, "prune.sparsity": 0.4})
    with jobs.job(changes) as job:
        x = torch.from_numpy(job.dense.preprocessing.apply(job.data.inputs))

    @torch.no_grad()
    def error(found):
        return float((found.network.module(x) - x).square().mean())

    assert error(result) < error(start)
    assert widths(result)["encode.weight"] < 8
