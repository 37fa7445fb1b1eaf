"""What a run is measured against: found, set right by the first count, and doubted above 1."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins import BitsandbytesPrecision

from mfu_callback import MFUCallback, Peak, measure_peak
from mfu_callback.flops import FlopCount, FlopCounter
from mfu_callback.lightning.peak_of_run import PeakOfRun
from mfu_callback.lightning.private_names import matmul_dtype
from mfu_callback.meter.metrics import Window
from mfu_callback.meter.run_peaks import RunPeaks
from mfu_callback.meter.totals import Totals
from mfu_callback.peaks import Resolution
from tests.helpers.runs import PEAK, SMALL_MODEL, Step, fit, make_trainer, two_layers

CPU = torch.device("cpu")
A100 = Peak(flops_per_sec=312e12, name="A100", dtype=torch.bfloat16, source="https://nvidia.com")
MEASURED = replace(A100, flops_per_sec=250e12, source="measured: best of 20 matmuls")


class Meter:
    peaks = RunPeaks()


@pytest.fixture
def asked(monkeypatch):
    """What the resolution was asked for; it knows the A100 at every dtype."""
    calls = []

    def resolve(asked, device, dtype):
        calls.append(dtype)
        return Resolution(peak=replace(A100, dtype=dtype), achievable=MEASURED, message="known")

    monkeypatch.setattr("mfu_callback.lightning.peak_of_run.resolve_peak", resolve)
    return calls


def make(asked=None):
    warnings = []
    return PeakOfRun(Meter(), asked, CPU, lambda subject, message: warnings.append(message)), warnings


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


def test_a_first_look_up_that_failed_is_made_up_for(asked, monkeypatch):
    of_run, _ = make()
    with monkeypatch.context() as patch:
        patch.setattr("mfu_callback.lightning.peak_of_run.resolve_peak", lambda *_: 1 / 0)
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


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_a_run_is_warned_of_it_once():
    with pytest.warns(UserWarning, match="so the measurement is wrong. Likely causes, most likely first") as seen:
        make_trainer(MFUCallback(peak=1.0, warmup_steps=0), max_steps=6).fit(Step(two_layers()))
    assert sum("the measurement is wrong" in str(warning.message) for warning in seen) == 1


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
    measure_peak("cpu", torch.float32, time_limit_sec=0.1)
    callback, trainer = fit(Step(two_layers()))
    summary = callback.summary
    assert (summary.peak.kind, summary.achievable.kind) == ("given", "measured")
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    ratio = PEAK / summary.achievable.flops_per_sec
    assert logged["throughput/mfu_achievable"] == pytest.approx(logged["throughput/mfu"] * ratio)
    assert summary.waterfall["unreachable"] == pytest.approx(
        (1 - 1 / ratio) * (summary.waterfall["kernels"] + summary.waterfall["unreachable"] + summary.mfu)
    )


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
    assert matmul_dtype(trainer) == dtype


def test_bitsandbytes_unpacks_its_weights_to_a_dtype_of_its_own():
    plugin = BitsandbytesPrecision.__new__(BitsandbytesPrecision)  # it needs the library to be made
    plugin.dtype = torch.float16
    assert matmul_dtype(SimpleNamespace(precision_plugin=plugin)) == torch.float16
