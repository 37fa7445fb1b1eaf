"""The best rates that operators are compared with."""

import torch

from mfu_callback.flops.operator_calls import Calls
from mfu_callback.meter.operator_times import Operator, Times, Took
from mfu_callback.meter.run_operators import Roofs
from mfu_callback.meter.run_peaks import RunPeaks
from mfu_callback.peaks import Peak

SHAPES = ((8, 8), (8, 8))
KNOWN = {
    ("aten::mm", SHAPES): Calls("matmul", "float32", (8, 8, 8), calls=2, flops=2000.0, bytes=200.0),
    ("aten::sdpa", ()): Calls("attention", "bfloat16", None, calls=1, flops=500.0, bytes=10.0),
    ("aten::add", SHAPES): Calls("memory", "float32", None, calls=1, flops=0.0, bytes=100.0),
}
TIMES = Times(1, {Operator("aten::mm", SHAPES, "forward"): Took(4, 10.0)}, {"forward": 14.0})


def test_each_dtype_has_its_own_achievable_peak():
    def peak(flops_per_sec, dtype):
        return Peak(flops_per_sec=flops_per_sec, name="a", dtype=dtype, source="given")

    fast = peak(4000.0, torch.bfloat16)
    peaks = RunPeaks(
        peak=peak(2000.0, torch.float32),
        achievable=peak(1000.0, torch.float32),
        of_dtypes={"bfloat16": (peak(8000.0, torch.bfloat16), fast)},
    )
    roofs = Roofs(torch.device("cpu"), peaks)
    assert roofs.achievable_sec(KNOWN["aten::mm", SHAPES]) == 1.0
    assert roofs.achievable_sec(KNOWN["aten::sdpa", ()]) == 0.125
    assert roofs.best_sec(KNOWN["aten::add", SHAPES]) is None  # nothing is measured
    assert Roofs(torch.device("cpu"), RunPeaks()).achievable_sec(KNOWN["aten::mm", SHAPES]) == 0.0


def test_a_roof_that_the_device_has_no_memory_for_is_left_out(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("mfu_callback.meter.run_operators.measure_bandwidth", full)
    monkeypatch.setattr("mfu_callback.meter.run_operators.measure_product", full)
    peak = Peak(flops_per_sec=1000.0, name="a", dtype=torch.float32, source="given")
    roofs = Roofs(torch.device("cpu"), RunPeaks.of(peak))
    roofs.measure(TIMES, KNOWN)
    assert roofs.best_sec(KNOWN["aten::add", SHAPES]) is None
    assert roofs.best_sec(KNOWN["aten::mm", SHAPES]) == 1.0
