"""Provokes causes of slow training, each in a small run of its own, and checks the advice that comes.

    python scripts/checks/advice.py

Each cause is provoked in a process of its own (two processes where devices wait for each other), and the run is made
again without the cause. The advice is right if it names the cause, and without the cause says nothing of it. A run
without any cause comes last. Exits with 1 if any advice is wrong. What only a GPU can show (TF32, pinned memory, its
allocator's retries, its clock) and swapping, which would slow everything else down, are left to the tests.
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
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mfu_callback import MFUCallback
from mfu_callback.peaks import rates_in_training
from mfu_callback.peaks.hints import PRECISIONS
from mfu_callback.peaks.this_machine import cores

NO_CAUSE = "none"
_PEAK = 1e12  # far above what a CPU reaches, so that MFU stays below 1


class Batches(Dataset):
    """The same batch again and again; it sleeps before each one.

    Args:
        batch: The batch.
        sleep_sec: Seconds before each batch.
    """

    def __init__(self, batch: Any, sleep_sec: float = 0.0) -> None:
        self.batch, self.sleep_sec = batch, sleep_sec

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.sleep_sec)
        return self.batch


class Model(LightningModule):
    """A network on batches of one kind.

    Args:
        network: The network.
        data: The batches.
        sleep_sec: Seconds that the forward pass of one rank sleeps in a step; receives the rank and the batch's number.
        num_workers: Processes that load the data.
        optimizer: Makes the optimizer.
    """

    def __init__(
        self,
        network: nn.Module,
        data: Dataset,
        *,
        sleep_sec: Callable[[int, int], float] = lambda rank, number: 0.0,
        num_workers: int = 0,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    ) -> None:
        super().__init__()
        self.network, self.data, self.num_workers = network, data, num_workers
        self.sleep_sec, self.optimizer = sleep_sec, optimizer

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Sleep, then return the mean square of what the network returns."""
        time.sleep(self.sleep_sec(self.trainer.global_rank, batch_idx))
        outputs: torch.Tensor = self.network(batch["input_ids"] if isinstance(batch, dict) else batch)
        return outputs.square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns the optimizer."""
        return self.optimizer(self.parameters(), lr=1e-4)

    def train_dataloader(self) -> DataLoader:
        """Returns a loader of the batches as they are."""
        return DataLoader(self.data, batch_size=None, num_workers=self.num_workers)


class OfOneRank(Batches):
    """Batches before which one rank alone sleeps."""

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.sleep_sec * torch.distributed.get_rank())
        return self.batch


class Sleeping(Callback):
    """Sleeps at the end of every batch."""

    def on_train_batch_end(self, *_: Any) -> None:
        """Sleep."""
        time.sleep(0.03)


class Large(nn.Module):
    """Many parameters that take part in little work."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.layer = nn.Parameter(torch.zeros(8_000_000)), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 8) -> (B, 8)."""
        return self.layer(x) * self.weight.sum()


def layers(width: int, number: int) -> nn.Module:
    """Linear layers of one width in a row."""
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(number)))


def fit(model: Model, *callbacks: Callback, peak: float = _PEAK, **arguments: Any) -> str | None:
    """Train a few steps in the fastest dtype, so that the dtype is not the cause, and return the advice."""
    callback = MFUCallback(peak=peak, warmup_steps=2, summary=None)
    defaults: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "max_steps": 8, "logger": False}
    defaults["precision"] = PRECISIONS[_dtypes()[-1]]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    Trainer(callbacks=[callback, *callbacks], **quiet | defaults | arguments).fit(model)
    return None if callback.summary is None else callback.summary.advice


def no_workers(is_there: bool) -> str | None:
    """Data that the training process loads, or two workers."""
    data = Batches(torch.ones(4, 8), sleep_sec=0.04)
    return fit(Model(layers(8, 2), data, sleep_sec=lambda *_: 0.06, num_workers=0 if is_there else 2))


def few_workers(is_there: bool) -> str | None:
    """One worker that takes longer for a batch than a step takes, or two."""
    data = Batches(torch.ones(4, 8), sleep_sec=0.09)
    model = Model(layers(8, 2), data, sleep_sec=lambda *_: 0.06, num_workers=1 if is_there else 2)
    return fit(model, max_steps=12)


def not_fused(is_there: bool) -> str | None:
    """Adam on many parameters, not fused or fused."""

    def adam(*args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(*args, **kwargs, fused=not is_there)

    return fit(Model(Large(), Batches(torch.ones(4, 8)), optimizer=adam))


def slow_callback(is_there: bool) -> str | None:
    """A callback that sleeps, or none."""
    model = Model(layers(8, 2), Batches(torch.ones(4, 8)), sleep_sec=lambda *_: 0.03)
    return fit(model, *([Sleeping()] if is_there else []))


def slow_dtype(is_there: bool) -> str | None:
    """The slowest dtype of this device, or the fastest."""
    dtype = _dtypes()[0 if is_there else -1]
    model = Model(layers(256, 3), Batches(torch.ones(32, 256, dtype=dtype)))
    return fit(model, precision=PRECISIONS[dtype])


def _rates() -> dict[torch.dtype, float]:
    rates = rates_in_training(torch.device("cpu"), torch.float32)
    return {dtype: rate.in_training for dtype, rate in rates.items() if dtype in (torch.float32, torch.bfloat16)}


def _dtypes() -> list[torch.dtype]:
    """Those of this device, the slowest first."""
    rates = _rates()
    return sorted(rates, key=lambda dtype: rates[dtype])


def one_thread(is_there: bool) -> str | None:
    """One thread, or as many as there are cores."""
    torch.set_num_threads(1 if is_there else cores())
    return fit(Model(layers(256, 3), Batches(torch.ones(256, 256))))


def padding(is_there: bool) -> str | None:
    """Batches that are mostly padding, or hardly any."""
    mask = torch.ones(16, 128, dtype=torch.long)
    mask[:, 40 if is_there else 120 :] = 0
    batch = {"input_ids": torch.ones(16, 128, dtype=torch.long), "attention_mask": mask}
    network = nn.Sequential(nn.Embedding(64, 256), layers(256, 3))
    return fit(Model(network, Batches(batch), sleep_sec=lambda *_: 0.01))


def small_kernels(is_there: bool) -> str | None:
    """Many tiny layers, or a few large ones."""
    width, number, samples = (8, 200, 4) if is_there else (512, 3, 256)
    model = Model(layers(width, number), Batches(torch.ones(samples, width)), sleep_sec=lambda *_: 0.005)
    return fit(model)


def small_batch(is_there: bool) -> str | None:
    """Large layers on two samples, or on many."""
    batch = torch.ones(2 if is_there else 64, 2048)
    model = Model(layers(2048, 4), Batches(batch), sleep_sec=lambda *_: 0.03)
    return fit(model, peak=1e11 if is_there else _PEAK, max_steps=6)


def low_peak(is_there: bool) -> str | None:
    """A peak that the model exceeds, or not."""
    return fit(Model(layers(64, 2), Batches(torch.ones(64, 64))), peak=1e6 if is_there else _PEAK)


def slow_data_of_a_rank(is_there: bool) -> str | None:
    """Two processes, of which the second waits for its data, or both do not."""
    data = OfOneRank(torch.ones(4, 8), sleep_sec=0.04 if is_there else 0.0)
    return of_two(Model(layers(8, 2), data))


def slow_device(is_there: bool) -> str | None:
    """Two processes, of which the second is slower in every forward pass, or both are alike."""
    return of_two(uneven(lambda rank, number: 0.01 + (0.04 if is_there and rank == 1 else 0.0)))


def late_in_turn(is_there: bool) -> str | None:
    """Two processes that are late in turn, or always alike."""
    return of_two(uneven(lambda rank, number: 0.01 + (0.04 if is_there and number % 2 == rank else 0.0)))


def slow_collective(is_there: bool) -> str | None:
    """Two processes that exchange many gradients in each short step, or few in a long one."""
    width, seconds = (2048, 0.01) if is_there else (8, 0.2)
    return of_two(Model(layers(width, 4), Batches(torch.ones(1, width)), sleep_sec=lambda *_: seconds))


def uneven(sleep_sec: Callable[[int, int], float]) -> Model:
    """A small model whose forward pass sleeps."""
    return Model(layers(8, 2), Batches(torch.ones(4, 8)), sleep_sec=sleep_sec)


def of_two(model: Model) -> str | None:
    """Train on two processes, in one dtype: each would find the fastest by itself, and they might disagree."""
    return fit(model, devices=2, strategy="ddp", max_steps=24, precision="32-true")


def no_cause(is_there: bool) -> str | None:
    """Large matmuls on data that is there, with a fused optimizer."""

    def sgd(*args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(*args, **kwargs, fused=True)

    return fit(Model(layers(1024, 3), Batches(torch.ones(256, 1024)), optimizer=sgd), max_steps=6)


@dataclass(frozen=True)
class Cause:
    """A cause, and what the advice says if it is there.

    Attributes:
        name: Its name on the command line.
        run: Trains with the cause, or without it, and returns the advice.
        says: What the advice then contains.
        is_possible: Whether this machine can provoke it.
    """

    name: str
    run: Callable[[bool], str | None]
    says: tuple[str, ...]
    is_possible: Callable[[], bool] = lambda: True


def _has_a_slow_dtype() -> bool:
    rates = _rates().values()
    return max(rates) > 2 * min(rates)


def _has_several_cores() -> bool:
    return min(cores(), psutil.cpu_count(logical=False) or 1) > 1


CAUSES = (
    Cause("no-workers", no_workers, ("num_workers=0", "DataLoader(num_workers=")),
    Cause("few-workers", few_workers, ("for data from 1 worker", "DataLoader(num_workers="), lambda: cores() > 1),
    Cause("not-fused", not_fused, ("in the optimizer", "AdamW(..., fused=True)")),
    Cause("slow-callback", slow_callback, ("in callbacks and logging", "look at Sleeping")),
    Cause("slow-dtype", slow_dtype, ("times as fast as", "precision="), _has_a_slow_dtype),
    Cause("one-thread", one_thread, ("one thread", "torch.set_num_threads("), _has_several_cores),
    Cause("padding", padding, ("of the tokens are padding",)),
    Cause("small-kernels", small_kernels, ("us for each of its", "torch.compile")),
    Cause("small-batch", small_batch, ("of the memory is in use", "BatchSizeFinder")),
    Cause("low-peak", low_peak, ("MFU cannot exceed 1",)),
    Cause("slow-data-of-a-rank", slow_data_of_a_rank, ("Rank 1 on ", "for data", "the others wait")),
    Cause("slow-device", slow_device, ("for rank 1 on ", "forward pass takes longer", "check that device")),
    Cause("late-in-turn", late_in_turn, ("late in turn",)),
    Cause("slow-collective", slow_collective, ("collectives that nothing hides",)),
)
_BY_NAME = {cause.name: cause for cause in CAUSES} | {NO_CAUSE: Cause(NO_CAUSE, no_cause, ())}


def main() -> int:
    """Check all causes and print a table, or make one run and print its advice as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=_BY_NAME, help="check this cause alone")
    parser.add_argument("--run", choices=("with", "without"), help="with --only: make this run alone, and print JSON")
    arguments = parser.parse_args()
    if arguments.run is not None:
        print_run(_BY_NAME[arguments.only or NO_CAUSE], arguments.run == "with")
        return 0
    table = Table("cause", "advice that came", "", show_lines=True)
    rights = [add_row(table, _BY_NAME[name]) for name in _BY_NAME if arguments.only in (None, name)]
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0 if all(rights) else 1


def print_run(cause: Cause, is_there: bool) -> None:
    """Train, and print the advice as JSON; nothing if this machine cannot provoke the cause."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    is_possible = cause.is_possible()
    advice = cause.run(is_there) if is_possible else None
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        print(json.dumps({"advice": advice, "is_possible": is_possible}))


def add_row(table: Table, cause: Cause) -> bool:
    """Make a run with and without a cause, and add its row; returns whether the advice is right."""
    found, without = in_own_process(cause.name, "with"), in_own_process(cause.name, "without")
    if not found["is_possible"]:
        table.add_row(cause.name, "", "not possible on this machine")
        return True
    said, silent = found["advice"] or "", without["advice"] or ""
    right = is_named(cause, said) and not is_named(cause, silent)
    if cause.name == NO_CAUSE:
        right = not any(is_named(other, said) or is_named(other, silent) for other in CAUSES)
    wrong = f"WRONG; without the cause: {silent or 'nothing'}"
    table.add_row(cause.name, said or "nothing", "right" if right else wrong)
    return right


def is_named(cause: Cause, advice: str) -> bool:
    """Whether advice names a cause."""
    return all(words in advice for words in cause.says)


def in_own_process(name: str, how: str) -> dict[str, Any]:
    """Make a run in its own process and return what it prints."""
    command = [sys.executable, __file__, "--only", name, "--run", how]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"The run {name} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    sys.exit(main())
