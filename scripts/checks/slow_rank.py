"""Checks that MFUCallback names the device that makes the others wait, and the phase in which it does.

    python scripts/checks/slow_rank.py
    python scripts/checks/slow_rank.py --strategies ddp --processes 2 --where data forward

Several processes train; the last one sleeps in one phase of every step: while it fetches its batch, in its forward or
backward pass, in its optimizer, or in a callback. Then a collective is slow for all of them; then nothing is.
What the part of the waterfall and the phase of that device have beyond the same phase of the other devices is compared
with the time that it really slept, by its clock. A slow collective is compared with runs, in turn with it, in which all
processes sleep as long just before the same collective: what the process that came last spent in it, by its clock, and
the part "communication", each less that of these runs. A difference of up to 2 %, or up to 1 ms per step, is right, if
the right device and phase are named. Exits with 1 if any is not.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from rich.console import Console
from rich.table import Table
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, Dataset

from mfu_callback import MFUCallback
from mfu_callback.meter.summary import Summary

# The phase in which the last process sleeps, and the parts of the waterfall that hold the time of that phase.
PARTS = {
    "data": ("data",),
    "forward": ("mfu", "unreachable", "kernels"),
    "backward": ("mfu", "unreachable", "kernels"),
    "optimizer": ("optimizer",),
    "other": ("other",),
}
WHERE = (*PARTS, "collective", "nowhere")
# What a slow collective is compared with: the same sleep of all processes just before it. Processes that have slept are
# slower afterwards, and a collective brings them into line.
OUTSIDE = "outside of the collective"
STRATEGIES = ("ddp", "fsdp2")
SLEEP_SEC, STEPS, WARMUP_STEPS = 0.04, 60, 3
_TOLERANCE, _TOLERANCE_SEC = 0.02, 1e-3
_PAIRS = 2  # of runs with a slow collective and without: more processes than cores are not steady


class Spent:
    """What one process has spent on purpose: seconds by step.

    Args:
        where: One of `WHERE`, or `OUTSIDE`.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.is_last = False  # of the processes
        self.seconds: list[float] = []
        self._is_slow = False
        if where == "collective":
            dist.Work.wait = self._slow(dist.Work.wait)  # as on a slow network: whoever waits, waits for longer

    def sleep(self, where: str) -> None:
        """Sleep, if this is the process and the phase."""
        if self.is_last and where == self.where:
            start = time.perf_counter()
            time.sleep(SLEEP_SEC)
            self.seconds.append(time.perf_counter() - start)

    def communicate(self) -> None:
        """Sum a number over all processes, if that is what is slow or compared with it."""
        if self.where in ("collective", OUTSIDE):
            if self.where == OUTSIDE:
                time.sleep(SLEEP_SEC)
            start = time.perf_counter()
            self._is_slow = True
            dist.all_reduce(torch.zeros(1))
            self._is_slow = False
            self.seconds.append(time.perf_counter() - start)

    def _slow(self, wait: Callable[..., Any]) -> Callable[..., Any]:
        def slow_wait(*args: Any) -> Any:
            time.sleep(SLEEP_SEC if self._is_slow else 0.0)
            return wait(*args)

        return slow_wait


class Data(Dataset):
    """Equal batches, one of which may take a while."""

    def __init__(self, spent: Spent) -> None:
        self._spent = spent

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: int) -> torch.Tensor:
        self._spent.sleep("data")
        return torch.ones(4, 8)


class SlowSGD(torch.optim.SGD):
    """SGD that may sleep in each step."""

    spent: Spent

    def step(self, closure: Any = None) -> Any:
        """Run the closure (forward and backward pass), sleep, then step."""
        loss = None if closure is None else closure()
        self.spent.sleep("optimizer")
        super().step()
        return loss


class Model(LightningModule):
    """Two linear layers whose hooks may sleep.

    Args:
        spent: Sleeps.
        strategy: "ddp" or "fsdp2".
    """

    def __init__(self, spent: Spent, strategy: str) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
        self._spent, self._strategy = spent, strategy

    def configure_model(self) -> None:
        """Shard the layers, under FSDP2."""
        if self._strategy == "fsdp2":
            for part in (*self.net, self.net):
                fully_shard(part, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """The mean of the output."""
        self._spent.sleep("forward")
        self._spent.communicate()
        return self.net(batch).mean()

    def backward(self, loss: torch.Tensor) -> None:  # type: ignore[override]
        """Sleep, then compute the gradients."""
        self._spent.sleep("backward")
        loss.backward()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer that may sleep."""
        optimizer = SlowSGD(self.parameters(), lr=1e-3, foreach=False)
        optimizer.spent = self._spent
        return optimizer


class SlowCallback(Callback):
    """May sleep at the end of every batch, and forgets what was spent in the steps that are not measured.

    Args:
        spent: Sleeps.
    """

    def __init__(self, spent: Spent) -> None:
        self._spent = spent

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Sleep; forget the warm-up."""
        self._spent.sleep("other")
        if trainer.global_step == WARMUP_STEPS:
            self._spent.seconds.clear()


def main() -> int:
    """Make one run and print its figures as JSON, or make all runs and print a table."""
    arguments = parse_arguments()
    if arguments.only:
        strategy, processes, where = arguments.only
        print_run(strategy, int(processes), where, Path(arguments.directory))
        return 0
    table = Table("strategy", "processes", "slow", "named", "spent", "found", "off", "")
    right = True
    for strategy in arguments.strategies:
        for processes in arguments.processes:
            right &= add_rows(table, strategy, processes, arguments.where)
    print(f"torch {torch.__version__}, {STEPS - WARMUP_STEPS} steps; milliseconds of a step")
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    return 0 if right else 1


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES, help="default: both")
    parser.add_argument("--processes", nargs="+", type=int, default=[2, 4], help="numbers of processes (default: 2 4)")
    parser.add_argument("--where", nargs="+", choices=WHERE, default=WHERE, help="what is slow (default: each in turn)")
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--directory", help=argparse.SUPPRESS)
    return parser.parse_args()


def print_run(strategy: str, processes: int, where: str, directory: Path) -> None:
    """Train; every process writes what it spent, and the first prints what was found."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    spent = Spent(where)
    callback = MFUCallback(peak=1e12, warmup_steps=WARMUP_STEPS, summary=None)
    of_strategy: Any = {
        "ddp": "ddp",
        "fsdp2": ModelParallelStrategy(data_parallel_size=processes, tensor_parallel_size=1),
    }[strategy]
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy=of_strategy,
        max_steps=STEPS,
        log_every_n_steps=20,
        callbacks=[SlowCallback(spent), callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    spent.is_last = trainer.global_rank == processes - 1
    trainer.fit(Model(spent, strategy), DataLoader(Data(spent), batch_size=None))
    (directory / f"{trainer.global_rank}.json").write_text(json.dumps(spent.seconds))
    dist.barrier()
    if trainer.is_global_zero and callback.summary is not None:
        print(json.dumps(found_in(callback.summary), default=str))
    dist.destroy_process_group()


def found_in(summary: Summary) -> dict[str, Any]:
    """What a summary says of the devices."""
    figures = summary.as_dict()
    return {name: figures[name] for name in ("waterfall", "devices", "pace", "steps")}


def run(strategy: str, processes: int, where: str) -> dict[str, Any]:
    """A run in processes of its own: what was found, and what each process spent."""
    with TemporaryDirectory() as directory:
        command = [sys.executable, __file__, "--only", strategy, str(processes), where, "--directory", directory]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"The run {strategy} {processes} {where} failed:\n{done.stderr}")
        spent = [json.loads((Path(directory) / f"{rank}.json").read_text()) for rank in range(processes)]
    return json.loads(done.stdout.splitlines()[-1]) | {"spent": spent}


def add_rows(table: Table, strategy: str, processes: int, places: list[str]) -> bool:
    """Make the runs of one strategy and add their rows; returns whether all of them are right."""
    rows = [row_of(strategy, processes, where) for where in places]
    for number, (where, row) in enumerate(zip(places, rows, strict=True)):
        off = row["found"] - row["spent"]
        cells = (*(f"{1e3 * row[name]:.2f}" for name in ("spent", "found")), f"{1e3 * off:+.2f}")
        first = (strategy, str(processes)) if number == 0 else ("", "")
        verdict = "right" if row["right"] else "WRONG"
        table.add_row(*first, where, row["named"], *cells, verdict, end_section=number == len(rows) - 1)
    return all(row["right"] for row in rows)


def row_of(strategy: str, processes: int, where: str) -> dict[str, Any]:
    """What was spent on purpose and what was found of it, in seconds of a step, and whether both agree."""
    if where == "collective":
        return row_of_collective(strategy, processes)
    found = run(strategy, processes, where)
    pace, steps = found["pace"], found["steps"]
    if where == "nowhere":
        behind = 0.0 if pace is None else pace["behind_sec"]
        return {"named": name_of(pace), "spent": 0.0, "found": behind, "right": pace is None}
    slow = len(found["devices"]) - 1
    others = [one["phases_sec"] for one in found["devices"][:slow]]
    same = ("forward", "backward") if where in ("forward", "backward") else (where,)
    usual = float(np.median([sum(phases[phase] for phase in same) for phases in others]))
    is_named = pace is not None and (pace["rank"], pace["phase"], pace["is_constant"]) == (slow, where, True)
    spent = sum(found["spent"][slow][-steps:]) / steps
    return verdict(name_of(pace), spent, seconds_of(found, PARTS[where]) - usual, is_named=is_named)


def row_of_collective(strategy: str, processes: int) -> dict[str, Any]:
    """As `row_of`, for a collective: the means of several runs in which it is slow, less those in which it is not."""
    pairs = [[run(strategy, processes, where) for where in ("collective", OUTSIDE)] for _ in range(_PAIRS)]
    seconds = np.array([[collective_sec(found) for found in pair] for pair in pairs]).mean(axis=0)
    spent, communication = seconds[0] - seconds[1]
    named = [slow["pace"] for slow, _ in pairs if slow["pace"] is not None]
    return verdict(name_of(named[0] if named else None), spent, communication, is_named=not named)


def collective_sec(found: dict[str, Any]) -> tuple[float, float]:
    """Seconds of a step in the collective on the process that came last to it, and those of "communication"."""
    shortest = np.array(found["spent"]).min(axis=0)[-found["steps"] :].mean()
    return float(shortest), seconds_of(found, ("communication",))


def name_of(pace: dict[str, Any] | None) -> str:
    """The device that the others wait for, and in which phase."""
    return "none" if pace is None else f"rank {pace['rank']}, {pace['phase']}"


def verdict(named: str, spent: float, found: float, *, is_named: bool) -> dict[str, Any]:
    """A row, and whether it is right."""
    fits = abs(found - spent) <= max(_TOLERANCE * spent, _TOLERANCE_SEC)
    return {"named": named, "spent": spent, "found": found, "right": fits and is_named}


def seconds_of(found: dict[str, Any], parts: tuple[str, ...]) -> float:
    """Seconds of a step of some parts of the waterfall, on the device that it is of."""
    pace = found["pace"]
    step_sec = min(found["devices"], key=lambda one: one["waits_sec"])["step_sec"] if pace is None else None
    step_sec = step_sec or found["devices"][pace["rank"]]["step_sec"]
    return sum(found["waterfall"][part] for part in parts) * step_sec


if __name__ == "__main__":
    sys.exit(main())
