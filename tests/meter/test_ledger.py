"""When the device is waited for, on a device whose work takes its time."""

import math
from dataclasses import replace

import pytest
import torch

from mfu_callback.flops.repeated_counts import TrainingFlops
from mfu_callback.meter.batches import Batch, LossTokens
from mfu_callback.meter.clock import DeviceTimer, HostTimer, Phase, StepClock
from mfu_callback.meter.done import Done
from mfu_callback.meter.ledger import PARTS, Ledger
from mfu_callback.meter.work import Work
from tests.helpers.runs import FakeNow
from tests.meter.test_clock import FakeDevice, FakeEvent

GPU = torch.device("cuda", 0)


@pytest.fixture
def device():
    return FakeDevice()


BATCH = Batch(tokens=8, samples=1, flops=TrainingFlops(0.0, 0.0))


def ledger_of(clock, sync):
    ledger = Ledger(clock, Work(lambda batch: batch.flops), sync=sync)
    return ledger, clock


def make(device, sync):
    return ledger_of(StepClock(DeviceTimer(GPU, lambda: FakeEvent(device), device.synchronize)), sync)


def step(ledger, clock, device, milliseconds=10.0, part="training", real_tokens=None, loss_tokens=None):
    ledger.begin_step()
    ledger._work.note(real_tokens)
    if loss_tokens is not None:
        ledger._work.note(LossTokens(loss_tokens))
    clock.enter(Phase.FORWARD)
    device.launch(milliseconds)
    ledger._work.note(BATCH)
    if part != "training":
        ledger.leave_out(part)
    ledger.end_step()


@pytest.mark.parametrize(("sync", "waits"), [("step", 8), ("window", 1), ("events", 0)])
def test_how_often_the_device_is_waited_for(device, sync, waits):
    ledger, clock = make(device, sync)
    for _ in range(4):
        step(ledger, clock, device)
    ledger.take_window()
    assert device.waits == waits


@pytest.mark.parametrize("sync", ["step", "window", "events"])
def test_every_mode_comes_to_the_same_totals(device, sync):
    ledger, clock = make(device, sync)
    for part, milliseconds in (("counting", 900.0), ("warmup", 70.0), ("training", 10.0), ("training", 30.0)):
        step(ledger, clock, device, milliseconds, part)
    run = ledger.run_totals(wait=True)
    assert (run.steps, run.tokens, run.seconds) == (2, 16, pytest.approx(0.04))
    assert list(ledger.step_times) == pytest.approx([0.01, 0.03])
    parts = ledger.wall_time_sec()
    assert (parts["counting"], parts["warmup"], parts["training"]) == pytest.approx((0.9, 0.07, 0.04))


def test_events_are_read_when_the_device_has_come_to_them_and_not_before(device):
    ledger, clock = make(device, "events")
    step(ledger, clock, device)
    step(ledger, clock, device)
    assert ledger.take_window().steps == 0
    device.synchronize(GPU)  # the device catches up by itself
    step(ledger, clock, device)
    assert ledger.take_window().steps == 2
    assert ledger.take_window().steps == 0
    assert ledger.run_totals(wait=False).steps == 2
    assert ledger.run_totals(wait=True).steps == 3


def test_a_run_that_logs_nothing_keeps_a_bounded_number_of_steps(device):
    ledger, clock = make(device, "window")
    for _ in range(2500):
        step(ledger, clock, device)
    assert device.waits == 2
    assert ledger.ended - ledger._booked <= 1000


def test_real_tokens_are_read_with_the_window_and_unknown_where_a_step_has_none(device):
    ledger, clock = make(device, "step")
    for number in (5, 7):
        step(ledger, clock, device, real_tokens=torch.tensor(number))
    assert ledger.take_window().real_tokens == 12
    step(ledger, clock, device, real_tokens=torch.tensor(1))
    step(ledger, clock, device, real_tokens=torch.tensor(2), part="warmup")
    assert ledger.run_totals(wait=True).real_tokens == 13
    step(ledger, clock, device)
    assert math.isnan(ledger.take_window().real_tokens)


def test_the_parts_sum_to_the_wall_time():
    now = FakeNow()
    clock = StepClock(HostTimer(now))
    ledger, _ = ledger_of(clock, "step")
    now.seconds += 10
    ledger.assign_rest("setup")
    now.seconds += 3
    ledger.assign_rest("sanity")
    clock.start()
    for phase, seconds in ((Phase.FORWARD, 30), (Phase.VALIDATION, 8)):
        clock.enter(phase)
        now.seconds += seconds
    ledger.end_step()
    ledger.take_window()
    now.seconds += 2
    parts = ledger.wall_time_sec()
    assert tuple(parts) == PARTS
    assert {part: seconds for part, seconds in parts.items() if seconds} == {
        "setup": 10,
        "sanity": 3,
        "training": 30,
        "validation": 8,
        "rest": 2,
    }


def test_clocks_that_differ_a_little_make_no_negative_rest(device):
    clock = StepClock(DeviceTimer(GPU, lambda: FakeEvent(device), device.synchronize, now=lambda: 1000.0))
    ledger, _ = ledger_of(clock, "step")
    step(ledger, clock, device)
    ledger.take_window()
    assert ledger.wall_time_sec()["training"] > 0
    assert ledger.wall_time_sec()["rest"] == 0


@pytest.mark.parametrize("sync", ["step", "window", "events"])
def test_what_was_done_has_every_step_but_those_that_were_broken_off(device, sync):
    ledger, clock = make(device, sync)
    for part in ("warmup", "counting", "sampling", "rest", "training", "training"):
        step(ledger, clock, device, part=part, real_tokens=torch.tensor(6), loss_tokens=torch.tensor(4))
    run = ledger.run_totals(wait=True)
    assert (run.steps, run.tokens) == (2, 16)
    assert replace(ledger.done, device_sec=0) == Done(steps=5, samples=5, tokens=40, real_tokens=30, loss_tokens=20)


def test_what_was_done_so_far_has_steps_that_the_device_has_not_finished_and_waits_for_none(device):
    ledger, clock = make(device, "events")
    for _ in range(2):
        step(ledger, clock, device, real_tokens=torch.tensor(6), loss_tokens=torch.tensor(4))
    device.synchronize(GPU)  # the device catches up by itself
    step(ledger, clock, device, part="sampling", real_tokens=torch.tensor(8), loss_tokens=torch.tensor(8))
    step(ledger, clock, device, part="rest", real_tokens=torch.tensor(8), loss_tokens=torch.tensor(8))
    ledger._work.note(torch.tensor(8))  # a step that goes on
    waits = device.waits
    so_far = ledger.done_so_far()
    assert device.waits == waits
    as_before = {"real_tokens": 18, "loss_tokens": 12}  # of all tokens
    assert replace(so_far, device_sec=0) == Done(steps=3, samples=3, tokens=24, **as_before)
    assert ledger.take_window().steps == 2
    device.synchronize(GPU)
    so_far = ledger.done_so_far()
    assert (so_far.real_tokens, so_far.loss_tokens) == (20, 16)


def test_what_was_done_takes_the_wall_time_since_the_clock_was_made():
    now = FakeNow()
    ledger, _ = ledger_of(StepClock(HostTimer(now)), "step")
    now.seconds += 7.0
    assert ledger.done == ledger.done_so_far() == Done(device_sec=7.0)
