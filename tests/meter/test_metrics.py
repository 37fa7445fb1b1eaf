import math
from dataclasses import replace

import numpy as np
import pytest

from mfu_callback import model_flops_utilization
from mfu_callback.meter.clock import WAITS, Phase
from mfu_callback.meter.done import Done
from mfu_callback.meter.metrics import Window, logged_values, waterfall
from mfu_callback.meter.tags import TAGS
from mfu_callback.meter.totals import Amounts, Totals, WaitsOfSteps, totals_of


def test_mfu_is_shared_among_devices():
    assert model_flops_utilization(1000.0, 6e9, 1e12, devices=8) == 0.75


@pytest.mark.parametrize(("peak", "devices"), [(0.0, 1), (-1.0, 1), (1e12, 0)])
def test_mfu_without_a_device_is_an_error(peak, devices):
    wrong = r"peak_flops_per_sec=.*must be above 0 and finite" if devices else "devices=0 must be a whole number"
    with pytest.raises(ValueError, match=wrong):
        model_flops_utilization(1.0, 1.0, peak, devices)


RANK = Totals(
    steps=4,
    samples=32,
    tokens=4096,
    real_tokens=3072,
    loss_tokens=2048,
    flops=6e12,
    recomputed_flops=1e12,
    data_sec=1.0,
    forward_sec=2.0,
    backward_sec=4.0,
    optimizer_sec=2.0,
    other_sec=1.0,
)
TOTALS = ("total/tokens", "total/samples", "total/flops", "total/device_hours")
PEAKS = {"peak_flops_per_sec": 2e12, "achievable_flops_per_sec": 1.5e12}


def test_every_tag_of_a_window_on_one_device():
    done = Done(steps=6, samples=48, tokens=6144, flops=9e12, device_sec=36.0)
    values = logged_values(Window(ranks=(replace(RANK, **PEAKS, done=done),)))
    assert values == {
        "throughput/tokens_per_sec": 409.6,
        "throughput/real_tokens_per_sec": 307.2,
        "throughput/loss_tokens_per_sec": 204.8,
        "throughput/samples_per_sec": 3.2,
        "throughput/device/tokens_per_sec": 409.6,
        "throughput/device/tflops_per_sec": 0.6,
        "throughput/mfu": 0.3,
        "throughput/mfu_achievable": 0.4,
        "throughput/hfu": pytest.approx(0.35),
        "time/step_sec": 2.5,
        "waterfall/mfu": pytest.approx(0.3),
        "waterfall/unreachable": pytest.approx(0.1),  # 4 s at the achievable peak, 3 s at the peak, of 10 s
        "waterfall/kernels": pytest.approx(0.2),
        "waterfall/data": 0.1,
        "waterfall/optimizer": 0.2,
        "waterfall/other": 0.1,
        "total/tokens": 6144,
        "total/samples": 48,
        "total/flops": 9e12,
        "total/device_hours": 0.01,
    }
    assert sum(value for name, value in values.items() if name.startswith("waterfall/")) == pytest.approx(1, abs=1e-12)


def test_rates_add_up_over_devices_and_mfu_is_per_device():
    rank = replace(RANK, peak_flops_per_sec=2e12)
    one = logged_values(Window(ranks=(rank,)))
    two = logged_values(Window(ranks=(rank, rank)))
    assert two["throughput/tokens_per_sec"] == 2 * one["throughput/tokens_per_sec"]
    assert two["throughput/samples_per_sec"] == 2 * one["throughput/samples_per_sec"]
    same = (
        "throughput/device/tokens_per_sec",
        "throughput/device/tflops_per_sec",
        "throughput/mfu",
        "throughput/hfu",
        "time/step_sec",
    )
    assert {tag: two[tag] for tag in same} == {tag: one[tag] for tag in same}


@pytest.mark.parametrize(
    ("unknown", "absent"),
    [
        ("tokens", {"throughput/tokens_per_sec", "throughput/device/tokens_per_sec"}),
        ("samples", {"throughput/samples_per_sec"}),
        ("real_tokens", {"throughput/real_tokens_per_sec"}),
        ("loss_tokens", {"throughput/loss_tokens_per_sec"}),
        ("recomputed_flops", {"throughput/hfu"}),
        (
            "flops",
            {"throughput/device/tflops_per_sec", "throughput/mfu", "throughput/mfu_achievable", "throughput/hfu"}
            | {tag.name for tag in TAGS if tag.name.startswith("waterfall/")},
        ),
    ],
)
def test_what_is_unknown_is_left_out_and_nothing_else(unknown, absent):
    rank = replace(RANK, **PEAKS)
    logged = logged_values(Window(ranks=(rank, replace(rank, **{unknown: math.nan}))))
    of_devices = {tag.name for tag in TAGS if tag.name.startswith(("memory/", "gpu/"))}
    assert {tag.name for tag in TAGS} - set(logged) == absent | of_devices


def test_the_totals_add_up_over_devices_and_over_what_was_carried_and_are_left_out_where_one_is_unknown():
    one = Done(steps=6, samples=48, tokens=6144, flops=9e12, device_sec=36.0)
    carried = Done(steps=4, samples=2, tokens=math.nan, flops=1e12, device_sec=3600.0)
    rank, other = replace(RANK, done=one), replace(RANK, done=replace(one, samples=24, flops=math.nan))
    values = logged_values(Window(ranks=(rank, rank), carried=carried))
    assert {name: values.get(name) for name in TOTALS} == {
        "total/tokens": None,
        "total/samples": 98,
        "total/flops": 19e12,
        "total/device_hours": 1.02,
    }
    assert Window(ranks=(rank, other), carried=carried).done.steps == 10
    assert logged_values(Window(ranks=(rank, other)))["total/samples"] == 72
    assert "total/flops" not in logged_values(Window(ranks=(rank, other)))


def test_without_a_peak_there_is_no_mfu_but_all_rates():
    values = logged_values(Window(ranks=(RANK,)))
    assert set(values) == {
        "throughput/tokens_per_sec",
        "throughput/real_tokens_per_sec",
        "throughput/loss_tokens_per_sec",
        "throughput/samples_per_sec",
        "throughput/device/tokens_per_sec",
        "throughput/device/tflops_per_sec",
        "time/step_sec",
        *TOTALS,
    }


def test_the_fastest_and_the_slowest_of_several_devices():
    slow = replace(RANK, backward_sec=8.0)
    values = logged_values(Window(ranks=(RANK, slow)))
    assert (values["time/step_sec_min"], values["time/step_sec"], values["time/step_sec_max"]) == (2.5, 3.0, 3.5)


def test_the_phases_of_a_step_sum_to_it():
    phases = Window(ranks=(RANK, RANK)).phases_sec
    assert phases == {"data": 0.25, "forward": 0.5, "backward": 1.0, "optimizer": 0.5, "other": 0.25}


def test_devices_of_different_peaks_are_measured_against_their_mean():
    ranks = tuple(replace(RANK, peak_flops_per_sec=peak) for peak in (1e12, 3e12))
    assert logged_values(Window(ranks=ranks))["throughput/mfu"] == 0.3
    one_unknown = (ranks[0], replace(RANK, peak_flops_per_sec=math.nan))
    assert "throughput/mfu" not in logged_values(Window(ranks=one_unknown))


def test_totals_of_two_stretches_add_up_and_the_devices_state_is_the_later_one():
    later = replace(RANK, peak_flops_per_sec=2e12, peak_memory_bytes=5.0)
    both = replace(RANK, peak_flops_per_sec=1e12, peak_memory_bytes=7.0) + later
    assert (both.steps, both.peak_flops_per_sec, both.peak_memory_bytes) == (8, 2e12, 5.0)


def test_the_peak_memory_is_that_of_the_fullest_device():
    ranks = tuple(Totals(steps=1, other_sec=1.0, peak_memory_bytes=gib * 2**30) for gib in (3, 5))
    assert logged_values(Window(ranks=ranks))["memory/peak_gib"] == 5


def test_without_a_measured_peak_nothing_is_unreachable():
    parts = waterfall(data_sec=1, forward_backward_sec=7, optimizer_sec=1, other_sec=1, ideal_sec=5)
    assert parts == {
        "mfu": 0.5,
        "unreachable": 0,
        "kernels": pytest.approx(0.2),
        "communication": 0,
        "waiting": 0,
        "data": 0.1,
        "optimizer": 0.1,
        "other": 0.1,
    }


@pytest.mark.parametrize(
    ("ideal_sec", "reachable_sec", "expected"),
    [
        (5.0, 1.0, (0.5, 0.2, 0.0)),  # a peak= that is far below what the device was measured at
        (7.0, 1.0, (0.7, 0.0, 0.0)),
        (40.0, 7.0, (0.7, 0.0, 0.0)),  # the peak must be wrong
        (40.0, 80.0, (0.7, 0.0, 0.0)),
        (6.0, 12.0, (0.6, 0.0, 0.1)),
        (2.0, 4.0, (0.2, 0.3, 0.2)),
    ],
)
def test_no_part_is_negative_whatever_the_peaks_are(ideal_sec, reachable_sec, expected):
    parts = waterfall(
        data_sec=1,
        forward_backward_sec=7,
        optimizer_sec=1,
        other_sec=1,
        ideal_sec=ideal_sec,
        reachable_sec=reachable_sec,
    )
    assert (parts["mfu"], parts["kernels"], parts["unreachable"]) == pytest.approx(expected)
    assert min(parts.values()) >= 0
    assert sum(parts.values()) == pytest.approx(1, abs=1e-12)


def test_devices_that_each_run_at_their_own_peak_are_at_the_peak_together():
    fast = Totals(steps=1, flops=8e12, forward_sec=2.0, peak_flops_per_sec=4e12, achievable_flops_per_sec=4e12)
    slow = Totals(steps=1, flops=1e12, forward_sec=1.0, peak_flops_per_sec=1e12, achievable_flops_per_sec=1e12)
    window = Window(ranks=(fast, slow))
    assert window.mfu == window.mfu_achievable == pytest.approx(1.0)


def is_same(totals, others):
    """Whether all is equal, where what is not known equals what is not known."""
    rows_are_same = np.array_equal(totals.as_row(), others.as_row(), equal_nan=True)
    return rows_are_same and totals.flops_of_dtypes == others.flops_of_dtypes


def test_totals_survive_the_way_through_a_row_and_add_up():
    known = replace(RANK, peak_memory_bytes=5.0)
    assert is_same(Totals.from_row(known.as_row()), known)
    both = RANK + RANK
    assert (both.steps, both.tokens, both.seconds) == (8, 8192, 20.0)


def test_validation_and_checkpoints_are_not_training_time():
    seconds = np.ones((2, len(Phase)))
    seconds[:, [Phase.VALIDATION, Phase.CHECKPOINT]] = 50.0, 70.0
    seconds[:, [*WAITS, Phase.EXCHANGE]] = 0.0
    unseen, amounts = np.zeros(2, bool), [Amounts(samples=1, tokens=2, flops=3)] * 2
    totals = totals_of([1, 2], amounts, seconds, unseen, WaitsOfSteps())
    assert (totals.steps, totals.samples, totals.tokens, totals.flops, totals.seconds) == (2, 2, 4, 6, 10.0)
    assert is_same(totals_of([], [], seconds[:0], unseen[:0], WaitsOfSteps()), Totals())


def test_time_in_which_nothing_is_multiplied_is_not_unreachable():
    slept = replace(RANK, forward_sec=RANK.forward_sec + 90, **PEAKS)
    parts = Window(ranks=(slept,)).waterfall
    assert parts["unreachable"] == pytest.approx(0.01)  # of 100 s
    assert parts["kernels"] == pytest.approx(0.92)
