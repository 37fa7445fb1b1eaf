"""Which device the others wait for, and what of the waiting is the collectives' own."""

from dataclasses import replace

import numpy as np
import pytest

from mfu_callback.meter.clock import Phase
from mfu_callback.meter.devices import device_figures, pace_setter_of
from mfu_callback.meter.metrics import Window, logged_values
from mfu_callback.meter.totals import Amounts, Totals, WaitsOfSteps, totals_of
from mfu_callback.meter.waits import StepWaits, Together

PEAKS = {"peak_flops_per_sec": 1e12, "achievable_flops_per_sec": 1e12}
COLLECTIVE = 0.01  # seconds that the gradients' synchronization takes, on whichever device comes last


def totals(steps, numbers=None, seen=None):
    """Totals of steps, each of them the seconds of its phases."""
    seconds = np.zeros((len(steps), len(Phase)))
    for row, phases in zip(seconds, steps, strict=True):
        for phase, sec in phases.items():
            row[phase] = sec
    seen = seen or [True] * len(steps)
    amounts = [Amounts(flops=1e9, tokens=1, samples=1)] * len(steps)
    return totals_of(numbers or list(range(1, len(steps) + 1)), amounts, seconds, np.array(seen), WaitsOfSteps())


def ddp(*late, base=0.05):
    """The totals of some devices under DDP; each gives, per step, the phase in which it is late and by how much."""
    delays = np.array([[sec for _, sec in steps] for steps in late])
    waits = delays.max(axis=0) - delays + COLLECTIVE
    ranks = []
    for own, waited in zip(late, waits, strict=True):
        phases = [
            {Phase.FORWARD: base + (sec if phase == Phase.FORWARD else 0.0), Phase.BACKWARD_WAIT: wait}
            | ({phase: sec} if phase != Phase.FORWARD else {})
            for (phase, sec), wait in zip(own, waited, strict=True)
        ]
        ranks.append(replace(totals(phases), **PEAKS))
    return ranks


def told(ranks):
    window = Window(ranks=tuple(ranks))
    step_sec = ranks[window.pace_setter].seconds / ranks[0].steps
    parts = {part: share * step_sec for part, share in window.waterfall.items()}
    return parts, pace_setter_of(device_figures(ranks, ["a"] * len(ranks)), window.pace_setter, window.together)


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize(
    ("phase", "part", "name"),
    [
        (Phase.DATA, "data", "data"),
        (Phase.FORWARD, "kernels", "forward"),
        (Phase.BACKWARD, "kernels", "backward"),
        (Phase.OPTIMIZER, "optimizer", "optimizer"),
        (Phase.OTHER, "other", "other"),
    ],
)
def test_a_loss_belongs_to_the_device_that_causes_it(devices, phase, part, name):
    slow, quick = [(phase, 0.04)] * 8, [(phase, 0.0)] * 8
    ranks = ddp(*([quick] * (devices - 1)), slow)
    parts, pace = told(ranks)
    assert parts[part] - (0.049 if part == "kernels" else 0) == pytest.approx(0.04)  # and a millisecond of MFU
    assert (parts["communication"], parts["waiting"]) == pytest.approx((COLLECTIVE, 0.0), abs=1e-12)
    assert (pace.rank, pace.phase, pace.behind_sec, pace.late_share) == (devices - 1, name, pytest.approx(0.04), 1.0)
    assert pace.is_constant


def test_devices_that_are_late_in_turn_wait_and_none_sets_the_pace():
    late, quick = (Phase.FORWARD, 0.04), (Phase.FORWARD, 0.0)
    parts, pace = told(ddp([late, quick] * 4, [quick, late] * 4))
    assert parts["communication"] == pytest.approx(COLLECTIVE)
    assert parts["waiting"] == pytest.approx(0.02)
    assert parts["kernels"] == pytest.approx(0.05 + 0.02 - 0.001)
    assert pace is None


def test_a_device_that_is_slow_now_and_then_is_told_from_one_that_is_slow_all_the_time():
    quick = (Phase.DATA, 0.0)
    _, pace = told(ddp([quick] * 10, [*[quick] * 8, *[(Phase.DATA, 0.2)] * 2]))
    assert (pace.rank, pace.phase, pace.behind_sec) == (1, "data", pytest.approx(0.04))
    assert (pace.late_share, pace.is_constant) == (0.2, False)


def test_equal_devices_have_no_pace_setter_and_their_waiting_is_communication():
    quick = [(Phase.DATA, 0.0)] * 8
    ranks = ddp(quick, quick)
    parts, pace = told(ranks)
    assert pace is None
    assert (parts["communication"], parts["waiting"]) == (pytest.approx(COLLECTIVE), 0.0)
    logged = logged_values(Window(ranks=tuple(ranks)))
    assert sum(value for tag, value in logged.items() if tag.startswith("waterfall/")) == pytest.approx(1, abs=1e-12)
    assert {"waterfall/communication", "waterfall/waiting"} <= set(logged)


def test_the_pace_setter_alone_decides_the_parts_where_batches_are_uneven():
    ranks = ddp([(Phase.FORWARD, 0.0)] * 4, [(Phase.FORWARD, 0.04)] * 4)
    ranks[1] = replace(ranks[1], flops=3 * ranks[1].flops)
    parts, _ = told(ranks)
    assert parts["mfu"] == pytest.approx(0.003)
    assert sum(parts.values()) == pytest.approx(ranks[1].seconds / 4)


def test_a_single_device_has_no_figures_of_devices():
    assert device_figures([totals([{Phase.FORWARD: 1.0}])]) is None
    assert pace_setter_of(None, 0, Together.of([StepWaits()], 1.0)) is None


def test_the_figures_of_a_device_sum_to_its_step():
    for one in device_figures(ddp([(Phase.DATA, 0.03)] * 3, [(Phase.DATA, 0.0)] * 3)):
        assert sum(one.phases_sec.values()) + one.waits_sec == pytest.approx(one.step_sec) == pytest.approx(0.09)


# Steps in which waiting is not measured


def test_waiting_that_is_measured_in_some_steps_is_taken_for_as_long_in_the_others():
    seen, unseen = {Phase.FORWARD: 0.02, Phase.FORWARD_WAIT: 0.03}, {Phase.FORWARD: 0.05}
    known = totals([seen, unseen, unseen, unseen], seen=[True, False, False, False])
    assert known.seconds == pytest.approx(0.2)
    assert (known.forward_waits_sec, known.own_sec("forward")) == pytest.approx((0.12, 0.08))
    assert np.isnan(known.step_waits.seconds[-3:]).all()
    assert known.step_waits.seconds[-4] == pytest.approx(0.03)


def test_an_estimate_is_never_longer_than_the_phase():
    known = totals([{Phase.FORWARD_WAIT: 0.03}, {Phase.FORWARD: 0.01}], seen=[True, False])
    assert (known.forward_waits_sec, known.own_sec("forward")) == pytest.approx((0.04, 0.0))


def test_a_window_without_a_measured_step_has_the_mean_of_those_before():
    waits, seconds = WaitsOfSteps(), np.zeros((2, len(Phase)))
    seconds[:, Phase.BACKWARD_WAIT], seconds[:, Phase.BACKWARD] = (0.01, 0.03), 1.0
    totals_of([1, 2], [Amounts()] * 2, seconds, np.array([True, True]), waits)
    seconds[:, Phase.BACKWARD_WAIT] = 0.0
    assert totals_of(
        [3, 4], [Amounts()] * 2, seconds, np.array([False, False]), waits
    ).backward_waits_sec == pytest.approx(0.04)


def test_the_exchange_of_metrics_is_waiting_and_counts_once():
    seen = {Phase.OTHER: 0.001, Phase.OTHER_WAIT: 0.04}
    exchanged = {Phase.OTHER: 0.001, Phase.EXCHANGE: 0.04}
    known = totals([seen, exchanged], seen=[True, False])
    assert known.other_sec == pytest.approx(0.082)
    assert known.other_waits_sec == pytest.approx(0.08)


# The waiting step by step


def test_steps_are_compared_by_their_numbers():
    first = StepWaits.of([3, 4, 5], np.array([0.1, 0.2, 0.3]))
    second = StepWaits.of([4, 5, 6], np.array([0.1, 0.4, 0.9]))  # its device is a step ahead
    together = Together.of([first, second], 1.0)
    assert together.steps == 2
    assert together.shortest_sec == pytest.approx(0.1 + 0.3)
    assert together.waits_sec == pytest.approx([0.5, 0.5])


def test_of_a_long_window_the_latest_steps_are_kept():
    waits = StepWaits.of(list(range(1, 101)), np.arange(1, 101.0))
    assert (waits.seconds[-1], waits.seconds[0]) == (100, 37)
    assert StepWaits.of([1], np.array([7.0])).followed_by(waits).seconds.tolist() == waits.seconds.tolist()
    both = StepWaits.of([1, 2], np.array([1.0, 2.0])).followed_by(StepWaits.of([3], np.array([3.0])))
    assert both.seconds[-3:].tolist() == [1, 2, 3]
    assert both.followed_by(StepWaits()) is both


def test_the_waiting_survives_the_way_through_a_row():
    ranks = ddp([(Phase.DATA, 0.03)] * 3, [(Phase.DATA, 0.0)] * 3)
    back = [Totals.from_row(rank.as_row()) for rank in ranks]
    assert told(back) == told(ranks)
    assert len({len(rank.as_row()) for rank in (*ranks, Totals())}) == 1


def test_two_windows_together_are_their_sums():
    early, late = (
        ddp([(Phase.DATA, 0.03)] * 3, [(Phase.DATA, 0.0)] * 3),
        ddp([(Phase.DATA, 0.0)] * 2, [(Phase.DATA, 0.0)] * 2),
    )
    together = Window(ranks=tuple(early)).together + Window(ranks=tuple(late)).together
    assert (together.steps, together.shortest_sec) == (5, pytest.approx(5 * COLLECTIVE))
    assert together.late_share(0) == 0.6
    assert Together.of([StepWaits(), StepWaits()], 1.0).share_of_collectives(0) == 1.0
