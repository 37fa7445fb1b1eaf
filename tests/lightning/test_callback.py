import csv
import io
import logging
import math
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from gpt import GPTModule, TextFile
from gpt.model import next_token_loss
from mfu_callback import MFUCallback
from mfu_callback.meter.tags import TAGS
from mfu_callback.tools.accelerators import current_accelerator
from tests.helpers.runs import ABSENT_TAGS, PEAK, TINY, TINY_FLOPS, make_trainer, tiny_data, train_tiny

ALL_TAGS = {tag.name for tag in TAGS}
TOKEN_TAGS = {"throughput/tokens_per_sec", "throughput/device/tokens_per_sec"}


def test_a_gpts_flops_and_all_tags(capsys):
    callback = MFUCallback(peak=PEAK, summary="table")
    trainer = make_trainer(callback)
    trainer.fit(GPTModule(TINY), datamodule=tiny_data())
    assert callback.summary.flops.forward == TINY_FLOPS
    assert callback.summary.steps == 5  # 8 less the warm-up of 3
    assert callback.summary.tokens == 5 * 32
    assert set(trainer.callback_metrics) - {"train/loss"} == ALL_TAGS - ABSENT_TAGS
    assert {"MFU", "tokens/s"} <= set(trainer.progress_bar_metrics)
    parts = [float(value) for name, value in trainer.callback_metrics.items() if name.startswith("waterfall/")]
    assert sum(parts) == pytest.approx(1.0, abs=1e-6)
    assert "MFU over 5 steps" in capsys.readouterr().out


def test_mfu_is_three_forward_passes_over_time_and_peak():
    callback = MFUCallback(peak=PEAK)
    train_tiny(callback)
    summary = callback.summary
    assert summary.mfu == pytest.approx(3 * TINY_FLOPS / 32 * summary.tokens_per_sec / PEAK)


def test_metrics_stand_at_the_steps_of_the_users_own_and_at_the_logging_interval(tmp_path):
    callback = MFUCallback(peak=PEAK)
    logger = CSVLogger(tmp_path)
    make_trainer(callback, logger=logger, log_every_n_steps=2).fit(GPTModule(TINY), datamodule=tiny_data())
    with open(f"{logger.log_dir}/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [1, 3, 5, 7]
    assert [int(row["step"]) for row in rows if row["throughput/mfu"]] == [3, 5, 7]  # the first three are warm-up


def test_a_real_text_is_learned_and_the_mfu_curve_is_in_the_event_file(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("A step is one optimizer step, with all of its micro-batches.\n" * 100)

    def train(*callbacks, logger=False):
        seed_everything(1, verbose=False)
        module = GPTModule(
            TINY.__class__(n_layer=2, n_head=2, n_embd=32, vocab_size=256, context_length=32), learning_rate=1e-2
        )
        trainer = make_trainer(*callbacks, logger=logger, max_steps=30, limit_val_batches=0)
        trainer.fit(module, datamodule=TextFile(text, batch_size=4, context_length=32))
        return module

    logger = TensorBoardLogger(tmp_path)
    module = train(MFUCallback(peak=PEAK), logger=logger)
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    loss = [event.value for event in events.Scalars("train/loss")]
    assert loss[-1] < 0.7 * loss[0]
    mfu = events.Scalars("throughput/mfu")
    assert [event.step for event in mfu] == list(range(3, 30))
    assert all(0 < event.value < 1 for event in mfu)
    plain = train()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), plain.parameters(), strict=True))


def test_the_peak_is_measured_on_a_cpu_and_the_log_says_so(caplog, monkeypatch):
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        callback = MFUCallback()
        train_tiny(callback)
    assert callback.summary.peak.is_measured
    assert callback.summary.mfu == callback.summary.mfu_achievable
    assert "MFU is measured against" in caplog.text
    assert "model FLOPs in the forward pass of one batch" in caplog.text


def test_fast_dev_run_ends_without_a_figure_and_says_why(capsys):
    callback = MFUCallback(peak=PEAK)
    train_tiny(callback, fast_dev_run=True)
    assert callback.summary.steps == 0
    assert "MFUCallback measured no step: the first 3 are warm-up" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Total length of `.*` across ranks is zero")
def test_an_empty_loader_trains_nothing_and_harms_nothing():
    callback = MFUCallback(peak=PEAK)
    make_trainer(callback).fit(GPTModule(TINY), DataLoader([]))
    assert callback.summary is None


@pytest.mark.filterwarnings(r"ignore:You are trying to `self.log\(\)` but `Trainer\(barebones=True\)`")
def test_barebones_has_no_metrics_but_a_summary():
    callback = MFUCallback(peak=PEAK)
    trainer = make_trainer(callback, barebones=True, logger=None, log_every_n_steps=None)
    trainer.fit(GPTModule(TINY), datamodule=tiny_data())
    assert callback.summary.steps == 5


class SkipsAnEpoch(GPTModule):
    """Breaks the first epoch off before its first training step."""

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if self.current_epoch == 0 else None


def test_a_skipped_epoch_is_neither_counted_nor_measured():
    callback = MFUCallback(peak=PEAK)
    make_trainer(callback).fit(SkipsAnEpoch(TINY), datamodule=tiny_data())
    assert callback.summary.flops.forward == TINY_FLOPS
    assert (callback.summary.steps, callback.summary.tokens) == (5, 5 * 32)


def test_a_second_fit_measures_anew():
    callback = MFUCallback(peak=PEAK)
    trainer, module = make_trainer(callback), GPTModule(TINY)
    trainer.fit(module, datamodule=tiny_data())
    first = callback.summary
    trainer.fit_loop.epoch_loop.max_steps = 16
    trainer.fit(module, datamodule=tiny_data())
    assert callback.summary is not first
    assert callback.summary.steps == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flops": "torch"}, "flops='torch' is not known"),
        ({"flops": 0}, "flops=0 is not known.*a number above 0"),
        ({"backward_factor": -1}, "backward_factor=-1 must be .measured. or a number of at least 0"),
        ({"peak": "a100"}, "peak='a100' is not known"),
        ({"peak": -1.0}, "peak=-1.0 is not known.*a number above 0"),
        ({"peak": math.nan}, "peak=nan is not known.*a number above 0"),
        ({"peak": math.inf}, "peak=inf is not known.*a number above 0"),
        ({"peak": True}, "peak=True is not known"),
        ({"peak": torch.tensor(3e14)}, "peak=tensor"),
        ({"sync": "never"}, "sync='never' is not known"),
        ({"tokens": 0}, "tokens=0 must be .*a whole one of at least 1"),
        ({"warmup_steps": -1}, "warmup_steps=-1 must be a whole number of at least 0"),
        ({"summary": "short"}, "summary='short' is not known"),
    ],
)
def test_a_wrong_argument_raises_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        MFUCallback(**arguments)


@pytest.mark.parametrize(
    ("style", "quiet", "lines"),
    [
        ("table", True, "many"),
        ("line", True, "one"),
        (None, False, "none"),
        ("auto", False, "one"),  # the output is no terminal
        ("auto", True, "none"),
    ],
)
def test_what_the_end_of_fit_prints(style, quiet, lines, tmp_path, capsys, caplog):
    logger = CSVLogger(tmp_path) if quiet else False
    callback = MFUCallback(peak=PEAK, summary=style)
    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        train_tiny(callback, logger=logger)
    out = capsys.readouterr().out
    assert ("none" if not out.strip() else "one" if out.count("\n") == 1 else "many") == lines
    is_in_the_log = any(re.match(r"MFUCallback: MFU \d", record.message) for record in caplog.records)
    assert is_in_the_log is (style == "auto" and quiet)
    assert callback.summary.mfu > 0
    assert not quiet or (Path(logger.log_dir) / "mfu_summary.json").exists()


@pytest.mark.gpu
@pytest.mark.skipif(current_accelerator() is None, reason="needs an accelerator")
def test_a_run_on_a_real_accelerator():
    callback = MFUCallback()
    train_tiny(callback, accelerator="auto", precision="bf16-true")
    assert 0 < callback.summary.mfu < 1


class ClosedPipe(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


def test_a_closed_pipe_does_not_end_the_run(monkeypatch):
    callback = MFUCallback(peak=PEAK)
    trainer = make_trainer(callback)
    monkeypatch.setattr("sys.stdout", ClosedPipe())
    trainer.fit(GPTModule(TINY), datamodule=tiny_data())
    assert callback.summary.steps == 5


class TakesTheIterator(GPTModule):
    """Fetches its batches itself."""

    def training_step(self, dataloader_iter):
        (inputs, targets), _, _ = next(dataloader_iter)
        return next_token_loss(self.model(inputs), targets)


# Lightning warns of its own feature.
@pytest.mark.parametrize("error", [ValueError("I/O operation on closed file"), KeyboardInterrupt()])
def test_the_summary_is_there_though_it_could_not_be_printed(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("mfu_callback.lightning.run.print_summary", fail)
    callback = MFUCallback(peak=PEAK)
    with pytest.raises(SystemExit) if isinstance(error, KeyboardInterrupt) else nullcontext():
        train_tiny(callback)
    assert callback.summary.steps == 5


class PutsOneIn(Callback):
    def __init__(self, other):
        self.other = other

    def on_fit_start(self, trainer, pl_module):
        trainer.callbacks.append(self.other)


def test_a_callback_that_another_puts_in_after_setup_measures_all_the_same():
    callback = MFUCallback(peak=PEAK)
    train_tiny(PutsOneIn(callback))
    assert callback.summary.steps == 5


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor", "ignore:Found `dataloader_iter`")
@pytest.mark.filterwarnings("ignore:No tensor is found in the batch")  # the Trainer hands none over
def test_a_training_step_that_takes_the_iterator_is_counted():
    callback = MFUCallback(peak=PEAK)
    make_trainer(callback).fit(TakesTheIterator(TINY), datamodule=tiny_data())
    assert callback.summary.flops.forward == TINY_FLOPS
    assert callback.summary.steps == 5
    assert callback.summary.mfu > 0


def test_a_driver_that_fails_leaves_the_peak_out_and_says_so(monkeypatch):
    def fail(*_):
        raise OSError("the driver is gone")

    monkeypatch.setattr("mfu_callback.meter.peak_of_run.resolve_peak", fail)
    callback = MFUCallback()
    with pytest.warns(UserWarning, match=r"No peak was found \(OSError: the driver is gone\).*Pass peak="):
        train_tiny(callback)
    assert (callback.summary.mfu, callback.summary.steps) == (None, 5)
