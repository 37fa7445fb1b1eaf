"""The search as a function, and the finder in validate, test and predict."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader

from mfu_callback import BatchSizeFinder, find_batch_size
from tests.helpers.finder_models import MIB, Tabular, TabularData, TinyGPT, fitted, trainer

METHODS = ("validate", "test", "predict")


class Evaluated(Tabular):
    """Remembers the steps of every evaluation."""

    steps_seen: list[tuple[str, int, bool, bool]] = []  # noqa: RUF012

    def note(self, stage: str, batch: Any) -> None:
        Evaluated.steps_seen.append((stage, len(batch[0]), self.training, torch.is_grad_enabled()))
        assert getattr(self.trainer, {"validate": "validating", "test": "testing", "predict": "predicting"}[stage])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.note("validate", batch)
        self.log("val", self.loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.note("test", batch)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.note("predict", batch)
        return self.net(batch[0])

    def loader(self) -> Any:
        return DataLoader(self.dataset, batch_size=self.batch_size)

    val_dataloader = test_dataloader = predict_dataloader = loader


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    Evaluated.steps_seen.clear()


@pytest.mark.parametrize("method", METHODS)
def test_the_callback_finds_the_size_of_an_evaluation(method: str) -> None:
    finder, model = BatchSizeFinder(max_size=12), Evaluated()
    getattr(trainer(finder), method)(model)
    assert finder.result is not None
    assert model.batch_size == finder.result.batch_size == 12
    seen = Evaluated.steps_seen
    assert [size for _, size, *_ in seen] == [2, 2, 2, 2, 8, 8, 12, 12, *[12] * 5, 4]
    assert {(stage, training, grad) for stage, _, training, grad in seen} == {(method, False, False)}


@pytest.mark.parametrize("method", METHODS)
def test_the_callback_finds_the_size_of_loaders_given_to_an_evaluation(method: str) -> None:
    finder, model = BatchSizeFinder(max_size=12), Evaluated()
    loader = DataLoader(model.dataset, batch_size=4)
    getattr(trainer(finder), method)(model, loader)
    assert loader.batch_size == 12
    assert [size for _, size, *_ in Evaluated.steps_seen][-6:] == [*[12] * 5, 4]


def test_every_loader_of_an_evaluation_is_tried() -> None:
    seen: list[tuple[int, int]] = []

    class Model(Evaluated):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            seen.append((dataloader_idx, len(batch[0])))

    model = Model()
    loaders = [DataLoader(model.dataset, batch_size=4), DataLoader(model.dataset, batch_size=2)]
    trainer(BatchSizeFinder(max_size=12)).validate(model, loaders)
    assert seen[:4] == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert {size for _, size in seen[-12:]} == {12, 4}


def test_an_evaluation_ends_at_a_real_limit() -> None:
    class Model(TinyGPT):
        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            self.log("val", self.loss(batch))

        def val_dataloader(self) -> Any:
            return self.train_dataloader()

    training, validation = (
        find_batch_size(trainer(), Model(), method=method, budget=100 * MIB) for method in ("fit", "validate")
    )
    assert validation.batch_size > training.batch_size > 8
    trials = {trial.size: trial.fits for trial in validation.trials}
    assert trials[validation.batch_size]


def test_a_bracket_that_never_searches_is_taken_out() -> None:
    class Breaks(Callback):
        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            raise ArithmeticError

    run = trainer(BatchSizeFinder(max_size=12), Breaks())
    with pytest.raises(ArithmeticError):
        run.validate(Evaluated())
    assert "setup_data" not in vars(run.validate_loop)


def test_the_function_sets_the_size_and_leaves_all_else_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, seen = Tabular(), Callback()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = trainer(seen, logger=CSVLogger(tmp_path))
    attributes = sorted(vars(model))
    kept = (run.callbacks, run.loggers, run.state.fn, run.state.status, run.max_epochs, run.datamodule)
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    result = find_batch_size(run, model, max_size=12)
    assert result.batch_size == model.batch_size == 12
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert kept == (run.callbacks, run.loggers, run.state.fn, run.state.status, run.max_epochs, run.datamodule)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert list(tmp_path.rglob("*")) == []
    assert model._trainer is None
    assert sorted(vars(model)) == attributes


def test_a_run_after_the_function_is_the_run_that_was_given_its_size() -> None:
    weights = []
    for size in (4, 12):
        torch.manual_seed(1)
        model, run = Tabular(batch_size=size), trainer()
        if size == 4:
            find_batch_size(run, model, max_size=12)
        torch.manual_seed(7)
        run.fit(model)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_loaders_that_do_not_follow_get_a_size_to_be_made_with(caplog: pytest.LogCaptureFixture) -> None:
    class Fixed(LightningDataModule):
        def setup(self, stage: str) -> None:
            self.made = DataLoader(Tabular().dataset, batch_size=7)

        def train_dataloader(self) -> Any:
            return self.made

    class Model(Tabular):
        train_dataloader = LightningModule.train_dataloader

    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        result = find_batch_size(trainer(), Model(), datamodule=Fixed(), max_size=12)
    assert result.batch_size == 12
    assert "not set anywhere" in caplog.text


def test_the_function_takes_loaders_and_datamodules() -> None:
    class Model(Tabular):
        train_dataloader = LightningModule.train_dataloader

    model, loader = Model(), DataLoader(Tabular().dataset, batch_size=4)
    find_batch_size(trainer(), model, loader, max_size=9)
    assert loader.batch_size == 9
    data = TabularData()
    find_batch_size(trainer(), Model(), datamodule=data, max_size=10)
    assert data.hparams["batch_size"] == 10
    loader = DataLoader(Tabular().dataset, batch_size=4)
    find_batch_size(trainer(), Evaluated(), dataloaders=loader, method="test", max_size=11)
    assert loader.batch_size == 11


def test_an_error_in_the_function_leaves_the_trainer_as_it_was() -> None:
    class Model(Tabular):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise ArithmeticError

    run = trainer(seen := Callback())
    with pytest.raises(ArithmeticError):
        find_batch_size(run, Model(), max_size=12)
    assert seen in run.callbacks


def test_wrong_arguments_of_the_function_are_named() -> None:
    with pytest.raises(ValueError, match="method='train'"):
        find_batch_size(trainer(), Tabular(), method="train")
    with pytest.raises(ValueError, match="method=\\['fit'\\]"):
        find_batch_size(trainer(), Tabular(), method=["fit"])  # type: ignore[arg-type]
    loader = DataLoader(Tabular().dataset, batch_size=4)
    with pytest.raises(ValueError, match=r"train_dataloaders= is not used with method='test'.*as dataloaders"):
        find_batch_size(trainer(), Tabular(), loader, method="test")
    with pytest.raises(ValueError, match=r"dataloaders= is not used with method='fit'.*as train_dataloaders"):
        find_batch_size(trainer(), Tabular(), dataloaders=loader)
    with pytest.raises(ValueError, match="margin"):
        find_batch_size(trainer(), Tabular(), margin=2)
    with pytest.raises(MisconfigurationException, match="fast_dev_run"):
        find_batch_size(trainer(fast_dev_run=True), Tabular())
    with pytest.raises(MisconfigurationException, match="processes of this strategy"):
        find_batch_size(trainer(devices=2, strategy="ddp_spawn"), Tabular())


def test_time_may_be_limited() -> None:
    finder = BatchSizeFinder(max_seconds=1e-9)
    fitted(Tabular(), finder)
    assert finder.result is not None
    assert [trial.size for trial in finder.result.trials] == [finder.result.batch_size]


def test_sizes_may_be_asked_to_be_multiples() -> None:
    finder = BatchSizeFinder(max_size=60, multiple_of=8)
    fitted(Tabular(), finder)
    assert finder.result is not None
    assert finder.result.batch_size == 56
    assert all(trial.size % 8 == 0 for trial in finder.result.trials)
