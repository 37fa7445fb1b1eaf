import inspect
import sys
from dataclasses import replace

import pytest
import torch

from mfu_callback.meter.device_memory import MemoryWatch
from mfu_callback.meter.device_watch import DeviceWatch
from mfu_callback.meter.gpu_state import GpuReading, GpuWatch, clock_fact, figures_of
from mfu_callback.meter.metrics import Window, logged_values
from mfu_callback.meter.totals import Totals
from tests.helpers.fake_gpus import FakeAllocator, FakeNvml, properties_of_second
from tests.helpers.runs import FakeNow

CUDA = torch.device("cuda", 0)


@pytest.fixture
def nvml():
    """NVML of a machine with two GPUs, faked: there is none."""
    return FakeNvml()


@pytest.fixture
def now():
    return FakeNow()


def watch_of(nvml, now=lambda: 0.0, properties=properties_of_second):
    watch = GpuWatch(CUDA, nvml, properties, now)
    watch.restart()
    return watch


def test_the_gpu_is_found_though_torch_numbers_it_otherwise(nvml):
    reading = watch_of(nvml).take_window()
    assert nvml.asked == {"second"}
    assert reading == GpuReading(
        power_watts=690.0,
        power_limit_watts=700.0,
        clock_mhz=1410,
        max_clock_mhz=1980,
        temperature_celsius=64,
        reasons=("power cap",),
    )
    assert reading.clock_share == pytest.approx(0.712, abs=1e-3)


def test_the_gpu_is_found_by_its_bus_where_its_uuid_is_unknown(nvml):
    nvml.failing.add("nvmlDeviceGetHandleByUUID")
    assert watch_of(nvml).take_window().clock_mhz == 1410
    assert nvml.asked == {"second"}


def test_a_gpu_that_cannot_be_told_from_others_is_not_read(nvml):
    nvml.failing |= {"nvmlDeviceGetHandleByUUID", "nvmlDeviceGetHandleByPciBusId"}
    assert watch_of(nvml).take_run() is None


def test_a_part_of_a_gpu_has_no_clock_of_its_own():
    assert watch_of(FakeNvml(mig=1)).take_run() is None


def test_a_gpu_without_such_a_mode_is_read(nvml):
    nvml.failing.add("nvmlDeviceGetMigMode")
    assert watch_of(nvml).take_window().clock_mhz == 1410


def test_without_nvml_nothing_is_known_and_nothing_fails(monkeypatch, nvml):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # what an import finds is then an ImportError
    assert watch_of(None).take_run() is None
    nvml.failing.add("nvmlInit")  # no driver
    assert watch_of(nvml).take_window() == GpuReading()


def test_nvml_is_not_imported_for_a_cpu(monkeypatch):
    def fail(name):
        raise AssertionError(f"{name} is imported")

    monkeypatch.setattr("mfu_callback.meter.gpu_state.importlib.import_module", fail)
    watch = GpuWatch(torch.device("cpu"))
    watch.restart()
    assert watch.take_run() is None


@pytest.mark.parametrize(
    ("failing", "unknown"),
    [
        ("nvmlDeviceGetPowerUsage", "power_watts"),
        ("nvmlDeviceGetEnforcedPowerLimit", "power_limit_watts"),
        ("nvmlDeviceGetClockInfo", "clock_mhz"),
        ("nvmlDeviceGetMaxClockInfo", "max_clock_mhz"),
        ("nvmlDeviceGetTemperature", "temperature_celsius"),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", "reasons"),
    ],
)
def test_a_figure_that_raises_is_unknown_and_the_others_are_not(nvml, failing, unknown):
    expected = replace(watch_of(nvml).take_window(), **{unknown: None})
    nvml.failing.add(failing)
    assert watch_of(nvml).take_window() == expected


def test_power_is_the_mean_over_the_window_where_energy_is_counted(nvml, now):
    watch = watch_of(nvml, now)
    for joules in (6000.0, 10000.0):
        now.seconds += 10.0
        nvml.gpus["second"]["joules"] = joules
        reading = watch.take_window()
    assert reading.power_watts == 400.0
    assert watch.take_run()["power_watts"] == 500.0


def test_newer_names_come_before_deprecated_ones(nvml):
    nvml.nvmlDeviceGetCurrentClocksEventReasons = lambda handle: 0x40 | 0x8
    assert watch_of(nvml).take_window().reasons == ("hardware slowdown", "hardware thermal slowdown")


def test_an_idle_gpu_and_chosen_clocks_are_no_reasons(nvml):
    nvml.gpus["second"]["reasons"] = 0x1 | 0x2 | 0x100
    assert watch_of(nvml).take_window().reasons == ()


def test_the_figures_of_a_run():
    slow = GpuReading(
        clock_mhz=1200, max_clock_mhz=1600, power_watts=650.0, power_limit_watts=700.0, reasons=("power cap",)
    )
    readings = [slow] * 3 + [replace(slow, clock_mhz=1600, power_watts=250.0, reasons=(), temperature_celsius=50)]
    assert figures_of(readings) == {
        "readings": 4,
        "power_watts": 550.0,
        "power_limit_watts": 700.0,
        "clock_mhz": 1300,
        "max_clock_mhz": 1600,
        "clock_share": 0.8125,
        "clock_share_min": 0.75,
        "temperature_celsius": 50,
        "throttle_reasons": {"power cap": 0.75},
    }
    assert figures_of([]) is figures_of([GpuReading()]) is None


@pytest.mark.parametrize(
    ("gpu", "fact"),
    [
        (None, None),
        ({"clock_mhz": None, "max_clock_mhz": 1980}, None),
        ({"clock_mhz": 1980.0, "max_clock_mhz": 1980, "throttle_reasons": None}, "1,980 of 1,980 MHz on average"),
        ({"clock_mhz": 1905.4, "max_clock_mhz": 1980, "throttle_reasons": {}}, "1,905 of 1,980 MHz on average"),
        (
            {"clock_mhz": 1410.0, "max_clock_mhz": 1980, "throttle_reasons": {"power cap": 0.8, "power brake": 0.05}},
            "1,410 of 1,980 MHz on average (power cap in 80 %, power brake in 5 % of the readings)",
        ),
    ],
)
def test_the_clock_is_told_as_a_fact(gpu, fact):
    assert clock_fact(gpu) == (None if fact is None else f"the clock was {fact}")


def test_several_devices_log_the_mean_power_and_the_slowest_clock():
    fast = Totals(steps=1, other_sec=1.0, power_watts=700.0, clock_share=1.0)
    slow = Totals(steps=1, other_sec=1.0, power_watts=300.0, clock_share=0.5)
    values = logged_values(Window(ranks=(fast, slow)))
    assert (values["gpu/power_watts"], values["gpu/clock_share"]) == (500.0, 0.5)


def test_the_summary_has_the_clock_of_this_device_and_of_the_slowest(nvml):
    watch = DeviceWatch(CUDA, MemoryWatch(CUDA, FakeAllocator()), GpuWatch(CUDA, nvml, properties_of_second))
    watch.restart()
    watch.take_window()
    own = Totals(steps=1, other_sec=1.0, **watch.take_run())
    gpu = watch.figures(Window(ranks=(own, replace(own, clock_share=0.5))))["gpu"]
    assert (gpu["clock_mhz"], gpu["slowest_clock_share"], gpu["readings"]) == (1410, 0.5, 1)


def test_the_fake_has_the_functions_of_the_real_package():
    real = pytest.importorskip("pynvml", reason="nvidia-ml-py is optional")
    for name, function in inspect.getmembers(FakeNvml, inspect.isfunction):
        if name.startswith("nvml"):
            parameters = list(inspect.signature(function).parameters)[1:]
            inspect.signature(getattr(real, name)).bind(*parameters)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without NVML")
def test_the_real_package_without_a_driver_leaves_everything_unknown():
    pytest.importorskip("pynvml", reason="nvidia-ml-py is optional")
    assert watch_of(None).take_run() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_gpu_tells_its_clock():
    pytest.importorskip("pynvml", reason="nvidia-ml-py is optional")
    watch = GpuWatch(CUDA)
    watch.restart()
    matrix = torch.rand(4096, 4096, device=CUDA)
    for _ in range(100):
        matrix @ matrix
    torch.cuda.synchronize()
    figures = watch.take_run()
    assert 0 < figures["clock_share"] <= 1
    assert 0 < figures["power_watts"] < 2 * figures["power_limit_watts"]
    assert "MHz on average" in clock_fact(figures)
