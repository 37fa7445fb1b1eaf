import pytest
import torch

from mfu_callback import find_peak, measure_peak
from mfu_callback.peaks.measure import device_name
from mfu_callback.peaks.table import DEVICES


@pytest.mark.parametrize(
    ("name", "bfloat16", "float16"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5, 989.5),
        ("NVIDIA H100 PCIe", 756, 756),
        ("NVIDIA H100 NVL", 835.5, 835.5),
        ("NVIDIA L4", 121, 121),
        ("Tesla T4", None, 65),
        ("NVIDIA T4", None, 65),
        ("NVIDIA A10G", 70, 70),
        ("NVIDIA A100-SXM4-40GB", 312, 312),
        ("NVIDIA A100-SXM4-80GB", 312, 312),
        ("NVIDIA A100-PCIE-40GB", 312, 312),
        ("NVIDIA A100 80GB PCIe", 312, 312),
        ("NVIDIA GeForce RTX 3080", 59.5, 59.5),
        ("NVIDIA GeForce RTX 3090", 71, 71),
        # None of these is the device that its name contains.
        ("NVIDIA L40", None, None),
        ("NVIDIA L40S", None, None),
        ("NVIDIA A10", None, None),
        ("NVIDIA A40", None, None),
        ("NVIDIA H100", None, None),
        ("NVIDIA H200", None, None),
        ("NVIDIA RTX A1000", None, None),
        ("NVIDIA RTX A4000", None, None),
        ("NVIDIA GeForce RTX 3080 Ti", None, None),
        ("NVIDIA GeForce RTX 3090 Ti", None, None),
        ("NVIDIA GeForce RTX 3080 Laptop GPU", None, None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None),
        ("Quadro T4000", None, None),
        ("AMD EPYC", None, None),
        ("", None, None),
    ],
)
def test_the_peak_of_a_name_that_drivers_report(name, bfloat16, float16):
    for dtype, tflops in ((torch.bfloat16, bfloat16), (torch.float16, float16)):
        peak = find_peak(name, dtype)
        assert (peak and peak.flops_per_sec) == (tflops and tflops * 1e12)


def test_fp32_runs_on_the_tensor_cores_only_with_tf32():
    assert find_peak("NVIDIA A100-SXM4-40GB", torch.float32).flops_per_sec == 19.5e12
    assert find_peak("NVIDIA A100-SXM4-40GB", torch.float32, tf32=True).flops_per_sec == 156e12
    assert find_peak("Tesla T4", torch.float32, tf32=True).flops_per_sec == 8.1e12  # has no tf32


def test_a_peak_says_what_it_is_and_where_it_is_written():
    peak = find_peak("NVIDIA H100 PCIe", torch.bfloat16)
    assert (peak.name, peak.dtype, peak.is_measured) == ("H100 PCIe", torch.bfloat16, False)
    assert all(device.source.startswith("https://") for device in DEVICES)


def test_no_spelling_belongs_to_two_rows():
    spellings = [spelling for device in DEVICES for spelling in device.tokens]
    assert len(spellings) == len(set(spellings))


class FakeNow:
    """A clock on which every matmul takes one second: it advances with each reading that ends one."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        self.seconds += 0.5
        return self.seconds


def test_the_measured_peak_is_the_best_matmuls_operations_over_its_seconds():
    peak = measure_peak("cpu", torch.float32, time_limit_sec=40.0, now=FakeNow())
    assert peak.flops_per_sec == 2 * 2048**3 / 0.5
    assert peak.source == "measured: best of 28 matmuls, reached at 2048 x 2048 x 2048"
    assert peak.is_measured


def test_a_slow_device_stops_at_the_smallest_matmuls():
    peak = measure_peak("cpu", torch.float32, time_limit_sec=1.0, now=FakeNow())
    assert peak.source == "measured: best of 2 matmuls, reached at 512 x 512 x 512"


def test_measuring_is_real_and_takes_no_random_number():
    before = torch.get_rng_state()
    peak = measure_peak("cpu", torch.bfloat16, time_limit_sec=0.2)
    assert torch.equal(torch.get_rng_state(), before)
    assert 1e9 < peak.flops_per_sec < 1e15
    assert peak.name == device_name("cpu")


def test_a_dtype_that_the_device_cannot_multiply_is_an_error():
    with pytest.raises(RuntimeError):
        measure_peak("cpu", torch.bool, time_limit_sec=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator")
def test_a_real_accelerators_measured_peak_is_below_its_datasheets():
    device = torch.accelerator.current_accelerator()
    datasheet = find_peak(device_name(device), torch.bfloat16)
    measured = measure_peak(device, torch.bfloat16)
    assert datasheet is None or measured.flops_per_sec < datasheet.flops_per_sec
