"""The sweep on a clock of its own, and on this machine."""

import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from mfu_callback import find_peak, measure_peak
from mfu_callback.peaks.call_timers import EventCallTimer, HostCallTimer, call_timer_for
from mfu_callback.peaks.measure import matmul_of
from mfu_callback.peaks.shapes import shapes_for
from mfu_callback.peaks.sweep import CALLS, Shape, Sweep, sweep_shapes
from mfu_callback.peaks.this_machine import cores, device_name, multiprocessors
from mfu_callback.tools.accelerators import current_accelerator
from tests.helpers.torch_features import needs

FLOAT8 = needs("torch.nn.functional.scaled_mm", "2.10")

SMALL, LARGE, LARGER = Shape(256, 256, 256), Shape(1024, 1024, 1024), Shape(2048, 2048, 2048)


class FakeDevice:
    """Multiplies at given rates of each shape, one after the other, on a clock that only it moves."""

    def __init__(self, rates):
        self.time = 0.0
        self.calls = []
        self.rates = {shape: iter(rate) if isinstance(rate, list) else rate for shape, rate in rates.items()}

    def now(self):
        return self.time

    def matmul_of(self, shape):
        rate = self.rates[shape]
        if rate is None:
            raise torch.OutOfMemoryError("too large")

        def call():
            self.calls.append(shape)
            self.time += shape.flops / (rate if isinstance(rate, float) else next(rate))

        return call

    def sweep(self, time_limit_sec=3.0):
        timer = HostCallTimer(synchronize=lambda: None, now=self.now)
        return sweep_shapes(list(self.rates), self.matmul_of, timer, time_limit_sec=time_limit_sec, now=self.now)


def test_the_fastest_shape_is_called_until_the_time_is_up():
    device = FakeDevice({LARGE: 1e12, LARGER: 2e12})
    sweep = device.sweep()
    assert (sweep.shape, sweep.best, sweep.best_over_median, sweep.is_noisy) == (LARGER, pytest.approx(2e12), 1, False)
    seconds_of_twenty = CALLS * LARGER.flops / 2e12
    assert 3 <= device.time <= 3 + seconds_of_twenty
    assert len(sweep.rates) > CALLS


def test_a_slow_device_is_called_three_times_and_its_peak_is_noisy():
    sweep = FakeDevice({LARGE: 1e9}).sweep(time_limit_sec=0.1)
    assert (len(sweep.rates), sweep.is_noisy) == (3, True)


def test_a_sweep_ends_in_time_however_slow_one_of_the_layouts_is():
    """As bfloat16 on a CPU without AVX-512: 0.8 GFLOP/s plain, 10 transposed."""
    shapes = shapes_for("cpu")
    device = FakeDevice({shape: 1e10 if shape.transposed else 8e8 for shape in shapes})
    sweep = device.sweep(time_limit_sec=1.2)
    assert (sweep.shape.transposed, sweep.is_noisy) == (True, False)
    assert device.time < 1.5
    assert max(shape.m for shape in device.calls if not shape.transposed) == 256


def test_a_shape_that_would_take_too_long_is_not_tried():
    device = FakeDevice({SMALL: 1e9, LARGE: 1e9, LARGER: 1e9})
    assert device.sweep().shape == SMALL
    assert set(device.calls) == {SMALL}


def test_a_small_shape_wins_only_where_no_large_one_fits():
    assert FakeDevice({SMALL: 9e12, LARGE: 1e12}).sweep().shape == LARGE
    assert FakeDevice({LARGE: 9e12, LARGER: 1e12}).sweep().shape == LARGE


def test_of_small_shapes_alone_the_fastest_wins():
    smaller, small = Shape(64, 64, 64), Shape(128, 128, 128)
    assert FakeDevice({smaller: 2e9, small: 1e9, SMALL: 5e8}).sweep(time_limit_sec=0.5).shape == smaller


def test_a_first_call_that_was_slow_for_a_moment_excludes_no_larger_shape():
    slow_at_first = [1e9] * 5 + [2e12] * 1000
    device = FakeDevice({SMALL: slow_at_first, LARGE: 2e12, LARGER: 2.5e12})
    assert device.sweep().shape == LARGER


def test_both_layouts_of_the_right_matrix_are_tried():
    transposed = LARGE._replace(transposed=True)
    device = FakeDevice({LARGE: 1e11, transposed: 1e12})
    assert device.sweep().shape == transposed
    assert str(transposed) == "1024 x 1024 x 1024 transposed"
    cpu = torch.device("cpu")
    for shape in (Shape(4, 8, 16), Shape(4, 8, 16, transposed=True)):
        right = matmul_of(shape, cpu, torch.float32).__closure__
        strides = {
            cell.cell_contents.stride() for cell in right if getattr(cell.cell_contents, "shape", None) == (8, 16)
        }
        assert strides == ({(1, 8)} if shape.transposed else {(16, 1)})


def test_a_shape_that_does_not_fit_into_memory_is_left_out():
    assert FakeDevice({LARGE: 1e12, LARGER: None}).sweep().shape == LARGE


def test_a_device_that_cannot_multiply_at_all_raises():
    with pytest.raises(RuntimeError, match="too large"):
        FakeDevice({LARGE: None}).sweep()


@pytest.mark.parametrize(
    ("rates", "noisy"),
    [
        ([1.0] * 40, False),
        ([1.0] * 39 + [1.14], False),
        ([1.0] * 39 + [1.16], True),
        ([1.0] * 20 + [1.09] * 20, False),
        ([1.0] * 20 + [1.11] * 20, True),
        ([1.11] * 20 + [1.0] * 20, True),
    ],
)
def test_a_sweep_whose_speed_varies_says_so(rates, noisy):
    assert Sweep(shape=LARGE, rates=tuple(rates)).is_noisy is noisy


@pytest.mark.parametrize(("share", "noisy"), [(1.0, False), (0.91, False), (0.89, True), (None, False)])
def test_a_sweep_that_shared_its_cores_is_noisy(share, noisy):
    assert Sweep(shape=LARGE, rates=(1.0,) * 40, share_of_cores=share).is_noisy is noisy


def test_the_share_of_the_cores_is_what_the_process_has_computed_per_thread():
    device = FakeDevice({LARGE: 1e12})
    timer = HostCallTimer(synchronize=lambda: None, now=device.now)
    sweep = sweep_shapes(
        [LARGE], device.matmul_of, timer, time_limit_sec=3.0, now=device.now, core_sec=lambda: device.time * 0.6
    )
    assert sweep.share_of_cores == pytest.approx(0.6)


@pytest.mark.skipif(cores() < 2, reason="needs a core for the other process")
def test_a_busy_machine_is_noticed():
    with busy(cores()):
        peak = measure_peak("cpu", torch.float32, time_limit_sec=1.0, use_cache=False)
    assert peak.is_noisy
    assert "% of the cores, since other processes ran on them" in peak.source


@contextmanager
def busy(processes):
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_the_shapes_suit_the_device():
    assert shapes_for("cpu") == sorted(shapes_for("cpu"), key=lambda shape: shape.flops)
    assert not shapes_for("cpu")[0].is_large
    assert all(shape.is_large for shape in shapes_for("cuda"))
    for multiprocessors_ in (108, 132, 148, 20):
        filling = set(shapes_for("cuda", multiprocessors_)) - set(shapes_for("cuda"))
        assert len(filling) == 12
        for shape in filling:  # tiles of 128 x 256
            assert (shape.m // 128) * (shape.n // 256) % multiprocessors_ == 0
            assert 1 / 8 <= shape.m / shape.n <= 8


class FakeEvent:
    """As torch.cuda.Event: takes its time when the device's queue reaches it."""

    def __init__(self, queue):
        self.queue = queue

    def record(self):
        self.queue.append(self)

    def elapsed_time(self, end):
        assert self.at is not None, "read before the device had come to it"
        return (end.at - self.at) * 1e3


class FakeQueue:
    """A device that works through its queue only when it is synchronized."""

    def __init__(self):
        self.queue, self.time, self.synchronized = [], 0.0, 0

    def synchronize(self):
        self.synchronized += 1
        for item in self.queue:
            if isinstance(item, FakeEvent):
                item.at = self.time
            else:
                self.time += item
        self.queue.clear()


def test_events_time_each_call_and_the_host_waits_once():
    device = FakeQueue()
    seconds = iter([0.5, 0.25, 0.125])
    timer = EventCallTimer(make_event=lambda: FakeEvent(device.queue), synchronize=device.synchronize)
    assert timer.seconds_of(lambda: device.queue.append(next(seconds)), 3) == [0.5, 0.25, 0.125]
    assert device.synchronized == 1


def test_the_host_waits_for_the_device_at_both_ends_of_a_call():
    seen = []
    clock = iter(np.arange(0, 4, 0.5))
    timer = HostCallTimer(synchronize=lambda: seen.append("wait"), now=lambda: next(clock))
    assert timer.seconds_of(lambda: seen.append("call"), 2) == [0.5, 0.5]
    assert seen == ["wait", "call", "wait"] * 2


def test_cuda_is_timed_by_its_events_and_others_by_the_host():
    assert isinstance(call_timer_for(torch.device("cuda", 0)), EventCallTimer)
    assert isinstance(call_timer_for(torch.device("mps")), HostCallTimer)
    assert isinstance(call_timer_for(torch.device("cpu")), HostCallTimer)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, pytest.param(torch.float8_e4m3fn, marks=FLOAT8)]
)
def test_this_machines_peak(dtype):
    threads, before = torch.get_num_threads(), torch.get_rng_state()
    peak = measure_peak("cpu", dtype, time_limit_sec=0.3, use_cache=False)
    assert 1e8 < peak.flops_per_sec < 1e15
    assert peak.source.startswith("measured: best of ")
    assert (peak.kind, peak.dtype, peak.name) == ("measured", dtype, device_name("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_a_default_device_and_a_default_dtype_of_the_users_change_nothing():
    with torch.device("meta"):
        torch.set_default_dtype(torch.float64)
        try:
            peak = measure_peak("cpu", torch.float32, time_limit_sec=0.1, use_cache=False)
        finally:
            torch.set_default_dtype(torch.float32)
    assert 1e8 < peak.flops_per_sec < 1e15


@pytest.mark.parametrize("time_limit_sec", [0, -1, float("nan"), float("inf")])
def test_a_time_limit_that_is_none_is_an_error(time_limit_sec):
    with pytest.raises(ValueError, match=r"time_limit_sec=.* must be above 0 and finite"):
        measure_peak("cpu", torch.float32, time_limit_sec=time_limit_sec)


@FLOAT8
def test_fp8_does_not_mind_the_users_default_dtype():
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert measure_peak("cpu", torch.float8_e4m3fn, time_limit_sec=0.1, use_cache=False).flops_per_sec > 0
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a build without the device")
def test_a_device_that_this_build_of_torch_does_not_have_is_an_error():
    with pytest.raises(RuntimeError):
        measure_peak("cuda", torch.float32, time_limit_sec=0.1, use_cache=False)


def test_a_dtype_that_the_device_cannot_multiply_is_an_error():
    with pytest.raises(RuntimeError):
        measure_peak("cpu", torch.bool, time_limit_sec=0.1, use_cache=False)


def test_the_matmul_that_is_timed_is_that_of_its_shape():
    seen = []
    matmul = matmul_of(Shape(4, 8, 16), torch.device("cpu"), torch.float32)
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        matmul()
        seen.append(counter.get_total_flops())
    assert seen == [Shape(4, 8, 16).flops] == [2 * 4 * 8 * 16]


def test_a_measurement_in_a_thread_leaves_grad_mode_alone():
    states = []

    def measure():
        measure_peak("cpu", torch.float32, time_limit_sec=0.1, use_cache=False)
        states.append(torch.is_grad_enabled())

    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    assert states == [True]
    assert torch.is_grad_enabled()


@pytest.mark.gpu
@pytest.mark.skipif(current_accelerator() is None, reason="needs an accelerator")
def test_a_real_accelerators_measured_peak_is_below_its_datasheets():
    device = current_accelerator()
    measured = measure_peak(device, torch.bfloat16, use_cache=False)
    datasheet = find_peak(device_name(device), torch.bfloat16, multiprocessors=multiprocessors(device))
    assert measured.flops_per_sec > 0
    assert datasheet is None or 0.3 < measured.flops_per_sec / datasheet.flops_per_sec < 1.02
