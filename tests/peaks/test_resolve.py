from dataclasses import replace

import numpy as np
import pytest
import torch

from mfu_callback import Peak, find_peak
from mfu_callback.peaks import resolve_peak
from mfu_callback.peaks.cache import CacheKey, clear_cache, keep_best

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
BF16, FP32 = torch.bfloat16, torch.float32
MEASURED = Peak(flops_per_sec=1.2e12, name="X", dtype=BF16, source="measured: best of 20 matmuls")


class Machine:
    """A machine whose GPU reports what a test says, and whose matmuls reach 1.2 TFLOP/s; counts its sweeps."""

    name, multiprocessors, sweeps = "X", None, 0

    def measure(self, device, dtype, *, time_limit_sec):
        assert time_limit_sec <= 1.5
        self.sweeps += 1
        return keep_best(replace(MEASURED, dtype=dtype), CacheKey.of(device, dtype))


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    machine = Machine()
    for module in ("resolve", "cache"):
        path = f"mfu_callback.peaks.{module}"
        monkeypatch.setattr(f"{path}.device_name", lambda device: machine.name if device.type == "cuda" else "AMD EPYC")
        monkeypatch.setattr(f"{path}.multiprocessors", lambda device: machine.multiprocessors)
    monkeypatch.setattr("mfu_callback.peaks.resolve.measure_peak", machine.measure)
    clear_cache()
    return machine


def test_a_known_device_has_its_datasheets_peak(machine):
    machine.name = "NVIDIA A100-SXM4-40GB"
    found = resolve_peak(None, GPU, BF16)
    assert (found.peak.flops_per_sec, found.achievable, found.unexpected) == (312e12, None, False)
    assert found.message.startswith("MFU is measured against 312 TFLOP/s, A100 SXM4 40GB in bfloat16 (https://")
    assert machine.sweeps == 0


def test_what_was_measured_earlier_is_the_achievable_peak_beside_it(machine):
    machine.name = "NVIDIA A100-SXM4-40GB"
    measured = keep_best(MEASURED, CacheKey.of(GPU, BF16))
    found = resolve_peak(None, GPU, BF16)
    assert (found.peak.flops_per_sec, found.achievable) == (312e12, measured)
    assert found.message.endswith("This device has reached 1.2 TFLOP/s (measured: best of 20 matmuls).")
    assert resolve_peak(100e12, GPU, BF16).achievable == measured
    assert resolve_peak(None, GPU, FP32).achievable is None
    assert machine.sweeps == 0


def test_what_the_user_gives_goes_before_it(machine):
    machine.name = "NVIDIA A100-SXM4-40GB"
    given = resolve_peak(100e12, GPU, BF16).peak
    assert (given.flops_per_sec, given.kind) == (100e12, "given")
    measured = resolve_peak("measured", GPU, BF16)
    assert (measured.peak, measured.achievable, measured.unexpected) == (MEASURED, MEASURED, False)


def test_a_peak_itself_may_be_given(machine):
    l4 = find_peak("NVIDIA L4", BF16)
    found = resolve_peak(l4, GPU, BF16)
    assert (found.peak, found.achievable, machine.sweeps) == (l4, None, 0)
    assert resolve_peak(MEASURED, GPU, BF16).achievable is MEASURED
    assert resolve_peak(np.float32(3e14), GPU, BF16).peak.flops_per_sec == pytest.approx(3e14)


def test_an_unknown_device_is_measured_and_a_warning_says_so(machine):
    found = resolve_peak(None, GPU, BF16)
    assert (found.peak, found.achievable, found.unexpected) == (MEASURED, MEASURED, True)
    assert found.message == (
        "No peak is known for 'X' in bfloat16, so MFU is measured against this device's own best matmul"
        " (1.2 TFLOP/s). Pass peak= in FLOP/s, or add a row to the tables in mfu_callback/peaks/tables."
    )


def test_a_dtype_that_the_datasheet_does_not_have_is_measured(machine):
    machine.name = "Tesla T4"
    found = resolve_peak(None, GPU, BF16)
    assert (found.peak, found.unexpected) == (MEASURED, True)
    assert found.message == (
        "No peak is known for 'Tesla T4' in bfloat16, so MFU is measured against this device's own best matmul"
        " (1.2 TFLOP/s). Pass peak= in FLOP/s to use another peak."
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("NVIDIA GeForce RTX 4080 Laptop GPU", "its rate depends on the power limit that its maker set"),
        ("Orin", "its rate depends on the power limit that its maker set"),
        ("GRID A100-10C", "a virtual GPU shares its device with others"),
    ],
)
def test_a_name_that_no_table_can_rate_is_measured_without_a_warning(machine, name, reason):
    machine.name = name
    found = resolve_peak(None, GPU, BF16)
    assert (found.peak, found.unexpected) == (MEASURED, False)
    assert found.message == (
        f"No peak is known for '{name}' in bfloat16 ({reason}), so MFU is measured against this device's own best"
        " matmul (1.2 TFLOP/s). Pass peak= in FLOP/s to use another peak."
    )


def test_a_slice_has_its_share_of_what_the_driver_reports(machine):
    machine.name, machine.multiprocessors = "NVIDIA A100-SXM4-40GB MIG 1g.5gb", 14
    assert resolve_peak(None, GPU, BF16).peak.flops_per_sec == pytest.approx(312e12 * 14 / 108)


def test_a_cpu_is_measured_without_a_warning():
    found = resolve_peak(None, CPU, BF16)
    assert (found.peak, found.unexpected) == (MEASURED, False)


def test_a_machine_is_measured_until_two_sweeps_agree(machine):
    for asked in (None, "measured", None, "measured"):
        resolve_peak(asked, CPU, BF16)
    assert machine.sweeps == 2


def test_each_measurement_is_announced(machine):
    said = []
    for _ in range(3):
        resolve_peak(None, CPU, BF16, said.append)
    first, second = said
    assert first == second
    assert first.startswith("The peak of 'AMD EPYC' in bfloat16 is measured, which takes 1.2 s.")


def test_a_noisy_measurement_is_called_noisy(machine, monkeypatch):
    noisy = replace(MEASURED, is_noisy=True)
    monkeypatch.setattr("mfu_callback.peaks.resolve.measure_peak", lambda *_, **__: noisy)
    found = resolve_peak(None, CPU, BF16)
    assert found.message.startswith("MFU is measured against 1.2 TFLOP/s (noisy), ")
    assert found.message.endswith("is noisy: the machine's speed varied, so it may reach more when it is quiet.")


def test_fp32_matmuls_on_tensor_cores_have_their_own_peak(machine):
    machine.name = "NVIDIA A100-SXM4-40GB"
    assert resolve_peak(None, GPU, FP32).peak.flops_per_sec == 19.5e12
    torch.set_float32_matmul_precision("high")
    try:
        assert resolve_peak(None, GPU, FP32).peak.flops_per_sec == 156e12
    finally:
        torch.set_float32_matmul_precision("highest")
    assert resolve_peak(None, GPU, FP32).peak.flops_per_sec == 19.5e12


def test_without_a_peak_the_message_says_what_to_do(monkeypatch):
    def fail(device, dtype, **_):
        raise RuntimeError("no such matmul")

    monkeypatch.setattr("mfu_callback.peaks.resolve.measure_peak", fail)
    found = resolve_peak(None, CPU, torch.float16)
    assert (found.peak, found.unexpected) == (None, True)
    assert "could not be measured (no such matmul), so MFU is left out. Pass peak= in FLOP/s." in found.message
