"""What the trials must not leave behind."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torchmetrics import MeanSquaredError

from mfu_callback import BatchSizeFinder
from tests.helpers.finder_models import Tabular, fitted

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
]


def assert_same_weights(one: LightningModule, other: LightningModule) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def assert_trains_as_without(make: Any, **options: Any) -> None:
    """A run with a finder and one that was given its size end in the same weights and random state."""
    states = []
    for callbacks, size in (([BatchSizeFinder(max_size=12)], 4), ([], 12)):
        torch.manual_seed(1)
        model = make(batch_size=size)
        fitted(model, *callbacks, **options)
        states.append((model, torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()))
    assert_same_weights(states[0][0], states[1][0])
    assert torch.equal(states[0][1], states[1][1])
    assert states[0][2:] == states[1][2:]
    assert vars(states[0][0]).keys() == vars(states[1][0]).keys()
    assert states[0][0].steps == states[1][0].steps
    assert states[0][0].sizes == states[1][0].sizes


def test_dropout_batch_norm_counters_and_shuffling() -> None:
    assert_trains_as_without(Tabular)


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 3},
        {"gradient_clip_val": 0.1},
        {"precision": "bf16-mixed"},
        {"precision": "bf16-true"},
    ],
    ids=str,
)
def test_every_way_of_stepping(options: dict[str, Any]) -> None:
    class Model(Tabular):
        def loss(self, batch: Any) -> Tensor:
            return super().loss([part.to(self.dtype) for part in batch])

    assert_trains_as_without(Model, **options)


def test_random_numbers_of_every_kind() -> None:
    class Model(Tabular):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(batch) * (1 + random.random() + np.random.rand() + torch.rand(()))

    assert_trains_as_without(Model)


def test_generators_that_the_model_keeps() -> None:
    class Model(Tabular):
        def __init__(self, batch_size: int) -> None:
            super().__init__(batch_size)
            self.generator = torch.Generator().manual_seed(3)
            self.numpy = np.random.default_rng(3)
            self.python = random.Random(3)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            scale = torch.rand((), generator=self.generator) + self.numpy.random() + self.python.random()
            return self.loss(batch) * scale

    assert_trains_as_without(Model)


def test_a_generator_of_the_data_set() -> None:
    class Rows(list[Any]):
        def __init__(self) -> None:
            super().__init__(Tabular().dataset)
            self.generator = torch.Generator().manual_seed(3)
            self.read = 0

        def __getitem__(self, index: Any) -> Any:
            self.read += 1
            inputs, targets = super().__getitem__(index)
            return inputs + torch.rand((), generator=self.generator), targets * self.read

    class Model(Tabular):
        def __init__(self, batch_size: int) -> None:
            super().__init__(batch_size)
            self.dataset = Rows()

    assert_trains_as_without(Model)


@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad", "Adam", "RMSprop", "NAdam", "LBFGS"])
def test_every_kind_of_optimizer(optimizer: str) -> None:
    class Model(Tabular):
        def configure_optimizers(self) -> Any:
            return getattr(torch.optim, optimizer)(self.parameters(), lr=1e-2)

    assert_trains_as_without(Model)


def test_schedulers_and_their_bookkeeping() -> None:
    class Model(Tabular):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    assert_trains_as_without(Model)


def test_manual_optimization_of_two_optimizers_with_schedulers() -> None:
    class Model(Tabular):
        def __init__(self, batch_size: int) -> None:
            super().__init__(batch_size)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer, scheduler in zip(self.optimizers(), self.lr_schedulers(), strict=True):
                self.toggle_optimizer(optimizer)
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch))
                optimizer.step()
                scheduler.step()
                self.untoggle_optimizer(optimizer)

        def configure_optimizers(self) -> Any:
            optimizers = [torch.optim.Adam(self.net[0].parameters()), torch.optim.Adam(self.net[3].parameters())]
            return optimizers, [torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5) for o in optimizers]

    assert_trains_as_without(Model, max_steps=4)


def test_metrics_and_plain_attributes() -> None:
    class Model(Tabular):
        def __init__(self, batch_size: int) -> None:
            super().__init__(batch_size)
            self.metric = MeanSquaredError()
            self.nested: dict[str, list[float]] = {"losses": []}

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.metric(loss, torch.zeros(()))
            self.log("metric", self.metric)
            self.nested["losses"].append(loss.item())
            self.extra = batch_idx
            return loss

    seen = {}

    class Look(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            seen.update(
                total=pl_module.metric.total.item(), nested=str(pl_module.nested), extra=hasattr(pl_module, "extra")
            )

    assert_trains_as_without(Model)
    fitted(Model(4), BatchSizeFinder(max_size=12), Look())
    assert seen == {"total": 0, "nested": "{'losses': []}", "extra": False}


def test_buffers_that_share_memory_or_are_not_saved() -> None:
    class Model(Tabular):
        def __init__(self, batch_size: int) -> None:
            super().__init__(batch_size)
            self.register_buffer("expanded", torch.ones(1).expand(8))
            self.register_buffer("average", torch.zeros(()), persistent=False)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.average = 0.9 * self.average + loss.detach()
            return loss * (1 + self.average) * self.expanded.mean()

    assert_trains_as_without(Model)


@pytest.mark.filterwarnings("ignore:.*eval mode:UserWarning")  # newer Lightning remarks on it
def test_gradients_and_flags_from_before_fit_are_there_again() -> None:
    seen: dict[str, Any] = {}

    class Look(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
            seen.update(grad=pl_module.net[0].weight.grad, frozen=not pl_module.net[3].weight.requires_grad)
            seen.update(training=[module.training for module in pl_module.net])
            seen.update(others=pl_module.net[0].bias.grad, state=dict(trainer.optimizers[0].state))

    model = Tabular()
    model.net[2].eval()
    model.net[3].weight.requires_grad_(False)
    gradient = model.net[0].weight.grad = torch.full((16, 8), 2.0)
    fitted(model, BatchSizeFinder(max_size=12), Look())
    assert seen["grad"] is gradient
    assert seen["frozen"]
    assert seen["training"] == [True, True, False, True]
    assert seen["others"] is None
    assert seen["state"] == {}


def test_callbacks_loggers_and_profilers_see_no_trial(tmp_path: Any) -> None:
    calls: list[str] = []

    class Look(Callback):
        def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Tensor) -> None:
            calls.append("backward")

        def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
            calls.append("step")

    class Model(Tabular):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.logger.log_metrics({"seen": float(len(self.sizes))}, step=self.global_step)
            return loss

    class Log(CSVLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            calls.append("log")

    run = fitted(
        Model(), BatchSizeFinder(max_size=12), Look(), logger=Log(tmp_path), profiler="simple", log_every_n_steps=1
    )
    assert calls == ["log", "backward", "step"] * 3
    recorded = run.profiler.recorded_durations
    assert all(len(times) <= 3 for name, times in recorded.items() if "before_backward" in name)
