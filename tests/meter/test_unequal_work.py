"""Batches of one shape whose work depends on their values or on the step: real runs against the sum of all batches."""

import random

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader

from mfu_callback import MFUCallback
from mfu_callback.flops.repeated_counts import RepeatedCounts, TrainingFlops
from mfu_callback.meter.clock import HostTimer
from mfu_callback.meter.recounts import Recounts
from tests.helpers.runs import PEAK, FakeNow, make_trainer

ROWS, WIDTH = 4, 8
LAYER = 2 * ROWS * WIDTH * WIDTH  # FLOPs of a layer on a batch, forward
pytestmark = pytest.mark.filterwarnings("ignore:The backward pass of this model takes")


class Depth(LightningModule):
    """Runs as many layers on a batch as a function of the step and the batch says; every step takes a second."""

    def __init__(self, now, depth_of):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(8))
        self.now, self.depth_of, self.depths = now, depth_of, []

    def training_step(self, batch, batch_idx):
        self.now.seconds += 1.0
        self.depths.append(self.depth_of(batch_idx))
        for layer in self.layers[: self.depths[-1]]:
            batch = layer(batch)
        return batch.square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def train_dataloader(self):
        return DataLoader([torch.ones(ROWS, WIDTH)] * 10_000, batch_size=None)


def run(monkeypatch, depth_of, *, steps, **arguments):
    now = FakeNow()
    monkeypatch.setattr("mfu_callback.lightning.run.timer_for", lambda device: HostTimer(now))
    callback = MFUCallback(peak=PEAK, **arguments)
    module = Depth(now, depth_of)
    make_trainer(callback, max_steps=steps, log_every_n_steps=50).fit(module)
    return callback.summary, module.depths


def flops_per_step(summary):
    return summary.mfu * PEAK * summary.step_time_sec


UNEQUAL = pytest.mark.filterwarnings("ignore:Batches of one shape take between")


@UNEQUAL
@pytest.mark.parametrize(
    "depth_of",
    [
        lambda step: 8 if (step + 1) % 5 == 0 else 4,  # a generator that is trained in every fifth step
        lambda step: random.Random(step).randint(4, 8),
        lambda step: 8 if step == 0 else 4,
    ],
    ids=["every fifth", "any", "the first alone"],
)
def test_flops_are_the_mean_of_what_batches_take(monkeypatch, depth_of):
    summary, depths = run(monkeypatch, depth_of, steps=1_000)
    truth = 3 * LAYER * sum(depths) / len(depths)
    error = summary.flops_error or 0.0
    assert flops_per_step(summary) == pytest.approx(truth, rel=0.03 + 2 * error)
    assert error < 0.05
    assert summary.steps > 0.85 * 1_000


@UNEQUAL
def test_work_that_changes_for_good_is_counted_as_it_is_then(monkeypatch):
    summary, _ = run(monkeypatch, lambda step: 2 if step < 100 else 8, steps=2_000)
    truth = 3 * LAYER * (100 * 2 + 1_900 * 8) / 2_000
    assert flops_per_step(summary) == pytest.approx(truth, rel=0.1)


def test_unequal_work_is_named_once_with_its_range(monkeypatch):
    with pytest.warns(UserWarning, match=r"Batches of one shape take between 6\.14e\+03 and 1\.23e\+04 FLOPs") as said:
        summary, _ = run(monkeypatch, lambda step: 4 + 4 * (step % 2), steps=40, warmup_steps=2)
    assert sum("Batches of one shape" in str(one.message) for one in said) == 1
    assert summary.flops_error > 0


def test_equal_work_is_counted_ever_more_seldom(monkeypatch, recwarn):
    summary, _ = run(monkeypatch, lambda step: 4, steps=1_000)
    assert summary.flops_error is None
    assert not any("Batches of one shape" in str(one.message) for one in recwarn)
    assert flops_per_step(summary) == pytest.approx(3 * LAYER * 4)
    assert 5 <= summary.steps_by_part["counting"] <= 14  # about 16 steps apart at first, then a quarter of those so far


def test_steps_of_the_warm_up_are_counted_again_and_none_right_after(monkeypatch):
    summary, _ = run(monkeypatch, lambda step: 4, steps=67)
    assert summary.steps == 64
    summary, _ = run(monkeypatch, lambda step: 4, steps=67, warmup_steps=0)
    assert summary.steps == 65  # but the first, and that 64 steps later


class OfNumbers(Depth):
    """Is handed a number, in which there is no tensor, and runs as many layers."""

    def training_step(self, batch, batch_idx):
        self.depth_of = lambda _: batch
        return super().training_step(torch.ones(ROWS, WIDTH), batch_idx)

    def train_dataloader(self):
        return DataLoader([4, 8] * 200, batch_size=None, collate_fn=lambda number: number)


@UNEQUAL
def test_batches_without_tensors_cannot_be_told_apart_and_this_is_said(monkeypatch):
    now = FakeNow()
    monkeypatch.setattr("mfu_callback.lightning.run.timer_for", lambda device: HostTimer(now))
    callback = MFUCallback(peak=PEAK)
    with pytest.warns(UserWarning, match="No tensor is found in the batch"):
        make_trainer(callback, max_steps=400).fit(OfNumbers(now, None))
    summary = callback.summary
    assert flops_per_step(summary) == pytest.approx(3 * LAYER * 6, rel=0.03 + 2 * summary.flops_error)


def flops(*numbers):
    counts = RepeatedCounts()
    for number in numbers:
        counts.add(TrainingFlops(number, number / 2, {"bfloat16": number / 4}))
    return counts


def test_counts_have_a_mean_and_its_standard_error():
    counts = flops(1.0, 2.0, 3.0, 2.0)
    assert counts.vary
    assert (counts.mean.model, counts.mean.recomputed, counts.mean.of_dtypes) == (2.0, 1.0, {"bfloat16": 0.5})
    assert counts.error == pytest.approx((2 / 3) ** 0.5 / 2 / 2)
    assert counts.range == (1.0, 3.0)


def test_equal_counts_have_no_error_and_long_equal_ones_replace_others():
    assert flops(5.0, 5.0).error == 0.0
    assert not flops(5.0, 5.01).vary
    assert flops(9.0, *[5.0] * 15).mean.model > 5.0
    assert flops(9.0, *[5.0] * 16).mean.model == 5.0


def test_a_pattern_of_any_period_is_seen_in_all_its_phases():
    recounts, chosen = Recounts(), []
    for step in range(5_000):
        if recounts.is_due(step, is_warm=step >= 3):
            chosen.append(step)
            recounts.choose_next(step, vary=True, counts=len(chosen), error=0.1)
    for period in (2, 3, 4, 5, 7, 10):
        phases = [sum(step % period == phase for step in chosen) / len(chosen) for phase in range(period)]
        assert min(phases) > 0.5 / period
