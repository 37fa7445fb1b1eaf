"""HParams, in the event files of real runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from gpt import GPTModule
from tests.helpers.board_runs import WithoutHParams, trained
from tests.helpers.event_files import hparams, tag_counts
from tests.helpers.runs import TINY

OURS = {"run/batch_size", "run/device", "run/devices", "run/model", "run/parameters", "run/precision"}


class WithHParams(GPTModule):
    """A module whose hyperparameters Lightning logs."""

    def __init__(self, depth: int = 3, batch_size: int = 2) -> None:
        super().__init__(TINY)
        self.hparams.clear()
        self.save_hyperparameters("depth", "batch_size")


def test_a_run_without_hyperparameters_gets_a_row_in_hparams_at_its_end(tmp_path: Path) -> None:
    values, columns, metrics = hparams(trained(tmp_path, module=WithoutHParams()))
    assert values.keys() == OURS
    assert set(columns) == OURS
    assert (values["run/model"], values["run/batch_size"], values["run/devices"]) == ("WithoutHParams", 4, 1)
    assert (values["run/parameters"], values["run/precision"]) == (7744, "32-true")
    assert metrics == ["throughput/mfu", "throughput/tokens_per_sec"]


def test_hyperparameters_of_the_user_are_kept_with_ours_beside_them(tmp_path: Path) -> None:
    run = trained(tmp_path, module=WithHParams())
    values, columns, metrics = hparams(run)
    assert values.keys() == OURS | {"depth", "batch_size"}
    assert set(columns) == set(values)
    assert (values["depth"], values["batch_size"], values["run/batch_size"]) == (3, 2, 4)
    assert metrics == ["hp_metric", "throughput/mfu", "throughput/tokens_per_sec"]
    assert tag_counts(run)["_hparams_/session_start_info"] == 1
    assert "depth: 3" in (run / "hparams.yaml").read_text()


class LogsHParamsItself(GPTModule):
    """Logs its hyperparameters when training starts, as Lightning's guide advises, and once more later."""

    def on_train_start(self) -> None:
        self.logger.log_hyperparams({"mine": 1.5}, {"hp/loss": 0.0})

    def on_train_end(self) -> None:
        self.logger.log_hyperparams({"late": 2}, {"hp/loss": 1.0})


def test_hyperparameters_that_the_user_logs_in_a_hook_stay_first(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="run", default_hp_metric=False)
    run = trained(tmp_path, module=LogsHParamsItself(TINY), logger=logger)
    values, _, metrics = hparams(run)
    assert values.keys() == OURS | {"mine"}
    assert metrics == ["hp/loss", "throughput/mfu", "throughput/tokens_per_sec"]
    assert tag_counts(run)["_hparams_/session_start_info"] == 2


class Broken(WithHParams):
    """Raises before its first step."""

    def on_train_start(self) -> None:
        raise ArithmeticError("broken")


def test_what_was_held_is_written_when_a_run_breaks_off_early(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError):
        trained(tmp_path, module=Broken())
    values, _, metrics = hparams(tmp_path / "run")
    assert values == {"depth": 3, "batch_size": 2}
    assert metrics == ["hp_metric"]
