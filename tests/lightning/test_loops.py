"""Every way of looping over batches, on a fake clock: what is measured is told by the numbers of batches alone."""

import csv

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset, Subset

from gpt import GPTModule
from mfu_callback import MFUCallback
from mfu_callback.meter.clock import HostTimer
from mfu_callback.tools.nested import tensors_in
from tests.helpers.runs import PEAK, TINY, TINY_FLOPS, FakeNow, fit, make_trainer
from tests.lightning.test_time import SlowCallback, SlowData, SlowRun

# Of a batch of SlowRun; a step takes 1 s more, to clip.
BATCH = {"data": 2.0, "forward": 3.0, "backward": 5.0, "other": 4.0}


@pytest.fixture
def now(monkeypatch):
    now = FakeNow()
    monkeypatch.setattr("mfu_callback.lightning.run.timer_for", lambda device: HostTimer(now))
    return now


def run(now, module=None, *callbacks, ckpt_path=None, **arguments):
    """A run without warm-up: the counting step alone is left out."""
    callback = MFUCallback(peak=PEAK, warmup_steps=0)
    trainer = make_trainer(SlowCallback(now), callback, *callbacks, **{"limit_val_batches": 0} | arguments)
    trainer.fit(module or SlowRun(now), ckpt_path=ckpt_path)
    return callback.summary, trainer


def expect(summary, *, batches, steps, tokens_per_batch=32, extra_data=0.0, carried=0.0):
    assert (summary.steps, summary.tokens) == (steps, tokens_per_batch * batches)
    expected = {phase: seconds * batches / steps for phase, seconds in BATCH.items()} | {"optimizer": 1.0}
    expected["data"] += extra_data / steps
    assert summary.phases_sec == pytest.approx(expected)
    assert summary.wall_time_sec["training"] == pytest.approx(sum(expected.values()) * steps + carried)


def test_the_incomplete_last_accumulation_of_an_epoch_is_a_step(now):
    summary, trainer = run(now, accumulate_grad_batches=2, limit_train_batches=5, max_steps=-1, max_epochs=3)
    assert trainer.global_step == 9
    expect(summary, batches=15 - 2, steps=9 - 1)


def test_a_share_of_the_batches(now):
    summary, trainer = run(now, limit_train_batches=0.1, max_steps=-1, max_epochs=2)
    assert trainer.global_step == 20
    expect(summary, batches=19, steps=19)


class Endless(IterableDataset):
    def __init__(self, now):
        self.data = SlowData(now)

    def __iter__(self):
        while True:
            yield self.data[0]


class FromLoader(SlowRun):
    """Trains on what a function makes."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch["one"] if isinstance(batch, dict) else batch, batch_idx)

    def train_dataloader(self):
        return self.make(self.now)


def training_on(now, make):
    module = FromLoader(now)
    module.make = make
    return module


def test_an_iterable_without_a_length_whose_batches_are_fetched_ahead(now):
    module = training_on(now, lambda now: DataLoader(Endless(now), batch_size=4))
    summary, _ = run(now, module, max_steps=12)
    expect(summary, batches=11, steps=11)


def test_batches_of_several_loaders_count_with_all_their_tokens(now):
    def make(now):
        loaders = {"one": DataLoader(SlowData(now), batch_size=4), "two": DataLoader(SlowData(now), batch_size=8)}
        return CombinedLoader(loaders, "max_size_cycle")

    summary, _ = run(now, training_on(now, make), max_steps=6)
    expect(summary, batches=5, steps=5, tokens_per_batch=3 * 32, extra_data=5 * 4.0)


class Every(FromLoader):
    """Trains on the first tensors of whatever several loaders give."""

    def training_step(self, batch, batch_idx):
        (first, *_) = [part for part in tensors_in(batch) if len(part) == 4]
        return SlowRun.training_step(self, (first, first), batch_idx)


@pytest.mark.parametrize(
    "arrange",
    [
        lambda a, b, c: [a, b, c],
        lambda a, b, c: {"a": a, "b": b, "c": c},
        lambda a, b, c: {"a": [a, b], "c": c},
        lambda a, b, c: CombinedLoader((a, {"b": b, "c": c}), "max_size_cycle"),
        lambda a, b, c: CombinedLoader([c, b, a], "min_size"),
    ],
)
def test_all_loaders_samples_and_tokens_count(now, arrange):
    def make(now):
        return arrange(*(DataLoader(SlowData(now), batch_size=size) for size in (4, 8, 12)))

    module = Every(now)
    module.make = make
    summary, _ = run(now, module, max_steps=6)
    assert summary.tokens == 5 * (4 + 8 + 12) * 8
    assert summary.samples_per_sec * sum(summary.phases_sec.values()) == pytest.approx(4 + 8 + 12)


def test_a_loader_that_has_ended_before_the_others_counts_no_more(now):
    def make(now):
        short = DataLoader(Subset(SlowData(now), range(16)), batch_size=8)
        return CombinedLoader([DataLoader(SlowData(now), batch_size=4), short], "max_size")

    module = Every(now)
    module.make = make
    summary, _ = run(now, module, max_steps=6)
    # The second batch has the shape of the first, which was counted; the third is the first without the short loader.
    assert (summary.steps, summary.tokens) == (4, 8 * (4 + 8) + 3 * 8 * 4)


class Merged(Every):
    """Makes one batch of those of its loaders."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return tuple(torch.cat(parts) for parts in zip(*batch, strict=True))

    def training_step(self, batch, batch_idx):
        return SlowRun.training_step(self, batch, batch_idx)


def test_batches_that_a_hook_has_merged_are_one(now):
    module = Merged(now)
    module.make = lambda now: [DataLoader(SlowData(now), batch_size=size) for size in (4, 8)]
    summary, _ = run(now, module, max_steps=6)
    assert summary.tokens == 5 * 12 * 8
    assert summary.samples_per_sec * sum(summary.phases_sec.values()) == pytest.approx(12)


class Skips(SlowRun):
    """Skips every other batch, after its forward pass."""

    skipped = 1

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx % 2 == self.skipped else loss


@pytest.mark.filterwarnings("ignore:.*training_step.* returned .*None")
def test_a_skipped_batch_is_time_alone(now):
    summary, trainer = run(now, Skips(now), max_steps=16)
    assert trainer.global_step == 16
    assert (summary.steps, summary.tokens) == (7, 7 * 32)
    seconds = {"data": 4.0, "forward": 6.0, "backward": 5.0, "optimizer": 2.0, "other": 8.0}
    assert sum(summary.phases_sec.values()) == pytest.approx(sum(seconds.values()))
    assert summary.phases_sec["backward"] == pytest.approx(5.0)
    assert summary.mfu * PEAK * sum(seconds.values()) == pytest.approx(3 * TINY_FLOPS)


@pytest.mark.filterwarnings("ignore:.*training_step.* returned .*None")
@pytest.mark.parametrize("skipped", [0, 1])
def test_a_step_with_a_skipped_micro_batch_is_a_step(now, skipped):
    module = Skips(now)
    module.skipped = skipped
    summary, _ = run(now, module, max_steps=8, accumulate_grad_batches=2)
    assert (summary.steps, summary.tokens) == (7, 7 * 32)


@pytest.mark.filterwarnings("ignore:.*training_step.* returned .*None")
def test_a_logging_step_that_is_skipped_logs_what_came_before(now, tmp_path):
    callback = MFUCallback(peak=PEAK, warmup_steps=0)
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(SlowCallback(now), callback, max_steps=8, log_every_n_steps=4, logger=logger)
    trainer.fit(Skips(now))
    (written,) = tmp_path.rglob("metrics.csv")
    rows = [row for row in csv.DictReader(written.read_text().splitlines()) if row["throughput/tokens_per_sec"]]
    assert [int(row["step"]) for row in rows] == [3, 7]
    # Of batches 0 to 3, the first is counted and the second is skipped; the fourth is time of the next window.
    assert float(rows[1]["throughput/tokens_per_sec"]) > 0


class StartsSlowly(DataLoader):
    """Takes its time to start its workers, at every epoch."""

    def __iter__(self):
        self.dataset.now.seconds += 50.0
        return super().__iter__()


@pytest.mark.parametrize("reload", [0, 1])
def test_an_epoch_that_starts_its_loader_anew_waits_for_data(now, reload):
    module = training_on(now, lambda now: StartsSlowly(SlowData(now), batch_size=4))
    arguments = {"limit_train_batches": 4, "max_epochs": 3, "max_steps": -1}
    summary, _ = run(now, module, reload_dataloaders_every_n_epochs=reload, **arguments)
    assert summary.wall_time_sec["setup"] == 50.0
    assert summary.steps == 11
    starts = (summary.phases_sec["data"] * 11 - 11 * BATCH["data"]) / 50.0
    assert starts == pytest.approx(2 * (1 + reload))  # one that is made anew is asked for an iterator twice


@pytest.mark.parametrize("every", [3, 0.25])
def test_validation_in_the_middle_of_an_epoch_is_no_training(now, every):
    arguments = {"limit_train_batches": 12, "max_steps": -1, "max_epochs": 2, "limit_val_batches": 2}
    summary, _ = run(now, val_check_interval=every, num_sanity_val_steps=0, **arguments)
    expect(summary, batches=23, steps=23)
    assert summary.wall_time_sec["validation"] == 8 * 2 * (2.0 + 1000.0)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended:UserWarning")
@pytest.mark.filterwarnings("ignore:Checkpoint directory:UserWarning")
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_run_that_is_resumed_in_the_middle_of_an_epoch_has_its_own_totals(now, tmp_path, accumulation):
    arguments = {"enable_checkpointing": True, "accumulate_grad_batches": accumulation}

    def checkpoint():
        return ModelCheckpoint(tmp_path, every_n_train_steps=5, save_top_k=-1)

    first, _ = run(now, None, checkpoint(), max_steps=5, **arguments)
    now.seconds += 10_000.0  # nobody's: the process was gone
    path = next(tmp_path.glob("*.ckpt"))
    summary, trainer = run(now, None, checkpoint(), max_steps=12, ckpt_path=path, **arguments)
    assert trainer.global_step == 12
    steps = 12 - 5 - 1
    carried = first.wall_time_sec["training"]  # the wall time is the job's, all else is the fit's own
    expect(summary, batches=steps * accumulation, steps=steps, carried=carried)


def test_a_pause_between_two_fits_is_nobodys(now):
    callback = MFUCallback(peak=PEAK, warmup_steps=0)
    module = SlowRun(now)
    trainer = make_trainer(SlowCallback(now), callback, limit_val_batches=0)
    trainer.fit(module)
    now.seconds += 10_000.0
    trainer.fit_loop.epoch_loop.max_steps = 20
    trainer.fit(module)
    expect(callback.summary, batches=20 - 8 - 1, steps=20 - 8 - 1)
    assert sum(callback.summary.wall_time_sec.values()) < 1000.0


def test_a_run_that_its_time_limit_ends_is_summed_up():
    data = DataLoader(SlowData(FakeNow()), batch_size=4)
    limit = {"max_steps": -1, "max_epochs": -1, "max_time": {"seconds": 0.3}}
    callback, trainer = fit(GPTModule(TINY), data=data, **limit)
    assert sum(callback.summary.steps_by_part.values()) == trainer.global_step  # however many that were
