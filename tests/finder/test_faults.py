"""Faults in the middle of trials: whatever breaks and wherever, everything is as before."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader

from mfu_callback import BatchSizeFinder
from mfu_callback.logs.names import SUMMARY_FILE
from tests.helpers.finder_models import Tabular, fitted, trainer

FAULTY_FROM = 8  # rows


class OfShapesError(Exception):
    """Has nothing to do with memory."""


ERRORS: dict[str, Callable[[], BaseException]] = {
    "out of memory": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    "another error": lambda: OfShapesError("of shapes"),
    "Ctrl-C": KeyboardInterrupt,
}


class Raise(torch.autograd.Function):
    """Passes its input on, and calls what it was given in the backward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, fault: Callable[[], None]) -> Tensor:
        ctx.fault = fault
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        ctx.fault()
        return gradients[0], None


class FaultyAdam(torch.optim.AdamW):
    """Breaks after its step has changed everything."""

    fault: Callable[[], None] = staticmethod(lambda: None)

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.fault()
        return loss


class Faulty(Tabular):
    """Breaks at one place once its batch has eight rows, after side effects of every kind."""

    def __init__(self, where: str, error: Callable[[], BaseException]) -> None:
        super().__init__()
        self.where, self.error, self.rows = where, error, 0
        self.notes: dict[str, Any] = {"seen": []}
        self.val_rows = 0
        self.automatic_optimization = where != "manual step"

    def break_at(self, where: str) -> None:
        self.notes["seen"].append(where)
        torch.rand(2), random.random(), np.random.rand()
        if where == self.where and self.rows >= FAULTY_FROM:
            raise self.error()

    def collate(self, rows: list[Any]) -> Any:
        self.rows = len(rows)
        self.break_at("collate")
        return torch.utils.data.default_collate(rows)

    def train_dataloader(self) -> Any:
        return DataLoader(self.dataset, batch_size=self.batch_size, shuffle=True, collate_fn=self.collate)

    def val_dataloader(self) -> Any:
        return DataLoader(self.dataset, batch_size=self.batch_size, collate_fn=self.collate)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.break_at("transfer")
        return batch

    def on_fit_start(self) -> None:
        self.break_at("start")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.break_at("batch start")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.break_at("before forward")
        loss = self.loss(batch)
        self.break_at("forward")
        if batch_idx == 1:
            self.break_at("second micro-batch")
        if batch_idx >= 2:
            self.break_at("second step")
        loss = Raise.apply(loss, lambda: self.break_at("backward"))
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.break_at("manual step")
        return loss

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.break_at("zero grad")

    def on_after_backward(self) -> None:
        self.break_at("after backward")

    def configure_gradient_clipping(self, *arguments: Any, **options: Any) -> None:
        super().configure_gradient_clipping(*arguments, **options)
        self.break_at("clipping")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.break_at("batch end")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.val_rows += len(batch[0])
        self.break_at("validation")

    def configure_optimizers(self) -> Any:
        optimizer = FaultyAdam(self.parameters(), lr=1e-2)
        optimizer.fault = lambda: self.break_at("optimizer")  # type: ignore[method-assign]
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


PLACES = (
    "collate",
    "transfer",
    "start",
    "batch start",
    "before forward",
    "forward",
    "second micro-batch",
    "second step",
    "backward",
    "after backward",
    "zero grad",
    "clipping",
    "optimizer",
    "manual step",
    "batch end",
    "validation",
)


def state_of(run: Trainer, model: Faulty, directory: Path) -> dict[str, Any]:
    """All that a trial could leave behind, comparable."""
    optimizer = run.optimizers[0]
    return {
        "weights": {name: tensor.tolist() for name, tensor in model.state_dict().items()},
        "gradients": [parameter.grad for parameter in model.parameters()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "training": [module.training for module in model.modules()],
        "attributes": sorted(vars(model)),
        "plain": (model.batch_size, model.steps, list(model.sizes), str(model.notes), model.rows, model.val_rows),
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "optimizer": (optimizer.state_dict(), len(optimizer._optimizer_step_post_hooks)),
        "scheduler": [config.scheduler.state_dict() for config in run.lr_scheduler_configs],
        "random": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
        "trainer": (run.state.stage, run.global_step, run.current_epoch, [type(c) for c in run.callbacks]),
        "loops": str(run.fit_loop.state_dict()),
        "metrics": (dict(run.callback_metrics), dict(run.logged_metrics)),
        "loggers": run.loggers,
        "limit": resource.getrlimit(resource.RLIMIT_DATA),
        # The result is written on purpose.
        "files": sorted(str(path) for path in directory.rglob("*") if path.name != SUMMARY_FILE),
    }


class Look(Callback):
    """Takes the state right before and right after the finder, which stands between two of these."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, Faulty):
            self.state = state_of(trainer, pl_module, self.directory)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_fit_start(trainer, pl_module)


@pytest.fixture
def sigint() -> Iterator[None]:
    """Lightning ignores Ctrl-C from the first one on."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def options_for(where: str) -> dict[str, Any]:
    if where in ("second micro-batch", "second step"):
        return {"accumulate_grad_batches": 2}
    return {} if where == "manual step" else {"gradient_clip_val": 0.5}


@pytest.mark.usefixtures("sigint")
@pytest.mark.parametrize("kind", ["another error", "Ctrl-C"])
@pytest.mark.parametrize("where", PLACES)
def test_an_error_passes_through_and_everything_is_as_before(where: str, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model, before, after = Faulty(where, ERRORS[kind]), Look(tmp_path), Look(tmp_path)
    finder = BatchSizeFinder(max_size=32)
    run = trainer(before, finder, after, logger=CSVLogger(tmp_path), **options_for(where))
    with pytest.raises(SystemExit if kind == "Ctrl-C" else OfShapesError):
        run.fit(model)
    assert after.state == before.state
    assert finder.result is None


@pytest.mark.parametrize("where", PLACES)
def test_a_lack_of_memory_is_stepped_back_from_and_everything_is_as_before(where: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model, before, after = Faulty(where, ERRORS["out of memory"]), Look(tmp_path), Look(tmp_path)
    finder = BatchSizeFinder(max_size=32)
    run = trainer(before, finder, after, logger=CSVLogger(tmp_path), **options_for(where))
    run.fit(model)
    assert finder.result is not None
    assert finder.result.batch_size == FAULTY_FROM - 1
    assert model.batch_size == FAULTY_FROM - 1
    assert next(trial.why for trial in finder.result.trials if not trial.fits).startswith("DefaultCPUAllocator")
    # What was found is set, and what is made of it is made anew.
    for state in (before.state, after.state):
        state["plain"] = state["plain"][1:]
    assert after.state == before.state
    assert run.global_step == 3


@pytest.mark.usefixtures("sigint")
@pytest.mark.parametrize("kind", list(ERRORS))
def test_a_fault_while_samples_are_drawn_leaves_all_as_before(kind: str, tmp_path: Path) -> None:
    class Rows(list[Any]):
        read = 0

        def __getitem__(self, index: Any) -> Any:
            self.read += 1
            if self.read > 5:
                raise ERRORS[kind]()
            return super().__getitem__(index)

    model, before, after = Faulty("nowhere", ERRORS[kind]), Look(tmp_path), Look(tmp_path)
    model.dataset = Rows(model.dataset)
    run = trainer(before, BatchSizeFinder(max_size=32), after, logger=CSVLogger(tmp_path))
    with pytest.raises((SystemExit, OfShapesError, RuntimeError)):
        run.fit(model)
    assert after.state == before.state
    assert vars(model.dataset).get("read", 0) == 0


def test_a_dataset_smaller_than_any_batch_tried() -> None:
    model = Faulty("nowhere", KeyboardInterrupt)
    model.dataset = model.dataset[:3]
    finder = BatchSizeFinder(max_size=20)
    run = trainer(finder)
    run.fit(model)
    assert finder.result is not None
    assert finder.result.batch_size == 3
    assert run.train_dataloader.batch_size == 3
    assert run.global_step == 3


class Choosy(Tabular):
    """Takes only some sizes, as models do."""

    def __init__(self, check: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.check = check

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.check(batch[0])
        return self.loss(batch)


def of_eight(rows: Tensor) -> None:
    assert len(rows) % 8 == 0


def pairs(rows: Tensor) -> Tensor:
    return rows.view(2, len(rows) // 2, 8)


def at_most_eight(rows: Tensor) -> None:
    list(range(8))[len(rows) - 1]


@pytest.mark.parametrize(
    ("check", "options", "error", "words"),
    [
        (of_eight, {}, AssertionError, r"batch size 2 failed: AssertionError"),
        (pairs, {"init_size": 7}, RuntimeError, r"batch size 7 failed: RuntimeError: shape '\[2, 3, 8\]' is invalid"),
        (at_most_eight, {"init_size": 20}, IndexError, r"batch size 20 failed: IndexError: list index out of range\. "),
        (len, {"max_size": 1}, ValueError, r"batch size 1 failed: ValueError: Expected more than 1 value per channel"),
    ],
)
def test_a_size_that_the_model_refuses_is_named_with_its_error_and_the_remedy(
    check: Callable[[Tensor], Any], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    model, finder = Choosy(check), BatchSizeFinder(**options)
    with pytest.raises(
        MisconfigurationException, match=rf"^BatchSizeFinder's trial of {words}.*multiple_of="
    ) as raised:
        trainer(finder).fit(model)
    assert type(raised.value.__cause__) is error
    assert model.batch_size == 4
    assert model.steps == 0
    assert finder.result is None


@pytest.mark.parametrize(
    ("check", "options", "expected"),
    [(of_eight, {"multiple_of": 8}, 64), (pairs, {"multiple_of": 2}, 64), (at_most_eight, {"max_size": 8}, 8)],
)
def test_the_remedy_finds_a_size_that_the_model_takes(
    check: Callable[[Tensor], Any], options: dict[str, Any], expected: int
) -> None:
    model = Choosy(check)
    fitted(model, BatchSizeFinder(**options), max_steps=1)
    assert model.batch_size == expected


def test_fewer_samples_than_the_multiple_asked_for_are_named() -> None:
    model = Choosy(of_eight)
    model.dataset = model.dataset[:7]
    with pytest.raises(MisconfigurationException, match=r"an epoch has 7 samples, and multiple_of=8\. Lower"):
        trainer(BatchSizeFinder(multiple_of=8)).fit(model)


WITH_FRAMES = """
from tests.helpers.finder_models import MIB, TinyGPT, fitted
from mfu_callback import BatchSizeFinder

finder = BatchSizeFinder(budget=100 * MIB, init_size=400)
fitted(TinyGPT(), finder)
for trial in finder.result.trials:
    print("trial", trial.fits, trial.why)
print(finder.result.markdown())
"""


def test_a_line_about_a_lack_of_memory_has_no_stack_frames() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITH_FRAMES],
        env=os.environ | {"TORCH_SHOW_CPP_STACKTRACES": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    unfit = [line for line in done.stdout.splitlines() if line.startswith("trial False")]
    assert unfit
    assert any("DefaultCPUAllocator: can't allocate memory: you tried to allocate" in line for line in unfit)
    told = [line for line in done.stderr.splitlines() if "does not fit" in line]
    assert len(told) == len(unfit)
    assert all(len(line) < 200 for line in (*unfit, *told))
    assert all(words not in done.stdout + done.stderr for words in ("frame #", "enforce fail", "Error code 12"))


def test_an_error_in_another_callback_after_the_search_leaves_its_result() -> None:
    class Breaks(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise OfShapesError

    finder, model = BatchSizeFinder(max_size=12), Tabular()
    with pytest.raises(OfShapesError):
        trainer(finder, Breaks()).fit(model)
    assert model.batch_size == 12
    assert finder.result is not None
