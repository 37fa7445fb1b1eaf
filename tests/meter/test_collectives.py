"""In which steps waiting is measured; how it is measured, tests of several processes show."""

import itertools

import pytest

from mfu_callback.meter.clock import HostTimer, StepClock
from mfu_callback.meter.collectives import CollectiveWaits, is_measured


def measured_steps(step_sec, steps=3_000):
    """The numbers of the measured steps, if each takes as long as the function says."""
    time = 0.0
    waits = CollectiveWaits(StepClock(HostTimer(lambda: time)), None)
    measured = []
    try:
        for step in range(1, steps + 1):
            waits.next_step()
            measured += [step] if waits.is_on else []
            time += step_sec(step)
    finally:
        waits.remove()
    return measured


@pytest.mark.parametrize("apart", [1, 2, 4, 8, 16])
def test_one_step_of_so_many_is_measured_and_those_of_twice_the_distance_are_among_them(apart):
    steps = [step for step in range(1, 16_001) if is_measured(step, apart)]
    assert len(steps) == pytest.approx(16_000 / apart, abs=1)
    assert max(after - before for before, after in itertools.pairwise(steps)) <= 2 * apart
    assert {step for step in range(1, 16_001) if is_measured(step, 2 * apart)} < set(steps)


@pytest.mark.parametrize("period", [2, 3, 4, 5, 8, 10, 16, 50])
def test_a_step_that_is_slow_every_so_often_is_measured_as_often_as_the_others(period):
    steps = measured_steps(lambda step: 20e-3 if step % period == 0 else 1e-3, steps=16_000)
    slow = sum(step % period == 0 for step in steps)
    assert slow == pytest.approx(len(steps) / period, rel=0.15)


def test_long_steps_are_all_measured():
    assert len(measured_steps(lambda step: 0.1)) == 3_000


def test_short_steps_are_measured_now_and_then():
    assert len(measured_steps(lambda step: 1e-4)) == pytest.approx(3_000 / 16, abs=20)


@pytest.mark.parametrize("step_sec", [1e-3, 3e-3, 10e-3, 30e-3])
def test_measuring_takes_at_most_a_thousandth_of_the_time(step_sec):
    assert len(measured_steps(lambda step: step_sec)) * 30e-6 < 1.1e-3 * 3_000 * max(step_sec, 30e-3 / 16)


def test_the_first_steps_are_measured_so_that_a_short_run_has_them():
    assert measured_steps(lambda step: 1e-4)[:16] == list(range(1, 17))
