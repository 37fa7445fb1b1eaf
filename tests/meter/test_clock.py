import pytest
import torch

from mfu_callback.meter.clock import DeviceTimer, HostTimer, Phase, StepClock, timer_for
from mfu_callback.tools.accelerators import current_accelerator


class FakeNow:
    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def now():
    return FakeNow()


@pytest.fixture
def clock(now):
    return StepClock(HostTimer(now))


def end_step(clock):
    clock.end_step()
    (seconds,) = clock.take(1)
    return dict(zip(Phase, seconds.tolist(), strict=True))


def test_every_second_belongs_to_the_phase_that_was_entered_last(clock, now):
    for phase, seconds in [
        (Phase.DATA, 1.0),
        (Phase.FORWARD, 1.5),
        (Phase.BACKWARD, 2.5),
        (Phase.OPTIMIZER, 2.0),
        (Phase.DATA, 0.5),
    ]:
        clock.enter(phase)
        now.seconds += seconds
    assert {phase: seconds for phase, seconds in end_step(clock).items() if seconds} == {
        Phase.DATA: 1.5,
        Phase.FORWARD: 1.5,
        Phase.BACKWARD: 2.5,
        Phase.OPTIMIZER: 2.0,
    }


def test_time_in_no_phase_is_other_and_carries_into_the_next_step(clock, now):
    now.seconds += 3.0
    assert end_step(clock)[Phase.OTHER] == 3.0
    now.seconds += 0.25
    clock.enter(Phase.DATA)
    now.seconds += 1.0
    seconds = end_step(clock)
    assert (seconds[Phase.OTHER], seconds[Phase.DATA]) == (0.25, 1.0)


def test_the_seconds_of_several_steps_at_once_and_of_the_others_later(clock, now):
    for forward in (1.0, 2.0, 4.0):
        clock.enter(Phase.FORWARD)
        now.seconds += forward
        clock.enter(Phase.OTHER)
        now.seconds += 0.5
        clock.end_step()
    first, rest = clock.take(2), clock.take(1)
    assert (first.shape, rest.shape) == ((2, len(Phase)), (1, len(Phase)))
    assert [*first[:, Phase.FORWARD], *rest[:, Phase.FORWARD]] == [1.0, 2.0, 4.0]
    assert [*first[:, Phase.OTHER], *rest[:, Phase.OTHER]] == [0.5, 0.5, 0.5]
    assert (first.sum(), rest.sum()) == (4.0, 4.5)
    now.seconds += 8.0
    assert end_step(clock)[Phase.OTHER] == 8.0


def test_a_block_gives_the_time_after_it_back_to_the_phase_before_also_on_an_exception(clock, now):
    clock.enter(Phase.DATA)
    now.seconds += 1.0

    @clock.during(Phase.CHECKPOINT)
    def save():
        now.seconds += 8.0
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        save()
    now.seconds += 2.0
    seconds = end_step(clock)
    assert (seconds[Phase.DATA], seconds[Phase.CHECKPOINT]) == (3.0, 8.0)


def test_starting_anew_forgets_what_came_before(clock, now):
    now.seconds += 60.0
    clock.start()
    assert sum(end_step(clock).values()) == 0.0


class FakeEvent:
    """Behaves like torch.Event: it happens when the device comes to it, and can be read only after that."""

    def __init__(self, device):
        self._device, self.at_ms = device, None

    def record(self):
        self._device.queue.append(self)

    def query(self):
        return self.at_ms is not None

    def elapsed_time(self, end):
        return end.at_ms - self.at_ms


class FakeDevice:
    """An accelerator that works through its queue only when it is waited for."""

    def __init__(self):
        self.queue, self.time_ms, self.waits = [], 0.0, 0

    def launch(self, milliseconds):
        self.queue.append(milliseconds)

    def synchronize(self, device):
        self.waits += 1
        for item in self.queue:
            if isinstance(item, FakeEvent):
                item.at_ms = self.time_ms
            else:
                self.time_ms += item
        self.queue.clear()


def test_on_an_accelerator_the_phases_are_the_devices_own_time_though_the_host_runs_ahead():
    device = FakeDevice()
    clock = StepClock(DeviceTimer(torch.device("cuda", 0), lambda: FakeEvent(device), device.synchronize))
    clock.enter(Phase.FORWARD)
    device.launch(30.0)
    clock.enter(Phase.OPTIMIZER)
    device.launch(10.0)
    clock.end_step()
    assert (device.waits, clock.steps_over()) == (0, 0)
    clock.synchronize()
    assert (device.waits, clock.steps_over()) == (1, 1)
    (seconds,) = clock.take(1)
    assert (seconds[Phase.FORWARD], seconds[Phase.OPTIMIZER]) == (0.03, 0.01)


def test_the_host_clock_serves_the_cpu_and_events_serve_the_rest():
    assert isinstance(timer_for(torch.device("cpu")), HostTimer)
    assert isinstance(timer_for(torch.device("cuda", 0)), DeviceTimer)


@pytest.mark.gpu
@pytest.mark.skipif(current_accelerator() is None, reason="needs an accelerator")
def test_a_real_device_reports_the_time_of_a_matmul():
    device = current_accelerator()
    matrix = torch.rand(4096, 4096, device=device)
    clock = StepClock(timer_for(device))
    clock.enter(Phase.FORWARD)
    matrix @ matrix
    clock.enter(Phase.OTHER)
    clock.end_step()
    clock.synchronize()
    assert clock.take(1)[0, Phase.FORWARD] > 0
