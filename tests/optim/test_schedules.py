"""Schedules: where they start, peak and end."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpumlp.errors import ConfigError
from gpumlp.optim import SCHEDULES, Schedule

EPOCHS, BATCHES = 20, 5


def run(name, *, warmup=0.0, rate=0.1, epochs=EPOCHS, batches=BATCHES, **hyper):
    schedule = Schedule(name, learning_rate=rate, warmup=warmup, **hyper)
    return np.concatenate([schedule.rates(e, batches, epochs) for e in range(epochs)])


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_every_schedule_gives_a_rate_for_each_batch(name, warmup):
    rates = run(name, warmup=warmup)
    assert rates.shape == (EPOCHS * BATCHES,)
    assert rates.dtype == np.float64
    assert ((rates >= 0) if name == "coslog" else (rates > 0)).all()  # the valleys of cycles are at 0
    assert rates[0] > 0 or (name, warmup) == ("coslog", 0.0)
    assert (rates <= 0.1 + 1e-15).all()
    np.testing.assert_allclose(run(name, warmup=warmup, rate=0.3), rates * 3, rtol=1e-12)
    assert run(name, warmup=warmup, epochs=1, batches=1).shape == (1,)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_rises_linearly_to_the_schedule(name):
    rates = run(name, warmup=0.1)
    np.testing.assert_allclose(rates[:10], 0.1 * np.arange(1, 11) / 10, rtol=1e-12)
    plain = Schedule(name, learning_rate=0.1).spec.factors
    hyper = Schedule(name, learning_rate=0.1).hyper
    first = plain(np.array([0.0]), np.array([10 / BATCHES]), **hyper)[0]
    np.testing.assert_allclose(rates[10], 0.1 * first, rtol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_settings_are_used(name):
    schedule = Schedule(name, learning_rate=0.1)
    if schedule.spec.watches:
        return  # its settings act through the losses it sees, see below
    for key, value in schedule.hyper.items():
        assert not np.array_equal(run(name, **{key: value * 0.5 + 0.01}), run(name))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("coslog", {0.0: 0, 0.05: 0.3237, 0.1: 0.7184, 0.25: 0.4935, 0.5: 0.0736, 0.75: 0.8757, 0.9: 0.1862}),
        ("flat_cos", {0.0: 1, 0.25: 1, 0.5: 1, 0.75: 0.5, 0.9: 0.0955}),
    ],
)
def test_published_values(name, expected):
    """At shares t of all steps, done before the step: 1000 epochs of one batch, and 10 epochs of 100."""
    for epochs, batches in ((1000, 1), (10, 100)):
        factors = run(name, rate=1.0, epochs=epochs, batches=batches)
        for t, value in expected.items():
            assert factors[round(1000 * t)] == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize("cycles", [1, 3, 4])
def test_each_cycle_is_twice_as_long_as_the_last(cycles):
    steps = 2000 * (2**cycles - 1)
    factors = run("coslog", rate=1.0, epochs=1, batches=steps, cycles=cycles)
    valleys = [0] + [at for at in range(1, steps - 1) if factors[at - 1] > factors[at] <= factors[at + 1]]
    assert valleys == [2000 * (2**cycle - 1) for cycle in range(cycles)]
    assert factors.max() == pytest.approx(1, abs=1e-6)
    assert factors[-1] < 1e-5


def test_constant():
    assert (run("constant") == 0.1).all()


def test_step():
    rates = run("step", every=3, factor=0.5).reshape(EPOCHS, BATCHES)
    np.testing.assert_allclose(rates, 0.1 * 0.5 ** (np.arange(EPOCHS) // 3)[:, None] * np.ones(BATCHES))


def test_exponential():
    rates = run("exponential", factor=0.9)
    np.testing.assert_allclose(rates[::BATCHES], 0.1 * 0.9 ** np.arange(EPOCHS))
    np.testing.assert_allclose(rates[1:] / rates[:-1], 0.9 ** (1 / BATCHES))


def test_cosine():
    rates, total = run("cosine", final=0.2), EPOCHS * BATCHES
    assert rates[0] == 0.1
    np.testing.assert_allclose(rates[total // 2], 0.1 * 0.6)
    last = 0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * (total - 1) / total))
    np.testing.assert_allclose(rates[-1], 0.1 * last)
    assert (np.diff(rates) < 0).all()


def test_one_cycle():
    rates = run("one_cycle", peak=0.25, start=0.1, final=0.01)
    np.testing.assert_allclose(rates[0], 0.1 * 0.1)
    assert rates.argmax() == 25
    np.testing.assert_allclose(rates[25], 0.1)
    assert (np.diff(rates[:26]) > 0).all()
    assert (np.diff(rates[25:]) < 0).all()
    assert 0.1 * 0.01 < rates[-1] < 0.1 * 0.0115


def test_plateau_reduces_after_patience_epochs_without_a_new_best():
    schedule = Schedule("plateau", learning_rate=1.0, factor=0.5, patience=2)
    seen = []
    for loss in (5, 4, 4, 4.5, 4, 3.9, 3.9, 3.9, math.nan, 4, 4, 4):
        schedule.observe(loss)
        seen.append(float(schedule.rates(0, 1, 1)[0]))
    assert seen == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625]


def test_the_state_of_plateau_is_all_that_a_resumed_run_needs():
    one = Schedule("plateau", learning_rate=1.0, patience=1)
    for loss in (2.0, 2.0, 3.0, 3.0):
        one.observe(loss)
    two = Schedule("plateau", learning_rate=1.0, patience=1)
    two.state = one.state
    for loss in (2.5, 2.5, 1.0, 1.5):
        one.observe(loss)
        two.observe(loss)
        assert one.state == two.state
        np.testing.assert_array_equal(one.rates(2, 3, 9), two.rates(2, 3, 9))
    assert one.scale < 1


@pytest.mark.parametrize("name", [n for n, spec in SCHEDULES.items() if not spec.watches])
def test_only_plateau_listens(name):
    schedule = Schedule(name, learning_rate=1.0)
    before = schedule.state
    for _ in range(20):
        schedule.observe(1.0)
    assert schedule.state == before


def test_a_run_that_goes_on_beyond_its_end_keeps_its_last_rate():
    schedule = Schedule("cosine", learning_rate=1.0, final=0.1)
    np.testing.assert_allclose(schedule.rates(7, 3, 5), 0.1)


def test_unknown_names():
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        Schedule("cosin", learning_rate=1.0)
    with pytest.raises(ConfigError, match="did you mean 'factor'"):
        Schedule("step", learning_rate=1.0, factr=0.5)
