import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sparsense.benchmark import latency
from sparsense.benchmark.latency import compare_latency, median_interval
from sparsense.errors import InputError


class Clock:
    """A clock that only the measured calls move, while the machine grows slower and slower."""

    def __init__(self, monkeypatch, drift=0.0):
        self.now, self.speed, self.drift, self.calls = 0.0, 1.0, drift, []
        self.random = np.random.default_rng(0)
        monkeypatch.setattr(latency, "perf_counter", lambda: self.now)

    def variant(self, name, seconds, noise=0.0):
        def call():
            self.calls.append(name)
            self.speed += self.drift
            self.now += seconds * self.speed * self.random.lognormal(0, noise)

        return call


def test_numbers_without_noise(monkeypatch):
    clock = Clock(monkeypatch)
    variants = {"plain": clock.variant("plain", 0.010), "half": clock.variant("half", 0.005)}
    found = compare_latency(variants, rounds=6, min_round_ms=1)
    assert found["plain"].median_ms == pytest.approx(10)
    assert found["half"].quartiles_ms == pytest.approx((5, 5))
    assert found["half"].p99_ms == pytest.approx(5)
    assert found["half"].ratio == pytest.approx(0.5)
    assert found["half"].ratio_interval == pytest.approx((0.5, 0.5))
    assert (found["plain"].verdict, found["half"].verdict) == ("baseline", "faster")
    assert (found["plain"].rounds, found["plain"].repeats) == (6, 1)


def test_the_baseline_can_be_chosen(monkeypatch):
    clock = Clock(monkeypatch)
    variants = {"plain": clock.variant("plain", 0.010), "half": clock.variant("half", 0.005)}
    found = compare_latency(variants, rounds=6, baseline="half")
    assert found["plain"].verdict == "slower"
    assert found["plain"].ratio == pytest.approx(2)
    assert found["half"].verdict == "baseline"


@pytest.mark.parametrize("drift", [0.0, 0.01])  # with 0.01 the machine becomes several times slower
def test_a_drifting_machine_does_not_change_the_ratio(drift, monkeypatch):
    equal, slower = [], []
    for seed in range(60):
        clock = Clock(monkeypatch, drift)
        clock.random = np.random.default_rng(seed)
        variants = {name: clock.variant(name, seconds, 0.05) for name, seconds in SECONDS.items()}
        found = compare_latency(variants, rounds=40, min_round_ms=0, seed=seed)
        equal.append(found["b"].verdict == "not distinguishable")
        slower.append(found["c"].verdict == "slower")
        assert found["c"].ratio == pytest.approx(1.3, rel=0.06)
    assert np.mean(equal) > 0.9  # 95 % asked
    assert all(slower)
    spread = found["a"].quartiles_ms[1] / found["a"].quartiles_ms[0]
    assert (spread > 1.3) == (drift > 0)  # absolute times do drift


SECONDS = {"a": 0.01, "b": 0.01, "c": 0.013}


def test_rounds_are_interleaved_in_random_order(monkeypatch):
    clock = Clock(monkeypatch)
    variants = {name: clock.variant(name, 0.01) for name in "abc"}
    compare_latency(variants, rounds=40, min_round_ms=0, warmup=1)
    rounds = np.reshape(clock.calls[-120:], (40, 3))
    assert {tuple(sorted(row)) for row in rounds} == {("a", "b", "c")}
    assert len({tuple(row) for row in rounds}) == 6
    assert (rounds[1::2] == rounds[::2, ::-1]).all()


def test_short_calls_are_repeated(monkeypatch):
    clock = Clock(monkeypatch)
    variants = {"short": clock.variant("short", 0.00041), "long": clock.variant("long", 0.1)}
    found = compare_latency(variants, rounds=6, min_round_ms=4)
    assert (found["short"].repeats, found["long"].repeats) == (10, 1)
    assert found["short"].median_ms == pytest.approx(0.41)
    assert found["long"].ratio == pytest.approx(0.1 / 0.00041)


def test_bad_arguments():
    with pytest.raises(InputError, match="among no variants"):
        compare_latency({})
    with pytest.raises(InputError, match="among a, b; got 'c'"):
        compare_latency({"a": int, "b": int}, baseline="c")
    with pytest.raises(InputError, match="at least 6 rounds"):
        compare_latency({"a": int}, rounds=5)


@given(st.integers(6, 300), st.sampled_from([0.8, 0.9, 0.95]))
def test_the_interval_of_the_median_is_the_sign_test(count, level):
    low, high = median_interval(np.arange(count)[::-1], level=level)
    rank = int(low)  # 0-based: so many values lie below the interval
    assert high == count - 1 - rank
    assert (
        2 * stats.binom.cdf(rank, count, 0.5) <= 1 - level + 1e-12 < 2 * stats.binom.cdf(rank + 1, count, 0.5) + 2e-12
    )


def test_the_interval_of_the_median_covers_it():
    samples = np.random.default_rng(0).exponential(size=(2000, 30))
    intervals = np.array([median_interval(row) for row in samples])
    covered = ((intervals[:, 0] <= np.log(2)) & (np.log(2) <= intervals[:, 1])).mean()
    assert covered >= 0.94
    assert covered < 0.975


def test_too_few_values_have_no_interval():
    assert median_interval(np.arange(6)) == (0, 5)
    with pytest.raises(InputError, match="5 values cannot give a 95% interval"):
        median_interval(np.arange(5))
