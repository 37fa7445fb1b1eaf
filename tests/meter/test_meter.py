import math
from dataclasses import replace

import pytest
import torch

from mfu_callback import FlopCount, Peak
from mfu_callback.meter.clock import HostTimer, Phase, StepClock
from mfu_callback.meter.meter import RunMeter
from mfu_callback.meter.metrics import Window, logged_values
from mfu_callback.meter.run_peaks import RunPeaks
from tests.helpers.runs import FakeNow

CPU = torch.device("cpu")
PEAK = Peak(flops_per_sec=1e6, name="test", dtype=torch.float32, source="given")
COUNT = FlopCount(forward=32_000, thop=30_000, functional=2_000)
SMALL_COUNT = FlopCount(forward=7_000, thop=7_000, functional=0)
TOKENS = torch.zeros(4, 8, dtype=torch.long)


@pytest.fixture
def now():
    return FakeNow()


def make_meter(now, **arguments):
    return RunMeter(clock=StepClock(HostTimer(now)), device=CPU, **{"peak": PEAK, "warmup_steps": 0} | arguments)


def run_step(meter, now, batches, phases=((Phase.FORWARD, 1.0),), count=None):
    meter.begin_step()
    for batch in batches:
        meter.look_at(batch)
        if count is not None:
            meter.leave_out("counting")
            meter.flops.take(count)
        meter.add_forward()
    for phase, seconds in phases:
        meter.clock.enter(phase)
        now.seconds += seconds
    meter.end_step()


def test_the_logged_values_of_a_step_are_exact(now):
    meter = make_meter(now)
    run_step(meter, now, [TOKENS], count=COUNT)
    phases = [
        (Phase.DATA, 0.25),
        (Phase.FORWARD, 0.4),
        (Phase.BACKWARD, 0.6),
        (Phase.OPTIMIZER, 0.5),
        (Phase.OTHER, 0.25),
    ]
    run_step(meter, now, [TOKENS], phases)
    values = logged_values(Window(ranks=(meter.take_window(),)))
    assert values.pop("memory/resident_gib") > 0
    assert values == {
        "throughput/tokens_per_sec": 16.0,
        "throughput/samples_per_sec": 2.0,
        "throughput/device/tokens_per_sec": 16.0,
        "throughput/device/tflops_per_sec": 48_000 / 1e12,
        "throughput/mfu": pytest.approx(0.048),
        "time/step_sec": 2.0,
        "waterfall/mfu": pytest.approx(0.048),
        "waterfall/data": 0.125,
        "waterfall/optimizer": 0.25,
        "waterfall/other": 0.125,
        "waterfall/kernels": pytest.approx(0.452),
        "waterfall/unreachable": 0.0,
        "total/tokens": 64,  # with the step that was counted
        "total/samples": 8,
        "total/flops": 192_000,
        "total/device_hours": now.seconds / 3600,
    }


def test_warm_up_and_the_counting_step_leave_no_trace(now):
    meter = make_meter(now, warmup_steps=2)
    for seconds, count in ((50.0, COUNT), (20.0, None), (1.0, None), (3.0, None)):
        run_step(meter, now, [TOKENS], [(Phase.FORWARD, seconds)], count)
    summary = meter.summary([meter.run_totals()])
    assert (summary.steps, summary.tokens, summary.step_time_sec, summary.tokens_per_sec) == (2, 64, 2.0, 16.0)


@pytest.mark.parametrize("count", [COUNT, None])
def test_without_warm_up_the_step_that_counts_or_fails_to_is_left_out_all_the_same(now, count):
    meter = make_meter(now)
    meter.begin_step()
    meter.look_at(TOKENS)
    meter.leave_out("counting")
    meter.flops.take(count)
    meter.end_step()
    assert meter.run_totals().steps == 0


def test_all_micro_batches_of_a_step_are_its_own_and_each_shape_has_its_flops(now):
    meter = make_meter(now)
    run_step(meter, now, [TOKENS], count=COUNT)
    run_step(meter, now, [TOKENS[:1]], count=SMALL_COUNT)
    run_step(meter, now, [TOKENS, TOKENS[:1]])
    totals = meter.take_window()
    assert (totals.tokens, totals.samples, totals.flops) == (40, 5, 3 * (32_000 + 7_000))


def test_tokens_and_images_in_turns_have_each_their_own_flops(now):
    meter = make_meter(now)
    images = torch.zeros(8, 3, 4, 4)
    run_step(meter, now, [images], count=SMALL_COUNT)
    run_step(meter, now, [TOKENS], count=COUNT)
    for batch in (images, TOKENS, images):
        run_step(meter, now, [batch])
    totals = meter.take_window()
    assert math.isnan(totals.tokens)
    assert (totals.samples, totals.flops) == (8 + 4 + 8, 3 * (2 * 7_000 + 32_000))


def test_a_forward_that_runs_again_adds_flops_and_no_tokens(now):
    meter = make_meter(now)
    run_step(meter, now, [TOKENS], count=COUNT)
    meter.begin_step()
    meter.look_at(TOKENS)
    meter.add_forward()
    meter.add_forward()
    meter.end_step()
    assert (meter.take_window().tokens, meter.run_totals().flops) == (32, 2 * 3 * 32_000)


def test_the_measured_backward_and_what_is_recomputed(now):
    count = FlopCount(forward=32_000, thop=0, functional=32_000, backward=50_000, recomputed=8_000)
    meter = make_meter(now, backward_factor="measured")
    run_step(meter, now, [TOKENS], count=count)
    run_step(meter, now, [TOKENS])
    window = Window(ranks=(meter.take_window(),))
    assert window.mfu == pytest.approx(0.082)
    assert logged_values(window)["throughput/hfu"] == pytest.approx(0.090)
    assert meter.summary([meter.run_totals()]).hfu == pytest.approx(0.090)


@pytest.mark.parametrize(("factor", "error"), [(2.0, 96 / 82 - 1), (50 / 32, 0.0), ("measured", None)])
def test_how_far_a_constant_factor_is_off(now, factor, error):
    count = FlopCount(forward=32_000, thop=0, functional=32_000, backward=50_000, recomputed=0)
    found = make_meter(now, backward_factor=factor).conventions.factor_error(count)
    assert found == (None if error is None else pytest.approx(error))


@pytest.mark.parametrize(
    ("arguments", "flops"),
    [
        ({"flops": 600}, 600 * 32),
        ({"flops": lambda batch: 5 * batch.numel()}, 160),
        ({"flops": 600, "tokens": 10}, 6000),
        ({"flops": 600, "tokens": lambda batch: 7}, 4200),
        ({"flops": 600, "tokens": lambda batch: torch.tensor(7)}, 4200),
        ({"flops": lambda batch: torch.tensor(160.0)}, 160),
        ({"flops": 600, "tokens": lambda batch: 1 / 0}, math.nan),
        ({"flops": lambda batch: 1 / 0}, math.nan),
    ],
)
@pytest.mark.filterwarnings("ignore:Calling")
def test_flops_and_tokens_can_be_given(now, arguments, flops):
    meter = make_meter(now, **arguments)
    run_step(meter, now, [TOKENS])
    assert not meter.flops.needs_count
    assert meter.take_window().flops == pytest.approx(flops, nan_ok=True)


def test_a_callable_that_fails_is_named_once(now):
    meter = make_meter(now, flops=600, tokens=lambda batch: 1 / 0)
    with pytest.warns(UserWarning, match=r"Calling tokens= failed \(ZeroDivisionError: division by zero\)"):
        run_step(meter, now, [TOKENS])
    run_step(meter, now, [TOKENS])  # a second warning would be an error


def test_a_backward_factor_of_its_own(now):
    meter = make_meter(now, backward_factor=1.0)
    run_step(meter, now, [TOKENS], count=COUNT)
    run_step(meter, now, [TOKENS])
    assert meter.take_window().flops == 2 * 32_000


def test_a_window_starts_anew_when_it_is_taken_and_the_run_goes_on(now):
    meter = make_meter(now, flops=1)
    run_step(meter, now, [TOKENS])
    assert meter.take_window().steps == 1
    assert meter.take_window().steps == 0
    run_step(meter, now, [TOKENS])
    assert (meter.take_window().steps, meter.run_totals().steps) == (1, 2)


def test_a_measured_peak_is_the_achievable_one_as_well(now):
    measured = Peak(flops_per_sec=1e6, name="test", dtype=torch.float32, source="measured: best of 3 matmuls")
    meter = make_meter(now, flops=1000, peak=measured)
    run_step(meter, now, [TOKENS])
    summary = meter.summary([meter.run_totals()])
    assert summary.mfu == summary.mfu_achievable == pytest.approx(0.032)
    assert sum(summary.waterfall.values()) == pytest.approx(1.0, abs=1e-12)


MEASURED = Peak(flops_per_sec=1e4, name="test", dtype=torch.float32, source="measured: best of 3 matmuls")


def test_a_run_that_is_faster_than_its_noisy_measured_peak_has_what_it_reached_as_its_peak(now):
    meter = make_meter(now, flops=1000, peak=replace(MEASURED, is_noisy=True))  # 32,000 FLOPs a step
    run_step(meter, now, [TOKENS], ((Phase.FORWARD, 1.0), (Phase.DATA, 1.0)))
    window = Window(ranks=(meter.take_window(),))
    assert (window.mfu, window.mfu_achievable) == pytest.approx((0.5, 0.5))
    run_step(meter, now, [TOKENS], ((Phase.FORWARD, 4.0),))
    summary = meter.summary([meter.run_totals()])
    assert summary.peak.flops_per_sec == summary.achievable.flops_per_sec == 32_000
    assert summary.peak.source == "measured: this run reached it, where matmuls alone reached 1e-08 TFLOP/s (noisy)"
    assert summary.mfu == pytest.approx(2 / 6)
    assert min(summary.waterfall.values()) >= 0


@pytest.mark.parametrize("peak", [MEASURED, PEAK])
def test_a_peak_that_is_not_noisy_stays_and_what_was_reached_is_achievable(now, peak):
    meter = make_meter(now, flops=100_000, peak=peak)
    meter.peaks = RunPeaks(peak=peak, achievable=MEASURED)
    run_step(meter, now, [TOKENS])
    window = Window(ranks=(meter.take_window(),))
    assert (window.mfu, window.mfu_achievable) == (pytest.approx(3.2e6 / peak.flops_per_sec), 1.0)
    assert meter.peaks.peak is peak
    assert window.waterfall["mfu"] == 1.0


def test_what_no_run_can_reach_changes_no_peak(now):
    peaks = RunPeaks.of(MEASURED)
    for rate in (math.nan, math.inf, 1e3):
        assert peaks.reached(rate) is peaks
    assert RunPeaks().reached(1e9) == RunPeaks()


@pytest.mark.parametrize(
    ("rate", "dtype", "shown"),
    [(1.3e4, torch.bfloat16, True), (1.2e4, torch.bfloat16, False), (9e9, torch.float32, False)],
)
def test_the_fastest_dtypes_peak_is_shown_where_it_differs_by_a_fifth(now, rate, dtype, shown):
    fastest = replace(MEASURED, flops_per_sec=rate, dtype=dtype)
    meter = make_meter(now, flops=100, peak=MEASURED)
    meter.peaks = replace(meter.peaks, fastest=fastest)
    run_step(meter, now, [TOKENS])
    summary = meter.summary([meter.run_totals()])
    assert summary.fastest == (fastest if shown else None)
    assert summary.mfu_fastest == (pytest.approx(3200 / rate) if shown else None)
    assert summary.as_dict()["mfu_fastest"] == summary.mfu_fastest


def test_a_run_without_a_measured_step_has_a_summary_that_says_so(now):
    meter = make_meter(now)
    summary = meter.summary([meter.run_totals()])
    assert (summary.steps, summary.mfu, summary.peak) == (0, None, PEAK)


class Unreadable(dict):
    """A batch that cannot even be looked at."""

    def items(self):
        raise OSError("the file is gone")


def test_a_batch_that_cannot_be_read_is_said_once_and_the_step_goes_on(now):
    meter = make_meter(now)
    with pytest.warns(UserWarning, match=r"The batch could not be read \(OSError.*Pass tokens= and flops="):
        run_step(meter, now, [Unreadable()])
    run_step(meter, now, [Unreadable()])  # a second warning would be an error
    assert meter.run_totals().steps == 2
    assert math.isnan(meter.run_totals().flops)


@pytest.mark.filterwarnings("ignore:The batch could not be read")
def test_functions_of_the_user_serve_for_a_batch_that_cannot_be_read(now):
    meter = make_meter(now, tokens=lambda batch: 7, flops=lambda batch: 160.0)
    run_step(meter, now, [Unreadable()])
    totals = meter.run_totals()
    assert (totals.tokens, totals.flops) == (7, 160.0)
    assert math.isnan(totals.samples)


@pytest.mark.filterwarnings("ignore:The batch could not be read")
def test_a_function_that_gives_no_number_leaves_tokens_unknown_and_the_step_goes_on(now):
    meter = make_meter(now, tokens=lambda batch: math.nan, flops=600)
    run_step(meter, now, [TOKENS])
    totals = meter.run_totals()
    assert totals.steps == 1
    assert math.isnan(totals.tokens)
    assert math.isnan(totals.flops)
