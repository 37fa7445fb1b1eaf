"""The seconds of evaluated batches, on a fake clock."""

import pytest
from lightning.pytorch import Callback
from torch.utils.data import DataLoader, IterableDataset

from mfu_callback import MFUCallback
from mfu_callback.meter.clock import HostTimer
from tests.helpers.evaluated import STAGES, Evaluated, evaluate, figures_of
from tests.helpers.runs import PEAK, TINY_FLOPS, FakeNow, make_trainer
from tests.lightning.test_time import SlowCallback, SlowData, SlowRun


@pytest.fixture
def now(monkeypatch):
    now = FakeNow()
    for room in ("run", "evaluation"):
        monkeypatch.setattr(f"mfu_callback.lightning.{room}.timer_for", lambda device: HostTimer(now))
    return now


class Stream(IterableDataset):
    """Data of unknown length, of which Lightning fetches one batch ahead."""

    def __init__(self, now, samples):
        self.data, self.samples = SlowData(now), samples

    def __iter__(self):
        return (self.data[index] for index in range(self.samples))


class SlowSteps(Evaluated):
    """A batch takes 2 s to load, 3 s in its step."""

    def __init__(self, now, loader=None):
        super().__init__()
        self.now = now
        self.hparams.clear()
        self.loader = DataLoader(SlowData(now), batch_size=4) if loader is None else loader

    def val_dataloader(self):
        return self.loader

    test_dataloader = predict_dataloader = val_dataloader

    def validation_step(self, batch, batch_idx):
        self.now.seconds += 3.0
        return self._loss(batch)

    test_step = predict_step = validation_step


class SlowHooks(Callback):
    """Takes 100 s before the first batch, 1 s before each batch, 4 s after each and 1,000 s after the last."""

    def __init__(self, now):
        def taking(seconds):
            def hook(*_, **__):
                now.seconds += seconds

            return hook

        for stage in ("validation", "test", "predict"):
            setattr(self, f"on_{stage}_start", taking(100.0))
            setattr(self, f"on_{stage}_batch_start", taking(1.0))
            setattr(self, f"on_{stage}_batch_end", taking(4.0))
            setattr(self, f"on_{stage}_epoch_end", taking(1000.0))


@pytest.mark.parametrize("sync", ["step", "events", "window"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_is_from_the_end_of_one_batch_to_the_end_of_the_next(now, stage, sync):
    callback = MFUCallback(peak=PEAK, warmup_steps=2, sync=sync)
    trainer = make_trainer(callback, SlowHooks(now), **{f"limit_{_limit(stage)}_batches": 7})
    evaluate(stage, SlowSteps(now), trainer)
    figures = figures_of(callback, stage)
    assert (figures.steps, figures.tokens, figures.step_time_sec) == (5, 5 * 32, 10.0)
    assert figures.phases_sec == {"data": 2.0, "forward": 3.0, "other": 5.0}
    assert figures.tokens_per_sec == pytest.approx(32 / 10)
    assert figures.samples_per_sec == pytest.approx(4 / 10)
    assert figures.mfu == pytest.approx(TINY_FLOPS / 10 / PEAK)
    assert figures.waterfall["data"] == pytest.approx(0.2)
    assert figures.waterfall["other"] == pytest.approx(0.5)
    assert sum(figures.waterfall.values()) == pytest.approx(1)
    assert float(trainer.callback_metrics[f"{stage}/time/step_sec"]) == 10.0


def _limit(stage):
    return "val" if stage == "validate" else stage


def test_what_is_before_the_first_batch_is_not_measured(now):
    callback = MFUCallback(peak=PEAK, flops=30.0, warmup_steps=0)
    evaluate("test", SlowSteps(now), make_trainer(callback, SlowHooks(now), limit_test_batches=1))
    figures = figures_of(callback, "test")
    assert (figures.steps, figures.step_time_sec) == (1, 6.0)  # data, a hook and the step; no batch was before it
    assert figures.mfu == pytest.approx(10 * 32 / 6 / PEAK)


def test_a_loader_of_unknown_length_is_measured_to_its_last_batch(now):
    callback = MFUCallback(peak=PEAK, flops=30.0, warmup_steps=1)
    loader = DataLoader(Stream(now, 16), batch_size=4)
    evaluate("test", SlowSteps(now, loader), make_trainer(callback))
    figures = figures_of(callback, "test")
    assert (figures.steps, figures.tokens) == (3, 3 * 32)
    # Of the three, two fetch the batch that comes next, and the last one finds that there is none.
    assert figures.phases_sec == pytest.approx({"data": 2 * 2 / 3, "forward": 3.0, "other": 0.0})


def test_the_time_of_training_is_the_same_with_and_without_measured_validations(monkeypatch, now):
    def run(**arguments):
        now.seconds = 0.0
        callback = MFUCallback(peak=PEAK, flops=30.0, **arguments)
        trainer = make_trainer(
            callback, SlowCallback(now), val_check_interval=2, limit_val_batches=5, num_sanity_val_steps=1
        )
        trainer.fit(SlowRun(now))
        return callback

    asked, plain = run(validation=True), run()
    for figure in ("steps", "tokens", "phases_sec", "waterfall", "mfu", "wall_time_sec", "step_time_sec", "peak"):
        assert getattr(asked.summary, figure) == getattr(plain.summary, figure)
    figures = asked.evaluations["validate"]
    assert (figures.steps, figures.step_time_sec) == (5, 1002.0)
    assert figures.phases_sec == {"data": 2.0, "forward": 1000.0, "other": 0.0}
    assert figures.peak == asked.summary.peak
