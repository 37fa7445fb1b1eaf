"""What a run is measured against: found, set right by the first count, and doubted above 1."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins import BitsandbytesPrecision
from torch import nn

from mfu_callback import MFUCallback, Peak
from mfu_callback.flops import FlopCount, FlopCounter
from mfu_callback.meter.messages import Messages
from mfu_callback.meter.metrics import Window
from mfu_callback.meter.peak_of_run import PeakOfRun
from mfu_callback.meter.precision import matmul_dtype_of
from mfu_callback.meter.run_peaks import RunPeaks
from mfu_callback.meter.totals import Totals
from mfu_callback.peaks import Resolution, rates_in_training
from mfu_callback.peaks.cache import CacheKey, cached_peak, confirmed_peak, keep_best, keep_rates
from tests.helpers.runs import PEAK, SMALL_MODEL, Step, fit, make_trainer, two_layers

CPU = torch.device("cpu")
A100 = Peak(flops_per_sec=312e12, name="A100", dtype=torch.bfloat16, source="https://nvidia.com")
MEASURED = replace(A100, flops_per_sec=250e12, source="measured: best of 20 matmuls")


def is_bf16_slow():
    rates = rates_in_training(CPU, time_limit_sec=0.3)
    return rates[torch.bfloat16].in_training < rates[torch.float32].in_training / 2


count_of_a_run = FlopCount(forward=1, thop=1, functional=0)


AVX2 = {"float32": {"plain": 140e9, "transposed": 145e9}, "bfloat16": {"plain": 1.3e9, "transposed": 17e9}}


class Meter:
    peaks = RunPeaks()
    hints = ()
    flops = SimpleNamespace(first=count_of_a_run)


@pytest.fixture
def asked(monkeypatch):
    """What the resolution was asked for; it knows the A100 at every dtype."""
    calls = []

    def resolve(asked, device, dtype, announce):
        calls.append(dtype)
        return Resolution(peak=replace(A100, dtype=dtype), achievable=MEASURED, message="known")

    monkeypatch.setattr("mfu_callback.meter.peak_of_run.resolve_peak", resolve)
    return calls


def make(asked=None):
    warnings = []
    return PeakOfRun(Meter(), asked, CPU, Messages(lambda line: None, warnings.append)), warnings


def count(uncounted=(), **per_dtype):
    total = sum(per_dtype.values())
    return FlopCount(forward=total, thop=total, functional=0, per_dtype=per_dtype, uncounted=uncounted)


def window(mfu):
    totals = Totals(steps=1, flops=mfu, other_sec=1, peak_flops_per_sec=1.0)
    return Window(ranks=(totals,))


def test_the_meter_gets_both_peaks(asked):
    of_run, warnings = make()
    of_run.find(torch.bfloat16)
    assert (of_run._meter.peaks.peak, of_run._meter.peaks.achievable, warnings) == (A100, MEASURED, [])


@pytest.mark.parametrize(
    ("flops", "dtypes"),
    [
        (count(bfloat16=100), [torch.bfloat16]),
        (count(bfloat16=51, float32=49), [torch.bfloat16]),
        (count(bfloat16=49, float32=51), [torch.bfloat16, torch.float32]),
        (count(float16=100), [torch.bfloat16, torch.float16]),
        (count(float32=50, float16=50), [torch.bfloat16]),
        (count(), [torch.bfloat16]),
        (count(uncounted=("te::gemm",), float32=100), [torch.bfloat16]),
        (count(no_such_dtype=100), [torch.bfloat16]),
    ],
)
def test_the_dtype_of_most_of_the_flops_is_the_peaks(asked, flops, dtypes):
    of_run, _ = make()
    of_run.find(torch.bfloat16)
    of_run.correct_dtype(flops)
    assert asked == dtypes
    assert of_run._meter.peaks.peak.dtype == dtypes[-1]


def test_a_peak_that_the_user_gave_is_not_looked_up_again(asked):
    of_run, _ = make(asked=1e12)
    of_run.find(torch.bfloat16)
    of_run.correct_dtype(count(float32=100))
    assert asked == [torch.bfloat16]
    keep_rates(AVX2, CacheKey.of(CPU, torch.float32, torch.bfloat16))
    of_run.compare(of_run.rates(measure=False), processes=1)
    assert of_run._meter.hints == ()  # those of float32, in which it multiplies


def test_a_first_look_up_that_failed_is_made_up_for(asked, monkeypatch):
    of_run, _ = make()
    with monkeypatch.context() as patch:
        patch.setattr("mfu_callback.meter.peak_of_run.resolve_peak", lambda *_: 1 / 0)
        of_run.find(torch.float8_e4m3fn)
    assert of_run._meter.peaks.peak is None
    of_run.correct_dtype(count(bfloat16=100))
    assert (asked, of_run._meter.peaks.peak.dtype) == ([torch.bfloat16], torch.bfloat16)


def test_mfu_above_one_names_its_likely_causes_in_order(asked):
    of_run, warnings = make()
    of_run.find(torch.bfloat16)
    of_run.warn_if_above_one(window(mfu=1.0))
    assert warnings == []
    of_run.warn_if_above_one(window(mfu=1.32))
    (message,) = warnings
    assert message.startswith("MFU is 1.32 but cannot exceed 1, so the measurement is wrong.")
    causes = ["(1) the matmuls run in another dtype", "structured sparsity", "(3) FLOPs were counted twice"]
    places = [message.index(cause) for cause in [*causes, "(4) steps were measured too short"]]
    assert places == sorted(places)
    assert "MFU is measured against 312 TFLOP/s, A100 in bfloat16 (https://nvidia.com)." in message
    assert message.endswith("Pass peak= in FLOP/s, or flops= per token.")


def test_mfu_above_one_of_a_measured_peak_has_the_remedy_first(asked, monkeypatch):
    of_run, warnings = make()
    of_run._meter.peaks = RunPeaks.of(MEASURED)
    of_run.warn_if_above_one(window(mfu=1.32))
    assert "(1) the peak was measured while the machine was slow (a fit that looks for it" in warnings[0]
    assert "`python -m mfu_callback.peaks` does it now)" in warnings[0]


@pytest.fixture
def again(monkeypatch):
    """What the end of fit measures: 260e12; and how often."""
    calls = []

    def measure(device, dtype, *, time_limit_sec):
        calls.append((device, dtype, time_limit_sec))
        return keep_best(replace(MEASURED, flops_per_sec=260e12, source="measured: again"), CacheKey.of(device, dtype))

    monkeypatch.setattr("mfu_callback.meter.peak_of_run.measure_peak", measure)
    return calls


NOISY = replace(MEASURED, is_noisy=True)


def settled(peaks, asked=None):
    of_run, _ = make(asked)
    of_run.dtype = torch.bfloat16
    of_run._meter.peaks = peaks
    of_run.settle()
    return of_run._meter.peaks


def test_a_noisy_peak_is_measured_again_at_the_end_of_fit(again):
    peaks = settled(RunPeaks.of(NOISY))
    assert again == [(CPU, torch.bfloat16, 1.2)]
    assert peaks.peak.flops_per_sec == peaks.achievable.flops_per_sec == 260e12
    assert not peaks.peak.is_noisy
    assert settled(RunPeaks.of(replace(NOISY, flops_per_sec=270e12))).peak.flops_per_sec == 270e12


def test_flops_that_were_counted_too_high_do_not_become_the_peak(again):
    peaks = RunPeaks.of(NOISY).reached(900e12)  # matmuls have reached 250e12
    assert peaks.peak.flops_per_sec == 900e12  # a noisy measurement can be that low
    peaks = settled(peaks)
    assert (peaks.peak.flops_per_sec, peaks.achievable.flops_per_sec) == (260e12, 900e12)  # MFU is above 1, and said
    assert RunPeaks.of(NOISY).reached(1100e12).peak is NOISY


def test_after_a_second_noisy_measurement_the_highest_rate_is_the_peak(monkeypatch):
    monkeypatch.setattr("mfu_callback.meter.peak_of_run.measure_peak", lambda *_, **__: NOISY)
    peaks = settled(RunPeaks.of(NOISY).reached(300e12))
    assert peaks.peak.flops_per_sec == peaks.achievable.flops_per_sec == 300e12
    assert peaks.peak.source == "measured: this run reached it, where matmuls alone reached 250 TFLOP/s (noisy)"


def test_a_peak_that_the_run_exceeded_is_measured_again_and_an_earlier_one_forgotten(again):
    keep_best(MEASURED, CacheKey.of(CPU, torch.bfloat16))
    peaks = settled(RunPeaks.of(MEASURED).reached(255e12))
    assert (peaks.peak.flops_per_sec, peaks.achievable.flops_per_sec) == (260e12, 260e12)
    assert cached_peak(CPU, torch.bfloat16).source == "measured: again"
    assert confirmed_peak(CPU, torch.bfloat16) is None


def test_what_the_run_reached_stays_achievable_where_the_matmuls_reach_less(again):
    peaks = settled(RunPeaks.of(MEASURED).reached(300e12))
    assert (peaks.peak.flops_per_sec, peaks.achievable.flops_per_sec) == (260e12, 300e12)  # MFU is above 1, and said


@pytest.mark.parametrize(
    ("peaks", "given"),
    [
        (RunPeaks.of(MEASURED), None),
        (RunPeaks.of(A100, NOISY), None),
        (RunPeaks.of(NOISY), NOISY),
        (RunPeaks.of(replace(NOISY, source="given: peak=")), 250e12),
        (RunPeaks(), None),
    ],
)
def test_any_other_peak_stays(again, peaks, given):
    assert settled(peaks, given) is peaks
    assert again == []


def test_a_second_measurement_that_fails_leaves_the_first(monkeypatch):
    monkeypatch.setattr("mfu_callback.meter.peak_of_run.measure_peak", lambda *_, **__: 1 / 0)
    peaks = RunPeaks.of(NOISY)
    assert settled(peaks) is peaks


@pytest.mark.parametrize(("precision", "is_slow"), [("bf16-true", True), ("bf16-mixed", True), ("32-true", False)])
def test_a_run_in_a_slow_dtype_is_told_of_the_fast_one(precision, is_slow):
    keep_rates(AVX2, CacheKey.of(CPU, torch.float32, torch.bfloat16))
    callback = MFUCallback(warmup_steps=1, peak=17e9)
    make_trainer(callback, precision=precision).fit(Step(two_layers()))
    hint = 'float32 matmuls run 59 times as fast as bfloat16 on this device: precision="32-true".'
    summary = callback.summary
    assert summary.hints == ((hint,) if is_slow else ())
    assert (hint in (summary.advice or "")) is is_slow
    assert summary.mfu_fastest == (pytest.approx(summary.mfu * 17 / 145) if is_slow else None)


@pytest.mark.skipif(
    not is_bf16_slow(), reason="needs a CPU that multiplies bfloat16 at less than half of float32's rate"
)
@pytest.mark.parametrize(("precision", "is_slow"), [("bf16-true", True), ("32-true", False)])
def test_a_run_in_a_dtype_that_is_slow_here_is_told_so(precision, is_slow):
    callback = MFUCallback(warmup_steps=1)
    make_trainer(callback, precision=precision).fit(Step(two_layers()))
    assert any("float32 matmuls run" in hint for hint in callback.summary.hints) is is_slow


@pytest.mark.parametrize("failing", ["rates_in_training", "hints_for"])
def test_rates_that_cannot_be_had_cost_the_hints_alone(monkeypatch, failing):
    keep_rates({"float32": AVX2["float32"]}, CacheKey.of(CPU, torch.float32, torch.bfloat16))
    monkeypatch.setattr(f"mfu_callback.meter.peak_of_run.{failing}", lambda *_, **__: 1 / 0)
    callback, _ = fit(Step(two_layers()))
    assert (callback.summary.hints, callback.summary.fastest) == ((), None)
    assert callback.summary.mfu > 0


@pytest.mark.parametrize("peak", [1e3, 1e12])
def test_a_peak_below_the_measured_one_makes_no_part_negative(peak):
    keep_best(replace(MEASURED, flops_per_sec=1e11, dtype=torch.float32), CacheKey.of(CPU, torch.float32))
    callback = MFUCallback(peak=peak, warmup_steps=1)
    trainer = make_trainer(callback)
    with pytest.warns(UserWarning, match="a peak= that is too low") if peak == 1e3 else nullcontext():
        trainer.fit(Step(two_layers()))
    logged = [value.item() for name, value in trainer.callback_metrics.items() if name.startswith("waterfall/")]
    for parts in (list(callback.summary.waterfall.values()), logged):
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(1, abs=1e-6)
    assert callback.summary.mfu_achievable <= 1
    assert "datasheet" not in (callback.summary.advice or "")


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_a_run_is_warned_of_it_once():
    with pytest.warns(UserWarning, match="so the measurement is wrong. Likely causes, most likely first") as seen:
        make_trainer(MFUCallback(peak=1.0, warmup_steps=0), max_steps=6).fit(Step(two_layers()))
    assert sum("the measurement is wrong" in str(warning.message) for warning in seen) == 1


@pytest.mark.parametrize("breaks_off", [False, True])
def test_a_run_that_ends_before_it_logs_is_warned_all_the_same(breaks_off):
    class BreaksOff(Step):
        def training_step(self, batch, batch_idx):
            if breaks_off and batch_idx == 5:
                raise ArithmeticError
            return super().training_step(batch, batch_idx)

    callback = MFUCallback(peak=1.0, warmup_steps=0)
    with (
        pytest.warns(UserWarning, match="so the measurement is wrong"),
        pytest.raises(ArithmeticError) if breaks_off else nullcontext(),
    ):
        make_trainer(callback, max_steps=6, log_every_n_steps=50).fit(BreaksOff(two_layers()))
    assert callback.summary.advice.splitlines()[0].startswith("MFU cannot exceed 1, so the peak, the FLOPs or the time")


class OwnAutocast(Step):
    """Casts by itself, whatever the Trainer's precision says."""

    def training_step(self, batch, batch_idx):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings(SMALL_MODEL)
@pytest.mark.parametrize(
    ("module", "precision", "dtype"),
    [
        (Step, "32-true", torch.float32),
        (Step, "64-true", torch.float64),
        (Step, "bf16-true", torch.bfloat16),
        (Step, "bf16-mixed", torch.bfloat16),
        (OwnAutocast, "32-true", torch.bfloat16),
    ],
)
def test_a_real_runs_peak_is_at_the_dtype_that_its_matmuls_run_in(module, precision, dtype):
    callback = MFUCallback(warmup_steps=1)
    make_trainer(callback, precision=precision).fit(module(two_layers()))
    summary = callback.summary
    assert (summary.peak.dtype, summary.peak.kind) == (dtype, "measured")
    assert summary.flops.per_dtype == {str(dtype).removeprefix("torch."): summary.flops.forward}
    assert summary.mfu == summary.mfu_achievable > 0


def test_complex_numbers_are_multiplied_in_the_dtype_of_their_parts():
    with FlopCounter(torch.nn.Identity()) as counter:
        torch.ones(4, 4, dtype=torch.complex64) @ torch.ones(4, 4, dtype=torch.complex64)
        torch.ones(4, 4, dtype=torch.bfloat16) @ torch.ones(4, 4, dtype=torch.bfloat16)
    assert counter.result().per_dtype == {"float32": 8 * 4**3, "bfloat16": 2 * 4**3}


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_the_measured_peak_is_beside_the_users():
    keep_best(replace(MEASURED, flops_per_sec=1e11, dtype=torch.float32), CacheKey.of(CPU, torch.float32))
    callback, trainer = fit(Step(two_layers()))
    summary = callback.summary
    assert (summary.peak.kind, summary.achievable.kind) == ("given", "measured")
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    ratio = PEAK / summary.achievable.flops_per_sec
    assert logged["throughput/mfu_achievable"] == pytest.approx(logged["throughput/mfu"] * ratio)
    assert summary.waterfall["unreachable"] == pytest.approx((ratio - 1) * summary.mfu)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("64-true", torch.float64),
        ("32-true", torch.float32),
        ("16-true", torch.float16),
        ("16-mixed", torch.float16),
        ("bf16-true", torch.bfloat16),
        ("bf16-mixed", torch.bfloat16),
        ("transformer-engine", torch.float8_e4m3fn),
        ("transformer-engine-float16", torch.float8_e4m3fn),
    ],
)
def test_the_trainers_precision_says_what_is_multiplied(precision, dtype):
    trainer = SimpleNamespace(precision_plugin=SimpleNamespace(precision=precision))
    assert matmul_dtype_of(trainer.precision_plugin) == dtype


def test_bitsandbytes_unpacks_its_weights_to_a_dtype_of_its_own():
    plugin = BitsandbytesPrecision.__new__(BitsandbytesPrecision)  # it needs the library to be made
    plugin.dtype = torch.float16
    assert matmul_dtype_of(plugin) == torch.float16


class TwoDtypes(nn.Module):
    """A layer in float32 and one of twice its FLOPs in bfloat16."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 16, bias=False).bfloat16()

    def forward(self, x):
        return self.second(self.first(x).bfloat16()).float()


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_mfu_sums_each_dtypes_flops_over_its_own_peak(caplog):
    for dtype, rate in ((torch.float32, 2e11), (torch.bfloat16, 1e11)):
        for _ in range(2):  # the second one confirms the first
            keep_best(replace(MEASURED, flops_per_sec=rate, dtype=dtype), CacheKey.of(CPU, dtype))
    callback = MFUCallback(warmup_steps=1)
    with caplog.at_level("INFO"):
        make_trainer(callback).fit(Step(TwoDtypes()))
    summary = callback.summary
    forward = summary.flops.forward
    assert summary.flops.per_dtype == {"float32": forward // 3, "bfloat16": 2 * forward // 3}
    ideal_sec = summary.mfu * sum(summary.phases_sec.values())  # of a step
    # Forward and backward of each, the backward as it was seen: the first layer's input needs no gradient.
    of_float32, of_bfloat16 = forward * (1 / 3 + 2 * 1 / 5), forward * (2 / 3 + 2 * 4 / 5)
    assert ideal_sec == pytest.approx(of_float32 / 2e11 + of_bfloat16 / 1e11)
    assert {dtype: one["flops_per_sec"] for dtype, one in summary.dtypes.items()} == {"float32": 2e11, "bfloat16": 1e11}
    assert sum(one["share"] for one in summary.dtypes.values()) == pytest.approx(1)
    assert "MFU sums the FLOPs of each dtype over its own peak: bfloat16 " in caplog.text
