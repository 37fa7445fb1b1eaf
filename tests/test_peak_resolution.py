import subprocess
import sys

import pytest
import torch

from mfu_callback import Peak
from mfu_callback.peaks import resolve_peak

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
MEASURED = Peak(flops_per_sec=1.2e12, name="X", dtype=torch.bfloat16, source="measured: best of 9 matmuls")


@pytest.fixture(autouse=True)
def gpu_called(monkeypatch):
    """A machine whose GPU has the name that a test gives it, and whose matmuls reach 1.2 TFLOP/s."""
    names = {}
    monkeypatch.setattr("mfu_callback.peaks.resolve.device_name", lambda device: names.get(device.type, "AMD EPYC"))
    monkeypatch.setattr("mfu_callback.peaks.resolve.measure_peak", lambda device, dtype: MEASURED)
    return lambda name: names.update(cuda=name)


def test_a_known_device_has_its_datasheets_peak(gpu_called):
    gpu_called("NVIDIA A100-SXM4-40GB")
    found = resolve_peak(None, GPU, torch.bfloat16)
    assert (found.peak.flops_per_sec, found.unexpected) == (312e12, False)
    assert found.message.startswith("MFU is measured against 312 TFLOP/s, A100 in bfloat16 (https://")


def test_what_the_user_gives_goes_before_it(gpu_called):
    gpu_called("NVIDIA A100-SXM4-40GB")
    assert resolve_peak(100e12, GPU, torch.bfloat16).peak.flops_per_sec == 100e12
    assert resolve_peak("measured", GPU, torch.bfloat16).peak is MEASURED


def test_an_unknown_device_is_measured_and_a_warning_says_so(gpu_called):
    gpu_called("X")
    found = resolve_peak(None, GPU, torch.bfloat16)
    assert (found.peak, found.unexpected) == (MEASURED, True)
    assert found.message == (
        "No peak is known for 'X' in bfloat16, so MFU is measured against this device's own best matmul"
        " (1.2 TFLOP/s). Pass peak=, or add a row to mfu_callback/peaks/table.py."
    )


def test_a_cpu_is_measured_without_a_warning():
    found = resolve_peak(None, CPU, torch.bfloat16)
    assert (found.peak, found.unexpected) == (MEASURED, False)


def test_fp32_matmuls_on_tensor_cores_have_their_own_peak(gpu_called, monkeypatch):
    gpu_called("NVIDIA A100-SXM4-40GB")
    assert resolve_peak(None, GPU, torch.float32).peak.flops_per_sec == 19.5e12
    monkeypatch.setattr("torch.get_float32_matmul_precision", lambda: "high")
    assert resolve_peak(None, GPU, torch.float32).peak.flops_per_sec == 156e12


def test_without_a_peak_the_message_says_what_to_do(monkeypatch):
    def fail(device, dtype):
        raise RuntimeError("no such matmul")

    monkeypatch.setattr("mfu_callback.peaks.resolve.measure_peak", fail)
    found = resolve_peak(None, CPU, torch.float16)
    assert (found.peak, found.unexpected) == (None, True)
    assert "could not be measured (no such matmul), so MFU is left out. Pass peak= in FLOP/s." in found.message


def test_torchs_newer_setting_of_the_precision_of_float32_is_understood():
    """torch refuses its older question about it from then on."""
    code = (
        "import torch; torch.backends.cuda.matmul.fp32_precision = 'tf32';"
        "from mfu_callback.peaks import resolve_peak;"
        "print(resolve_peak(1e12, torch.device('cpu'), torch.float32).peak.flops_per_sec);"
        "from mfu_callback.peaks.resolve import _uses_tf32; print(_uses_tf32())"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["1000000000000.0", "True"], done.stderr
