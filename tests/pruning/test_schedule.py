"""Sequences of targets, and the moment to prune."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparsense.errors import InputError
from sparsense.pruning.schedule import SCHEDULES, EarlyTrigger, cubic, early_halving, exponential, halving


@given(st.sampled_from(list(SCHEDULES)), st.floats(0, 0.999), st.integers(1, 50))
def test_schedules_never_fall_and_end_at_the_target(name, sparsity, steps):
    sequence = SCHEDULES[name](sparsity, steps)
    assert len(sequence) == (1 if name == "one_shot" else steps)
    assert sequence[-1] == sparsity
    assert all(0 <= a <= b + 1e-12 for a, b in itertools.pairwise(sequence))


def test_closed_forms():
    left = [1 - s for s in exponential(0.9, 10)]
    assert [b / a for a, b in itertools.pairwise(left)] == pytest.approx([0.1**0.1] * 9)
    assert cubic(0.8, 4)[1] == pytest.approx(0.8 * (1 - 0.5**3))
    assert halving(0.9, 4) == pytest.approx([0.5, 0.7, 0.8, 0.9])
    assert halving(0.3, 3) == [0.3, 0.3, 0.3]
    assert early_halving(0.9, 4) == halving(0.9, 4)
    assert early_halving(0.5, 4) == pytest.approx([0.25, 0.375, 0.4375, 0.5])  # published: it begins at a quarter
    assert early_halving(0.2, 3) == [0.2, 0.2, 0.2]


@pytest.mark.parametrize(
    ("sparsity", "steps", "message"), [(1.0, 3, r"in \[0, 1\); got 1.0"), (0.5, 0, "at least 1 step; got 0")]
)
def test_impossible_schedules_are_refused(sparsity, steps, message):
    with pytest.raises(InputError, match=message):
        cubic(sparsity, steps)


def moving(*positions):
    """A network whose one weight is 1 plus the given position after each epoch."""
    module = nn.Linear(1, 1, bias=False)
    for position in positions:
        with torch.no_grad():
            module.weight.fill_(1 + position)
        yield module


def epochs(trigger, positions):
    return [trigger.update(module) for module in moving(*positions)]


def test_the_trigger_fires_when_the_weights_slow_down():
    # distances 1.0, 1.6, 1.9, 2.0; tau = 1.0 * (1 - 0.8) = 0.2
    trigger = EarlyTrigger(0.8)
    assert epochs(trigger, [0, 1.0, 1.6, 1.9, 2.0]) == [False, False, False, False, True]
    assert trigger.tau == pytest.approx(0.2)


def test_channels_wait_longer_and_the_deadline_ends_waiting():
    assert epochs(EarlyTrigger(0.8, "channel"), [0, 1.0, 1.6, 1.85, 1.99, 2.0]) == [False] * 5 + [True]
    assert epochs(EarlyTrigger(0.95, "channel"), [0, 1, 1, 1, 1]) == [False] * 5
    assert epochs(EarlyTrigger(0.95, "channel", deadline=3), [0, 1, 1.5]) == [False, False, True]
    assert epochs(EarlyTrigger(0.5, deadline=1), [0]) == [True]


def test_the_trigger_goes_on_after_an_interruption():
    modules = list(moving(0, 1.0, 1.6, 1.9, 2.0))
    first = EarlyTrigger(0.8)
    values = [0, 1.0, 1.6, 1.9, 2.0]
    for value in values[:3]:
        modules[0].weight.data.fill_(1 + value)
        first.update(modules[0])
    second = EarlyTrigger(0.8)
    second.load_state(first.state())
    fired = []
    for value in values[3:]:
        modules[0].weight.data.fill_(1 + value)
        fired.append(second.update(modules[0]))
    assert fired == [False, True]


def test_another_network_or_structure_is_refused():
    trigger = EarlyTrigger(0.5)
    trigger.update(nn.Linear(2, 2))
    with pytest.raises(InputError, match="watches one network"):
        trigger.update(nn.Linear(3, 2))
    with pytest.raises(InputError, match="structure must be weight or channel; got 'row'"):
        EarlyTrigger(0.5, "row")
