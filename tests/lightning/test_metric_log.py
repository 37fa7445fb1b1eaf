import csv
import re

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger

from gpt import GPTModule
from mfu_callback import MFUCallback
from mfu_callback.lightning.metric_log import ThreeDigits
from tests.helpers.runs import PEAK, SMALL_MODEL, TINY, Manual, fit, make_trainer, tiny_data

SPEED = "throughput/tokens_per_sec"


class Calls(Logger):
    """Keeps what it is given."""

    name = version = "calls"

    def __init__(self):
        super().__init__()
        self.calls = []

    def log_metrics(self, metrics, step=None):
        self.calls.append((step, dict(metrics)))

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def test_every_logger_gets_one_call_a_step_with_the_users_metrics_and_ours():
    loggers = [Calls(), Calls()]
    fit(GPTModule(TINY), data=tiny_data(), logger=loggers)
    for logger in loggers:
        assert [step for step, _ in logger.calls] == list(range(8))
        assert all("train/loss" in metrics for _, metrics in logger.calls)
        assert [step for step, metrics in logger.calls if SPEED in metrics] == list(range(1, 8))
        assert all(isinstance(value, int | float) for _, metrics in logger.calls for value in metrics.values())


class LogsAStep(GPTModule):
    """Chooses the step that its metrics are logged at."""

    def training_step(self, batch, batch_idx):
        self.log("step", float(100 + batch_idx))
        return super().training_step(batch, batch_idx)


def test_a_step_that_the_user_logs_is_ours_too():
    logger = Calls()
    fit(LogsAStep(TINY), data=tiny_data(), logger=logger)
    assert [step for step, metrics in logger.calls if SPEED in metrics] == list(range(101, 108))


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_a_module_that_logs_nothing_has_our_values_logged(tmp_path):
    fit(Manual(), logger=CSVLogger(tmp_path), max_steps=16)
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 8))
    assert all(float(row["throughput/samples_per_sec"]) > 0 for row in rows)


class SeesMetrics(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, *_):
        seen = [SPEED in trainer.callback_metrics, SPEED in trainer.logged_metrics]
        self.seen.append([*seen, "tokens/s" in trainer.progress_bar_metrics])


@pytest.mark.parametrize("logger", [False, True])
def test_callbacks_of_the_same_batch_see_the_values(tmp_path, logger):
    sees = SeesMetrics()
    _, trainer = fit(GPTModule(TINY), sees, data=tiny_data(), logger=logger, root=tmp_path)
    assert sees.seen == [[False] * 3] + [[True] * 3] * 7
    assert isinstance(trainer.callback_metrics[SPEED], torch.Tensor)
    assert isinstance(trainer.progress_bar_metrics["tokens/s"], float)


@pytest.mark.parametrize("bar", [RichProgressBar, TQDMProgressBar])
def test_progress_bars_show_tokens_per_second_and_mfu(bar, capsys):
    fit(GPTModule(TINY), bar(), data=tiny_data(), enable_progress_bar=True)
    captured = capsys.readouterr()
    shown = " ".join((captured.out + captured.err).split())
    assert re.search(r"tokens/s[=:] ?[\d.]+", shown), shown
    assert re.search(r"MFU[=:] ?[\d.]+", shown), shown
    assert "throughput/" not in shown


@pytest.mark.parametrize("bar", [RichProgressBar, TQDMProgressBar])
def test_a_small_mfu_is_shown_with_three_digits(bar, capsys):
    fit(GPTModule(TINY), bar(), data=tiny_data(), enable_progress_bar=True)  # a peak of 1e12 makes it 0.0001 or so
    captured = capsys.readouterr()
    shown = " ".join((captured.out + captured.err).split())
    (*_, mfu) = re.findall(r"MFU[=:] ?([\d.e-]+)", shown)
    assert 0 < float(mfu) < 0.1


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.000123456, "0.000123"),
        (0.41, "0.410"),
        (765.4, "765"),
        (99.96, "100"),
        (99.94, "99.9"),
        (999.9, "1,000"),
        (12345.6, "12,346"),
        (0.0, "0.00"),
        (1e-7, "1.00e-07"),
    ],
)
def test_numbers_of_the_progress_bar_have_three_digits(number, text):
    shown = ThreeDigits(number)
    assert f"{shown:.3f}" == str(shown) == text
    assert shown == number


def test_a_checkpoint_and_early_stopping_can_watch_mfu(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, monitor="throughput/mfu", mode="max", every_n_train_steps=2, save_top_k=1)
    stopping = EarlyStopping("throughput/mfu", mode="max", stopping_threshold=0.0, check_on_train_epoch_end=True)
    trainer = make_trainer(
        MFUCallback(peak=PEAK, warmup_steps=1),
        checkpoint,
        stopping,
        enable_checkpointing=True,
        limit_train_batches=4,
    )
    trainer.fit(GPTModule(TINY), datamodule=tiny_data())
    assert trainer.global_step == 4  # any MFU is above the threshold
    assert 0 < checkpoint.best_model_score.item() < 1
