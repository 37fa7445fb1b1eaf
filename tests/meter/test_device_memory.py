import csv
import math
from dataclasses import replace

import psutil
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from mfu_callback import MFUCallback
from mfu_callback.meter.device_memory import DeviceMemory, MemoryWatch, device_bytes
from mfu_callback.meter.device_watch import DeviceWatch
from mfu_callback.meter.gpu_state import GpuWatch
from mfu_callback.meter.metrics import Window, logged_values
from mfu_callback.meter.totals import Totals
from tests.helpers.event_files import tag_counts
from tests.helpers.fake_gpus import GIB, FakeAllocator, FakeNvml, properties_of_second
from tests.helpers.runs import PEAK, train_tiny
from tests.helpers.torch_features import found

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def allocator():
    """An allocator that is faked: there is no GPU."""
    return FakeAllocator()


@pytest.fixture
def watch(allocator):
    """Watches the fake allocator of a device with 80 GiB."""
    return MemoryWatch(CUDA, statistics=allocator, total_bytes=lambda _: 80 * GIB)


def test_the_memory_of_a_window_is_what_the_allocator_says(allocator, watch):
    allocator.holds(allocated=30 * GIB, reserved=40 * GIB)
    window = watch.take_window()
    assert (window.allocated_bytes, window.reserved_bytes, window.total_bytes) == (30 * GIB, 40 * GIB, 80 * GIB)
    assert window.share == 0.5
    assert math.isnan(window.resident_bytes)


def test_retries_are_counted_in_the_window_in_which_they_happen(allocator, watch):
    allocator.holds(allocated=1, reserved=2, retries=7, ooms=2)  # a search for the batch size, the warm-up
    watch.restart()
    assert (watch.take_window().retries, watch.take_window().ooms) == (0, 0)
    allocator.holds(allocated=1, reserved=2, retries=10, ooms=2)
    assert (watch.take_window().retries, watch.take_window().retries) == (3, 0)
    allocator.holds(allocated=1, reserved=2, retries=11, ooms=3)
    run = watch.take_run()
    assert (run.retries, run.ooms) == (4, 1)


def test_counts_that_the_user_resets_are_not_negative(allocator, watch):
    allocator.holds(allocated=1, reserved=2, retries=7)
    watch.restart()
    allocator.holds(allocated=1, reserved=2, retries=2)
    assert watch.take_window().retries == 2


def test_the_run_keeps_the_highest_peak_though_the_user_resets_it(allocator, watch):
    for allocated in (20, 50, 10):
        allocator.holds(allocated=allocated * GIB, reserved=60 * GIB)
        watch.take_window()
    assert watch.take_run().allocated_bytes == 50 * GIB


def test_no_statistics_of_the_users_are_reset(monkeypatch, allocator):
    resets = []
    rooms = ("torch.accelerator", "torch.accelerator.memory", "torch.cuda", "torch.cuda.memory")
    for room in filter(None, map(found, rooms)):
        for name in ("reset_peak_memory_stats", "reset_accumulated_memory_stats"):
            monkeypatch.setattr(room, name, lambda *_: resets.append(1), raising=False)
    monkeypatch.setattr(torch.cuda, "reset_max_memory_allocated", lambda *_: resets.append(1))
    watch = DeviceWatch(CUDA, memory=MemoryWatch(CUDA, statistics=allocator, total_bytes=lambda _: GIB))
    allocator.holds(allocated=1, reserved=2)
    watch.restart()
    watch.take_window()
    watch.take_run()
    assert resets == []


def test_a_device_that_has_allocated_nothing_is_not_full(watch):
    window = watch.take_window()
    assert (window.retries, window.ooms) == (0, 0)
    assert math.isnan(window.share)


def test_an_accelerator_without_statistics_leaves_everything_unknown():
    def fail(device):
        raise RuntimeError("Allocator for mps is not a DeviceAllocator")

    window = MemoryWatch(torch.device("mps"), statistics=fail).take_window()
    assert all(math.isnan(getattr(window, name)) for name in DeviceMemory.__slots__)


def test_a_device_that_hides_its_size_still_tells_what_it_holds(allocator):
    def fail(device):
        raise RuntimeError("no such property")

    allocator.holds(allocated=1, reserved=2, retries=3)
    window = MemoryWatch(CUDA, statistics=allocator, total_bytes=fail).take_window()
    assert window.reserved_bytes == 2
    assert math.isnan(window.share)


def test_a_cpu_tells_what_is_resident():
    watch = MemoryWatch(CPU)
    before = watch.take_window().resident_bytes
    held = torch.ones(2**26)  # 256 MiB
    after = watch.take_window()
    assert after.resident_bytes - before > 0.8 * held.nbytes
    assert 0 < after.share < 1
    assert after.total_bytes <= psutil.virtual_memory().total
    assert math.isnan(after.retries)


def test_a_machine_has_the_memory_that_its_control_group_allows(monkeypatch):
    monkeypatch.setattr("mfu_callback.meter.device_memory.control_group_memory", lambda: iter([(2**30, 5), (2**20, 1)]))
    assert device_bytes(CPU) == 2**20


RANK = Totals(steps=1, other_sec=1.0)


def test_several_devices_log_the_fullest_and_count_all():
    one = replace(
        RANK, reserved_bytes=30.0 * GIB, memory_share=0.4, alloc_retries=2.0, ooms=0.0, resident_bytes=math.nan
    )
    two = replace(RANK, reserved_bytes=20.0 * GIB, memory_share=0.6, alloc_retries=3.0, ooms=1.0)
    values = logged_values(Window(ranks=(one, two)))
    assert {name: value for name, value in values.items() if name.startswith("memory/")} == {
        "memory/reserved_gib": 30.0,
        "memory/device_share": 0.6,
        "memory/alloc_retries": 5.0,
        "memory/ooms": 1.0,
    }


def test_the_summary_has_the_memory_of_the_run(allocator, watch):
    both = DeviceWatch(CUDA, memory=watch, gpu=GpuWatch(CUDA, FakeNvml(), properties_of_second))
    allocator.holds(allocated=30 * GIB, reserved=40 * GIB, retries=2)
    both.take_window()
    totals = replace(RANK, **both.take_run())
    assert both.figures(Window(ranks=(totals,)))["memory"] == {
        "allocated_bytes": 30 * GIB,
        "reserved_bytes": 40 * GIB,
        "resident_bytes": None,
        "total_bytes": 80 * GIB,
        "share": 0.5,
        "retries": 2,
        "ooms": 0,
        "swapped_bytes": None,
    }


def test_a_run_on_a_cpu_logs_its_resident_memory(tmp_path):
    callback = MFUCallback(peak=PEAK, warmup_steps=1)
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "tensorboard")]
    train_tiny(callback, logger=loggers, max_steps=5)
    with open(f"{loggers[0].log_dir}/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    logged = [float(row["memory/resident_gib"]) for row in rows if row["memory/resident_gib"]]
    resident = psutil.Process().memory_info().rss / GIB
    assert len(logged) == 4
    assert all(0.5 * resident < value < 2 * resident for value in logged)
    assert tag_counts(loggers[1].log_dir)["memory/resident_gib"] == 4
    assert not [name for name in rows[-1] if name.startswith("gpu/") or name.endswith(("ooms", "retries"))]

    memory = callback.summary.as_dict()["memory"]
    assert memory["resident_bytes"] >= max(logged) * GIB * (1 - 1e-6)
    assert memory["share"] == memory["resident_bytes"] / memory["total_bytes"]
    assert memory["allocated_bytes"] is memory["retries"] is None
    assert callback.summary.gpu is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_gpu_tells_its_memory_and_keeps_its_statistics():
    held = torch.ones(2**26, device=CUDA)
    before = torch.cuda.memory_stats(CUDA)
    watch = MemoryWatch(CUDA)
    window = watch.take_window()
    assert held.nbytes <= window.allocated_bytes <= window.reserved_bytes < window.total_bytes
    assert (window.retries, window.ooms) == (0, 0)
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(2**50, device=CUDA)
    assert watch.take_window().ooms == 1
    after = torch.cuda.memory_stats(CUDA)
    assert all(after[name] == before[name] for name in before if name.endswith(".peak"))
