"""Which dtype is fast: compared in turns on a device of its own rates, and on this machine."""

import pytest
import torch

from mfu_callback.peaks import rates_in_training
from mfu_callback.peaks.cache import DIRECTORY_VARIABLE, CacheKey, cached_rates, keep_best, keep_rates
from mfu_callback.peaks.call_timers import HostCallTimer
from mfu_callback.peaks.dtype_rates import compare_dtypes, trainable_dtypes
from mfu_callback.peaks.peak import Peak

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
# FLOP/s in the plain and the transposed layout, as measured on two cores with and without AVX-512 and AMX.
AVX2 = {FP32: (140e9, 145e9), BF16: (1.3e9, 17e9)}
AMX = {FP32: (230e9, 240e9), BF16: (0.4e12, 1.0e12)}


class FakeDevice:
    """Multiplies at given rates on a clock that only it moves; `slow` makes it slower for a while."""

    share = 1.0

    def __init__(self, rates, slow=lambda now: 1.0):
        self.time, self.rates, self.slow, self.calls = 0.0, rates, slow, []

    def matmul(self, shape, device, dtype):
        if dtype not in self.rates:
            raise RuntimeError(f"not implemented for {dtype}")

        def call():
            self.calls.append((dtype, shape))
            self.time += shape.flops / self.rates[dtype][shape.transposed] * self.slow(self.time)

        return call

    def compare(self, *dtypes, device=CPU):
        timer = HostCallTimer(synchronize=lambda: None, now=lambda: self.time)
        now = lambda: self.time  # noqa: E731
        core_sec = lambda: self.time * self.share  # noqa: E731
        return compare_dtypes(
            device, dtypes, time_limit_sec=1.2, timer=timer, now=now, matmul=self.matmul, core_sec=core_sec
        )


def as_found(rates):
    return {
        str(dtype).removeprefix("torch."): dict(zip(("plain", "transposed"), both, strict=True))
        for dtype, both in rates.items()
    }


@pytest.mark.parametrize("rates", [AVX2, AMX])
def test_both_layouts_of_each_dtype_have_their_rates(rates):
    device = FakeDevice(rates)
    found, is_noisy = device.compare(FP32, BF16)
    assert not is_noisy
    for name, both in as_found(rates).items():
        assert found[name] == pytest.approx(both)
    assert device.time < 2.0


def test_a_machine_that_is_slow_for_a_second_slows_all_dtypes_alike():
    found, _ = FakeDevice(AMX, slow=lambda now: 4.0 if now > 0.5 else 1.0).compare(FP32, BF16)
    assert found["bfloat16"]["transposed"] / found["float32"]["transposed"] == pytest.approx(1.0e12 / 240e9)


def test_a_dtype_that_the_device_cannot_multiply_is_left_out():
    assert list(FakeDevice(AVX2).compare(FP32, FP16, BF16)[0]) == ["float32", "bfloat16"]
    assert FakeDevice({}).compare(FP32, BF16)[0] == {}


def test_a_matmul_that_was_slow_for_a_moment_is_not_taken_for_a_large_one():
    """Short matmuls suffer most from a thread that is kept from its core."""
    calls = iter(range(10**9))
    device = FakeDevice(AVX2, slow=lambda now: 40.0 if next(calls) in (0, 1, 2) else 1.0)
    found, _ = device.compare(FP32, BF16)
    assert found["float32"]["plain"] == pytest.approx(140e9)
    assert max(shape.m for dtype, shape in device.calls if dtype == FP32) > 256


def test_rates_of_a_busy_machine_are_noisy_and_not_kept(monkeypatch, tmp_path):
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))
    device = FakeDevice(AVX2)
    device.share = 0.6
    rates, is_noisy = device.compare(FP32, BF16)
    assert is_noisy
    monkeypatch.setattr("mfu_callback.peaks.dtype_rates.compare_dtypes", lambda *_, **__: (rates, is_noisy))
    assert rates_in_training(CPU)[FP32].peak.is_noisy
    assert cached_rates(CacheKey.of(CPU, FP32, BF16)) is None


def test_no_call_is_so_long_that_the_others_get_no_turn():
    device = FakeDevice(AVX2)
    device.compare(FP32, BF16)
    longest = max(shape.flops / AVX2[dtype][shape.transposed] for dtype, shape in device.calls)
    assert longest < 0.15
    assert all(sum(one == (dtype, shape) for one in device.calls) >= 2 for dtype, shape in device.calls)


def test_an_accelerator_starts_with_large_matmuls():
    device = FakeDevice({FP32: (20e12, 20e12)})
    device.compare(FP32, device=torch.device("mps"))
    assert min(shape.m for _, shape in device.calls) == 1024


@pytest.fixture
def no_measurement(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("measured")

    monkeypatch.setattr("mfu_callback.peaks.dtype_rates.compare_dtypes", fail)


def test_the_rate_in_training_is_over_both_layouts(no_measurement):
    keep_rates(as_found(AVX2), CacheKey.of(CPU, FP32, BF16))
    rates = rates_in_training(CPU, BF16)
    assert rates[BF16].in_training == pytest.approx(2 / (1 / 1.3e9 + 1 / 17e9))
    assert (rates[BF16].peak.flops_per_sec, rates[BF16].peak.kind, rates[BF16].peak.dtype) == (17e9, "measured", BF16)
    assert list(rates) == [FP32, BF16]


def test_a_peak_that_was_measured_higher_is_the_peak(no_measurement):
    keep_rates(as_found(AVX2), CacheKey.of(CPU, FP32, BF16))
    higher = Peak(flops_per_sec=170e9, name="X", dtype=FP32, source="measured: best of 20 matmuls")
    keep_best(higher, CacheKey.of(CPU, FP32))
    assert rates_in_training(CPU)[FP32].peak == higher


def test_it_is_measured_once(monkeypatch, own_cache):
    asked = []

    def compare(device, dtypes, *, time_limit_sec):
        asked.append((dtypes, time_limit_sec))
        return as_found(dict.fromkeys(dtypes, (1e9, 1e9))), False

    monkeypatch.setattr("mfu_callback.peaks.dtype_rates.compare_dtypes", compare)
    said = []
    for _ in range(2):
        assert list(rates_in_training(CPU, FP16, announce=said.append)) == [FP32, BF16, FP16]
    assert said == ["the dtypes of this device are compared, which takes up to 2 s, once."]
    assert asked == [((FP32, BF16, FP16), 1.2)]
    assert rates_in_training(CPU, torch.float8_e4m3fn, measure=False) == {}


def test_a_known_device_needs_no_measurement(no_measurement, monkeypatch):
    for module in ("resolve", "dtype_rates", "cache"):
        monkeypatch.setattr(f"mfu_callback.peaks.{module}.device_name", lambda device: "NVIDIA A100-SXM4-40GB")
    for module in ("resolve", "cache"):
        monkeypatch.setattr(f"mfu_callback.peaks.{module}.multiprocessors", lambda device: 108)
    rates = {dtype: rate.peak.flops_per_sec for dtype, rate in rates_in_training(GPU, FP32).items()}
    assert rates == {FP32: 19.5e12, FP16: 312e12, BF16: 312e12}


def test_a_dtype_of_a_known_device_that_is_not_supported_is_no_choice(no_measurement, monkeypatch):
    for module in ("resolve", "dtype_rates", "cache"):
        monkeypatch.setattr(f"mfu_callback.peaks.{module}.device_name", lambda device: "Tesla T4")
    for module in ("resolve", "cache"):
        monkeypatch.setattr(f"mfu_callback.peaks.{module}.multiprocessors", lambda device: 40)
    assert list(rates_in_training(GPU, FP32)) == [FP32, FP16]


def test_this_machine():
    before = torch.get_rng_state()
    dtypes = trainable_dtypes(CPU)
    found, _ = compare_dtypes(CPU, dtypes, time_limit_sec=0.5)
    assert list(found) == ["float32", "bfloat16"]
    assert all(1e7 < rate < 1e15 for both in found.values() for rate in both.values())
    assert torch.equal(torch.get_rng_state(), before)
