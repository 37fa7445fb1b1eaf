"""What a trial runs: the steps that the Trainer's loops would run, without the loops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from mfu_callback.finder.data.stage_data import StageData
from mfu_callback.lightning import namespaces, private_names
from mfu_callback.meter.clock import Timer

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

STEPS = 2  # the optimizer's state exists from the second step on
_MOST_STEPS = 20  # at most, until every optimizer has stepped twice: a gradient scaler or the module may skip steps


class Steps(Protocol):
    """The steps of one stage."""

    def run(self, batches: Sequence[Any], validation: Sequence[Any]) -> None:
        """Run the steps of a trial.

        Args:
            batches: The batches for the stage itself.
            validation: The batches for validation inside fit.
        """

    def forward(self, batch: Any) -> None:
        """Run one forward pass."""

    def timed(self, batches: Sequence[Any], timer: Timer, count: int) -> list[float]:
        """Run warm-up steps, then ``count`` steps with all of their micro-batches; return the seconds of each."""


def steps_of(trainer: Trainer, pl_module: LightningModule, data: StageData) -> Steps:
    """The steps for the trials of a stage."""
    if data.stage == "fit":
        return TrainingSteps(trainer, pl_module)
    return EvaluationSteps(trainer, pl_module, data.stage)


class TrainingSteps:
    """Two optimizer steps with everything that belongs to them, then one validation step.

    Args:
        trainer: A Trainer about to fit; optimizers exist and the model is on its device.
        pl_module: The model.
    """

    def __init__(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trainer: Any = trainer
        self._pl_module = pl_module
        self._validation = EvaluationSteps(trainer, pl_module, "validate", count=1)

    def run(self, batches: Sequence[Any], validation: Sequence[Any]) -> None:
        """Run the steps of a trial."""
        batch = self._begin(batches[0])
        last = self._trainer.accumulate_grad_batches - 1
        for step in self._until_optimizers_have_stepped():
            if self._pl_module.automatic_optimization:
                self._step(batch, step, sorted({0, last}))  # those in between need no more memory than the last
            else:
                self._manual_step(batch, step)
        if validation:
            self._validation.run(validation, ())

    def forward(self, batch: Any) -> None:
        """Run one forward pass."""
        self._training_step(self._begin(batch), 0)

    def timed(self, batches: Sequence[Any], timer: Timer, count: int) -> list[float]:
        """Run warm-up steps, then ``count`` steps with all of their micro-batches; return the seconds of each."""
        batch, micro_batches = self._begin(batches[0]), range(self._trainer.accumulate_grad_batches)
        stamps = []
        for step in range(STEPS + count):
            if step >= STEPS:
                stamps.append(timer.stamp())
            if self._pl_module.automatic_optimization:
                self._step(batch, step, micro_batches)
            else:
                self._manual_step(batch, step)
        stamps.append(timer.stamp())
        timer.synchronize()
        return [float(seconds) for seconds in timer.durations(stamps)]

    def _begin(self, batch: Any) -> Any:
        self._pl_module.train()
        for hook in ("on_fit_start", "on_train_start", "on_train_epoch_start"):
            private_names.call_module_hook(self._trainer, hook)
        return private_names.move_batch(self._trainer, batch)

    def _step(self, batch: Any, step: int, indices: Sequence[int]) -> None:
        micro_batches = self._trainer.accumulate_grad_batches
        for index in indices:
            self._micro_batch(batch, step * micro_batches + index, is_last=index == micro_batches - 1)

    def _until_optimizers_have_stepped(self) -> Iterator[int]:
        """Step numbers: two, and more until every optimizer has stepped twice."""
        optimizers = self._trainer.optimizers
        stepped: Counter[Any] = Counter()
        for optimizer in optimizers:
            optimizer.register_step_post_hook(
                lambda optimizer, *_: stepped.update([optimizer])
            )  # restoring the snapshot removes it
        for step in range(_MOST_STEPS):
            yield step
            if step + 1 >= STEPS and all(stepped[optimizer] >= STEPS for optimizer in optimizers):
                return

    def _manual_step(self, batch: Any, batch_idx: int) -> None:
        private_names.call_module_hook(self._trainer, "on_train_batch_start", batch, batch_idx)
        output = self._training_step(batch, batch_idx)
        private_names.call_module_hook(self._trainer, "on_train_batch_end", output, batch, batch_idx)

    def _micro_batch(self, batch: Any, batch_idx: int, *, is_last: bool) -> None:
        module = self._pl_module
        optimizer: Any = module.optimizers(use_pl_optimizer=True)
        closure = partial(self._forward_backward, batch, batch_idx, optimizer)
        private_names.call_module_hook(self._trainer, "on_train_batch_start", batch, batch_idx)
        loss = None
        if is_last:
            module.optimizer_step(self._trainer.current_epoch, batch_idx, optimizer, closure)
        else:
            loss = closure()
        outputs = {} if loss is None else {"loss": loss}
        private_names.call_module_hook(self._trainer, "on_train_batch_end", outputs, batch, batch_idx)

    @torch.enable_grad()
    def _forward_backward(self, batch: Any, batch_idx: int, optimizer: Any) -> Tensor | None:
        output = self._training_step(batch, batch_idx)
        # The last step's gradients live until after the forward pass, as in training: both use memory at the same time.
        if batch_idx % self._trainer.accumulate_grad_batches == 0:
            self._pl_module.on_before_zero_grad(optimizer)
            self._pl_module.optimizer_zero_grad(self._trainer.current_epoch, batch_idx, optimizer)
        loss: Tensor | None = output["loss"] if isinstance(output, Mapping) else output
        if loss is None:
            return None
        loss = loss / self._trainer.accumulate_grad_batches
        self._trainer.strategy.backward(loss, optimizer)
        return loss.detach()

    def _training_step(self, batch: Any, batch_idx: int) -> Any:
        arguments = private_names.training_step_arguments(self._pl_module, batch, batch_idx)
        return self._trainer.strategy.training_step(*arguments)


class EvaluationSteps:
    """Steps of validation, test or prediction, without gradients.

    Args:
        trainer: A Trainer; the model is on its device.
        pl_module: The model.
        stage: "validate", "test" or "predict".
        count: Steps per loader.
    """

    def __init__(self, trainer: Trainer, pl_module: LightningModule, stage: str, *, count: int = STEPS) -> None:
        self._trainer = trainer
        self._pl_module = pl_module
        self._count = count
        running_stage, self._name = _EVALUATION[stage]
        self._running_stage = namespaces.of(trainer, "trainer.states", "RunningStage")[running_stage]

    def run(self, batches: Sequence[Any], validation: Sequence[Any]) -> None:
        """Run the steps of a trial."""
        with self._evaluating():
            for index, batch in enumerate(batches):
                which = (index,) if len(batches) > 1 else ()
                batch = private_names.move_batch(self._trainer, batch)
                for batch_idx in range(self._count):
                    self._step(batch, batch_idx, which)

    def forward(self, batch: Any) -> None:
        """Run one forward pass."""
        with self._evaluating():
            self._step(private_names.move_batch(self._trainer, batch), 0, ())

    def timed(self, batches: Sequence[Any], timer: Timer, count: int) -> list[float]:
        """Run warm-up steps of the first loader, then ``count`` steps; return the seconds of each."""
        stamps, which = [], (0,) if len(batches) > 1 else ()
        with self._evaluating():
            batch = private_names.move_batch(self._trainer, batches[0])
            for batch_idx in range(STEPS + count):
                if batch_idx >= STEPS:
                    stamps.append(timer.stamp())
                self._step(batch, batch_idx, which)
            stamps.append(timer.stamp())
            timer.synchronize()
        return [float(seconds) for seconds in timer.durations(stamps)]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        before = self._trainer.state.stage
        self._pl_module.eval()
        try:
            self._trainer.state.stage = self._running_stage
            with torch.no_grad():
                for hook in (f"on_{self._name}_start", f"on_{self._name}_epoch_start"):
                    private_names.call_module_hook(self._trainer, hook)
                yield
        finally:
            self._trainer.state.stage = before

    def _step(self, batch: Any, batch_idx: int, which: tuple[int, ...]) -> None:
        private_names.call_module_hook(self._trainer, f"on_{self._name}_batch_start", batch, batch_idx, *which)
        output = getattr(self._trainer.strategy, f"{self._name}_step")(batch, batch_idx, *which)
        private_names.call_module_hook(self._trainer, f"on_{self._name}_batch_end", output, batch, batch_idx, *which)


_EVALUATION = {
    "validate": ("VALIDATING", "validation"),
    "test": ("TESTING", "test"),
    "predict": ("PREDICTING", "predict"),
}
