import math

import pytest
import torch

from mfu_callback.meter.run_peaks import RunPeaks
from mfu_callback.meter.totals import Totals
from mfu_callback.peaks import Peak


def peak(dtype, flops_per_sec, source="https://x"):
    return Peak(flops_per_sec=flops_per_sec, name="X", dtype=dtype, source=source)


BF16, FP32, FP8 = peak(torch.bfloat16, 100e12), peak(torch.float32, 10e12), peak(torch.float8_e4m3fn, 200e12)
REACHED = peak(torch.bfloat16, 80e12, "measured: x")
PEAKS = RunPeaks(
    peak=BF16,
    achievable=REACHED,
    of_matmuls=REACHED,
    of_dtypes={"float32": (FP32, FP32), "float8_e4m3fn": (FP8, peak(torch.float8_e4m3fn, 160e12, "measured: x"))},
)


def test_each_dtypes_flops_are_done_at_its_own_peak():
    flops = {"bfloat16": 100e12, "float32": 20e12, "float8_e4m3fn": 200e12}  # one second, two seconds, one second
    rates = PEAKS.rates(320e12, flops)
    assert rates["peak_flops_per_sec"] == pytest.approx(320e12 / 4)
    assert rates["achievable_flops_per_sec"] == pytest.approx(320e12 / (100 / 80 + 2 + 200 / 160))


def test_batches_of_one_dtype_and_dtypes_without_a_peak_count_as_most():
    assert PEAKS.rates(1e12) == {"peak_flops_per_sec": 100e12, "achievable_flops_per_sec": 80e12}
    assert PEAKS.rates(1e12, {"int8": 0.5e12, "bfloat16": 0.5e12})["peak_flops_per_sec"] == 100e12
    half = PEAKS.rates(20e12, {"float32": 10e12, "bfloat16": 5e12})  # 5e12 of batches of bfloat16 alone
    assert half["peak_flops_per_sec"] == pytest.approx(20e12 / 1.1)


def test_unknown_flops_and_unknown_peaks_are_unknown():
    assert math.isnan(RunPeaks().rates(1e12, {"float32": 1e12})["peak_flops_per_sec"])
    assert PEAKS.rates(math.nan, {"float32": 1e12})["peak_flops_per_sec"] == 100e12


def test_what_a_run_of_two_dtypes_reaches_raises_both():
    flops = {"bfloat16": 80e12, "float32": 10e12}  # two seconds at the achievable peaks
    after = PEAKS.reached(90e12 / 1.6, 90e12, flops)
    assert after.achievable.flops_per_sec == pytest.approx(80e12 * 1.25)
    assert after.of_dtypes["float32"][1].flops_per_sec == pytest.approx(10e12 * 1.25)
    assert after.of_dtypes["float32"][0] is FP32
    assert after.rates(90e12, flops)["achievable_flops_per_sec"] == pytest.approx(90e12 / 1.6)
    assert PEAKS.reached(90e12 / 2.5, 90e12, flops) is PEAKS


def test_flops_by_dtype_add_up_and_are_divided():
    one = Totals(flops=3.0, flops_of_dtypes={"float32": 1.0, "bfloat16": 2.0})
    both = one + Totals(flops=1.0, flops_of_dtypes={"bfloat16": 1.0}) + Totals(flops=5.0)
    assert both.flops_of_dtypes == {"float32": 1.0, "bfloat16": 3.0}
    assert both.shared_by(2).flops_of_dtypes == {"float32": 0.5, "bfloat16": 1.5}
