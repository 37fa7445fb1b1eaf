"""Shows what each mode of ``sync=`` costs, on a simulated device that runs behind the host as a GPU does.

    python scripts/comparisons/sync.py
    python scripts/comparisons/sync.py --device-ms 10 --host-ms 4 --slow-ms 30 --slow-every 4

The host prepares each step (``--host-ms``, every so often ``--slow-ms``, as a loader does that falls behind for a
moment) and queues the step's work on the device (``--device-ms``), which is a thread that sleeps. A host that may run
ahead hides its slow moments behind work that is queued; one that waits at both ends of each step cannot. The meter is
the one that `MFUCallback` uses, with the device's events in place of a GPU's. The modes take turns, window by window,
beside a loop without a meter; the table has medians.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from mfu_callback.meter.clock import DeviceTimer, Phase, StepClock
from mfu_callback.meter.ledger import SYNCS
from mfu_callback.meter.meter import RunMeter
from scripts.comparisons.in_turns import print_head
from scripts.comparisons.simulated_device import SimulatedDevice, SimulatedEvent

WITHOUT = "no meter"
DEVICE = torch.device("cuda", 0)  # a name alone: events and waiting are the simulated device's


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one window of one mode has shown.

    Attributes:
        step_sec: Wall seconds of a step, until the device is done with all of them.
        waits: How often the meter has waited for the device, until its window was read.
        waited_sec: Seconds that it has waited so, for each step.
        measured_sec: Seconds of a step by the meter; NaN without one.
    """

    step_sec: float
    waits: int
    waited_sec: float
    measured_sec: float


def main() -> None:
    """Run the modes in turns and print the table."""
    arguments = parse_arguments()
    print_head()
    found: dict[str, list[Figures]] = {mode: [] for mode in (WITHOUT, *SYNCS)}
    for _ in range(arguments.windows):
        for mode, figures in found.items():
            figures.append(run_window(mode, arguments))
    print(
        f"simulated device: {arguments.device_ms:g} ms a step; host: {arguments.host_ms:g} ms,"
        f" {arguments.slow_ms:g} ms in one step of {arguments.slow_every}; {arguments.windows} windows of"
        f" {arguments.steps} steps"
    )
    Console(width=None if sys.stdout.isatty() else 120).print(table_of(found))


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device-ms", type=float, default=10.0, help="milliseconds of a step's work (default: %(default)s)")
    add("--host-ms", type=float, default=4.0, help="milliseconds in which the host prepares it (default: %(default)s)")
    add("--slow-ms", type=float, default=25.0, help="the same in its slow moments (default: %(default)s)")
    add("--slow-every", type=int, default=5, help="one step of so many is a slow moment (default: %(default)s)")
    add("--steps", type=int, default=50, help="steps of a window (default: %(default)s)")
    add("--windows", type=int, default=5, help="windows of each mode (default: %(default)s)")
    arguments = parser.parse_args()
    for name in ("device_ms", "host_ms", "slow_ms"):
        if getattr(arguments, name) < 0:
            parser.error(f"--{name.replace('_', '-')} must be at least 0.")
    if min(arguments.slow_every, arguments.steps, arguments.windows) < 1:
        parser.error("--slow-every, --steps and --windows must be at least 1.")
    return arguments


def run_window(mode: str, arguments: argparse.Namespace) -> Figures:
    """Run the steps of one window in one mode."""
    with SimulatedDevice() as device:
        timer = DeviceTimer(DEVICE, lambda: SimulatedEvent(device), device.synchronize)
        meter = (
            None
            if mode == WITHOUT
            else RunMeter(
                clock=StepClock(timer), device=torch.device("cpu"), flops=1.0, tokens=1, sync=mode, warmup_steps=0
            )
        )
        start = time.perf_counter()
        for step in range(arguments.steps):
            run_step(meter, device, arguments, is_slow=step % arguments.slow_every == arguments.slow_every - 1)
        window = None if meter is None else meter.take_window()
        waits, waited_sec = device.waits, device.waited_sec
        device.synchronize(DEVICE)
        step_sec = (time.perf_counter() - start) / arguments.steps
        totals = None if meter is None or window is None else window + meter.take_last_window()
    return Figures(
        step_sec=step_sec,
        waits=waits,
        waited_sec=waited_sec / arguments.steps,
        measured_sec=float("nan") if totals is None else totals.seconds / totals.steps,
    )


def run_step(meter: RunMeter | None, device: SimulatedDevice, arguments: argparse.Namespace, *, is_slow: bool) -> None:
    """Prepare one step on the host, which is its wait for data, and queue its work."""
    if meter is not None:
        meter.clock.enter(Phase.DATA)
    time.sleep((arguments.slow_ms if is_slow else arguments.host_ms) / 1e3)
    if meter is not None:
        meter.begin_step()
        meter.clock.enter(Phase.FORWARD)
        meter.look_at(torch.zeros(1))
    device.launch(arguments.device_ms / 1e3)
    if meter is not None:
        meter.add_forward()
        meter.end_step()


def table_of(found: dict[str, list[Figures]]) -> Table:
    """Returns the table of all modes."""
    table = Table("sync", "ms a step", "ratio to no meter", "waits a window", "ms waited a step", "ms by the meter")
    plain = np.array([one.step_sec for one in found[WITHOUT]])
    for mode, figures in found.items():
        seconds = np.array([one.step_sec for one in figures])
        measured = float(np.median([one.measured_sec for one in figures]))
        table.add_row(
            mode,
            f"{1e3 * float(np.median(seconds)):.1f}",
            f"{float(np.median(seconds / plain)):.3f}",
            f"{float(np.median([one.waits for one in figures])):.0f}",
            f"{1e3 * float(np.median([one.waited_sec for one in figures])):.1f}",
            "" if mode == WITHOUT else f"{1e3 * measured:.1f}",
        )
    return table


if __name__ == "__main__":
    main()
