"""The loop against a loop written by hand, and what a run leaves behind."""

import copy
import math

import pytest
import torch
from torch import nn

from own_networks import masked
from sparsense.errors import TrainingError
from sparsense.networks import load_network
from sparsense.training import TrainingSettings, train
from sparsense.training.objectives import CrossEntropy
from sparsense.training.settings import make_optimizer


def tiny(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))


def two_batches(seed=1):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(2, 6, 3, generator=generator)
    return [(x, (x[:, 0] > 0).long()) for x in inputs]


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_it_equals_a_loop_written_by_hand(optimizer, schedule):
    settings = TrainingSettings(epochs=3, learning_rate=0.05, optimizer=optimizer, schedule=schedule, seed=4)
    module, by_hand, batches = tiny(), tiny(), two_batches()
    losses = train(module, CrossEntropy(), batches, settings=settings)

    torch.manual_seed(4)
    by_hand.train()
    hand, expected = make_optimizer(by_hand, settings), []
    for step in range(6):
        loss = nn.functional.cross_entropy(by_hand(batches[step % 2][0]), batches[step % 2][1])
        hand.zero_grad()
        loss.backward()
        for group in hand.param_groups:
            group["lr"] = settings.rates(6)[step]
        hand.step()
        expected.append(loss.item())
    assert torch.equal(weights(module), weights(by_hand))
    assert losses == pytest.approx([sum(expected[i : i + 2]) / 2 for i in (0, 2, 4)])


def test_it_learns():
    module, batches = tiny(), two_batches()
    settings = TrainingSettings(epochs=60, learning_rate=0.1, schedule="one_cycle")
    losses = train(module, CrossEntropy(), batches, settings=settings)
    assert losses[-1] < 0.2 < losses[0]
    assert all(torch.equal(module(inputs).argmax(1), labels) for inputs, labels in batches)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    runs = []
    for seed in (0, 0, 1):
        module = tiny()
        train(module, CrossEntropy(), two_batches(), settings=TrainingSettings(epochs=3, seed=seed))
        runs.append(weights(module))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_random_numbers_of_the_caller_go_on_as_if_nothing_happened():
    torch.manual_seed(5)
    expected = torch.rand(3)
    module = tiny()
    torch.manual_seed(5)
    train(module, CrossEntropy(), two_batches(), settings=TrainingSettings(epochs=1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_shrinks_weights_and_leaves_biases_and_norms_alone(optimizer):
    module = tiny()
    before = copy.deepcopy(module)
    settings = TrainingSettings(epochs=1, learning_rate=0.1, weight_decay=0.5, optimizer=optimizer, schedule="constant")
    train(module, lambda m, _: 0 * sum(p.sum() for p in m.parameters()), [0], settings=settings)
    momentum = 1.9 if optimizer == "sgd" else 1  # the first Nesterov step is 1 + 0.9 gradients long
    for name, parameter in module.named_parameters():
        factor = 1 - 0.1 * 0.5 * momentum if parameter.ndim > 1 else 1
        torch.testing.assert_close(parameter, factor * before.get_parameter(name))


def test_a_bias_for_every_number_of_an_image_does_not_decay():
    module = load_network("latent_norm_colour32").module
    decaying, left_alone = (group["params"] for group in make_optimizer(module, TrainingSettings()).param_groups)
    shapes = [tuple(parameter.shape) for parameter in left_alone]
    assert (3, 32, 32) in shapes
    assert (3, 32, 32) not in [tuple(parameter.shape) for parameter in decaying]


def test_frozen_parameters_stay_and_the_others_move():
    module = tiny()
    module[0].requires_grad_(False)
    before = copy.deepcopy(module)
    train(module, CrossEntropy(), two_batches(), settings=TrainingSettings(epochs=2))
    assert torch.equal(module[0].weight, before[0].weight)
    assert not torch.equal(module[4].weight, before[4].weight)


def test_a_module_without_anything_to_train_is_refused():
    module = tiny().requires_grad_(False)
    with pytest.raises(TrainingError, match="every parameter is frozen; set requires_grad"):
        train(module, CrossEntropy(), two_batches(), settings=TrainingSettings())


def test_a_mask_is_put_back_after_every_step():
    module = tiny()
    mask = torch.rand(8, 3) < 0.5
    seen = []

    def put_back():
        seen.append(bool(module[0].weight.detach()[~mask].any()))
        module[0].weight.data.mul_(mask)

    train(module, CrossEntropy(), two_batches(), settings=TrainingSettings(epochs=2), after_step=put_back)
    assert len(seen) == 4
    assert any(seen)  # without the hook the step would have revived the pruned weights
    assert not module[0].weight[~mask].any()


def test_every_step_is_reported():
    told = []
    settings = TrainingSettings(epochs=3)
    train(tiny(), CrossEntropy(), two_batches(), settings=settings, report=lambda *event: told.append(event))
    assert told == [("training", done, 6) for done in range(1, 7)]


@pytest.mark.parametrize("spoiled", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_with_step_rate_and_advice(spoiled):
    module, steps = tiny(), iter([1.0, 1.0, 1.0, spoiled])

    def objective(module, batch):
        return next(steps) * module(batch[0]).square().mean()

    settings = TrainingSettings(epochs=5, learning_rate=0.02, schedule="constant")
    with pytest.raises(TrainingError, match=r"at step 3, with learning rate 0\.02\. Try a tenth") as caught:
        train(module, objective, two_batches(), settings=settings)
    assert (caught.value.step, caught.value.learning_rate) == (3, 0.02)
    assert not module.training


@pytest.mark.parametrize(("schedule", "advised"), [("constant", True), ("cosine", True), ("one_cycle", False)])
def test_a_schedule_is_advised_where_it_is_another_one(schedule, advised):
    settings = TrainingSettings(epochs=1, schedule=schedule)
    with pytest.raises(TrainingError, match=r"Try a tenth of the learning rate.*not finite") as caught:
        train(nn.Linear(2, 1), lambda m, x: m(x).sum() * math.nan, [torch.ones(4, 2)], settings=settings)
    assert (", or schedule one_cycle, which warms up" in str(caught.value)) == advised


def test_weights_that_break_in_the_last_step_are_noticed():
    module = nn.Linear(2, 1)
    settings = TrainingSettings(epochs=1, learning_rate=1e38, schedule="constant", weight_decay=0)
    with pytest.raises(TrainingError, match=r"after the last step 'weight' is not finite"):
        train(module, lambda m, x: 1e3 * m(x).square().sum(), [torch.ones(4, 2)], settings=settings)


def test_answers_that_break_in_the_last_step_are_noticed():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    settings = TrainingSettings(epochs=1, learning_rate=1e30, schedule="constant", weight_decay=0)
    batch = (torch.ones(4, 2), torch.zeros(4))
    with pytest.raises(TrainingError, match=r"weights are finite, but the outputs of the network are not, .* 1e"):
        train(module, lambda m, b: m(b[0]).square().sum(), [batch], settings=settings)
    assert torch.isfinite(weights(module)).all()


def test_a_batch_of_one_sample_is_told_where_batch_norm_cannot_divide():
    with pytest.raises(TrainingError, match=r"at step 0: a batch of one sample .* larger batch_size") as caught:
        train(tiny(), CrossEntropy(), [(torch.ones(1, 3), torch.tensor([0]))], settings=TrainingSettings(epochs=1))
    assert caught.value.step == 0


def test_other_errors_of_a_network_stay_as_they_are():
    def objective(module, batch):
        raise ValueError("of the user's own code")

    with pytest.raises(ValueError, match=r"^of the user's own code$"):
        train(tiny(), objective, two_batches(), settings=TrainingSettings(epochs=1))


def test_a_buffer_that_is_infinite_from_the_start_is_no_divergence():
    module = masked()
    train(module, CrossEntropy(), two_batches(), settings=TrainingSettings(epochs=2))
    assert torch.isinf(module.mask).any()

    def spoil(module, batch):
        module.mask.fill_(math.nan)
        module.count.fill_(math.inf)
        return module.scores.weight.square().sum()

    module.register_buffer("count", torch.zeros(1))
    with pytest.raises(TrainingError, match="after the last step 'count' is not finite"):
        train(module, spoil, two_batches(), settings=TrainingSettings(epochs=1))


def test_what_an_objective_finds_impossible_is_told_with_step_and_rate():
    def objective(module, batch):
        raise TrainingError("impossible")

    settings = TrainingSettings(epochs=1, learning_rate=0.02, schedule="constant")
    with pytest.raises(TrainingError, match=r"^at step 0, with learning rate 0\.02: impossible$") as caught:
        train(tiny(), objective, two_batches(), settings=settings)
    assert (caught.value.step, caught.value.learning_rate) == (0, 0.02)


def test_the_module_trains_in_training_mode_and_ends_in_evaluation_mode():
    module, modes = tiny().eval(), []

    def objective(module, batch):
        modes.append(module.training)
        return module(batch[0]).square().mean()

    train(module, objective, two_batches(), settings=TrainingSettings(epochs=1))
    assert modes == [True, True]
    assert not module.training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs >= 1"),
        ({"learning_rate": 0.0}, "learning_rate > 0"),
        ({"learning_rate": math.nan}, "learning_rate > 0"),
        ({"weight_decay": -1.0}, "weight_decay >= 0"),
        ({"optimizer": "lion"}, "optimizer must be one of sgd, adam, adamw; got 'lion'"),
        ({"schedule": "steps"}, "schedule must be one of constant, cosine, one_cycle; got 'steps'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**settings)


def test_learning_rates_over_a_run():
    rates = {
        name: TrainingSettings(schedule=name, learning_rate=2.0).rates(100)
        for name in ("constant", "cosine", "one_cycle")
    }
    assert rates["constant"] == [2.0] * 100
    assert rates["cosine"][0] == 2.0
    assert rates["cosine"][50] == pytest.approx(1.0)
    assert rates["cosine"] == sorted(rates["cosine"], reverse=True)
    assert rates["one_cycle"][0] == pytest.approx(0.08)
    assert rates["one_cycle"].index(max(rates["one_cycle"])) == 30
    assert rates["one_cycle"][65] == pytest.approx(1.0)
    assert 0 < rates["one_cycle"][-1] < 0.01
