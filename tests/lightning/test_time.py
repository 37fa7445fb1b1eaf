import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from gpt import GPTModule
from mfu_callback import MFUCallback
from mfu_callback.meter.clock import HostTimer
from tests.helpers.runs import PEAK, TINY, TINY_FLOPS, FakeNow, make_trainer


class SlowRun(GPTModule):
    """Every part of a run takes its own time on a fake clock."""

    def __init__(self, now):
        super().__init__(TINY)
        self.now = now
        self.hparams.pop("now", None)  # a checkpoint does not take a clock

    def training_step(self, batch, batch_idx):
        self.now.seconds += 3.0
        return super().training_step(batch, batch_idx)

    def backward(self, loss):
        self.now.seconds += 5.0
        super().backward(loss)

    def on_before_optimizer_step(self, optimizer):
        self.now.seconds += 1.0

    def validation_step(self, batch, batch_idx):
        self.now.seconds += 1000.0

    def train_dataloader(self):
        return DataLoader(SlowData(self.now), batch_size=4)

    def val_dataloader(self):
        return DataLoader(SlowData(self.now), batch_size=4)


class SlowData(torch.utils.data.Dataset):
    def __init__(self, now):
        self.now = now

    def __len__(self):
        return 400

    def __getitem__(self, index):
        self.now.seconds += 0.5
        return torch.zeros(8, dtype=torch.long), torch.zeros(8, dtype=torch.long)


class SlowCallback(Callback):
    def __init__(self, now):
        self.now = now

    def on_train_batch_end(self, *_):
        self.now.seconds += 4.0


@pytest.mark.parametrize("sync", ["step", "events", "window"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_every_second_of_a_run_lands_in_its_phase(monkeypatch, tmp_path, accumulation, sync):
    now = FakeNow()
    monkeypatch.setattr("mfu_callback.lightning.run.timer_for", lambda device: HostTimer(now))
    callback = MFUCallback(peak=PEAK, sync=sync)
    module = SlowRun(now)

    def slow_save(checkpoint):
        now.seconds += 500.0

    module.on_save_checkpoint = slow_save
    trainer = make_trainer(
        SlowCallback(now),
        callback,
        ModelCheckpoint(tmp_path, every_n_train_steps=2),
        enable_checkpointing=True,
        val_check_interval=2 * accumulation,
        limit_val_batches=2,
        num_sanity_val_steps=1,
        accumulate_grad_batches=accumulation,
    )
    trainer.fit(module)
    # A batch takes 2 s to load, 3 s forward, 5 s backward and 4 s in another callback; a step 1 s to clip.
    seconds = {"data": 2.0, "fb": 8.0, "other": 4.0}
    step = accumulation * sum(seconds.values()) + 1.0
    summary = callback.summary
    assert summary.step_time_sec == pytest.approx(step)
    assert summary.tokens_per_sec == pytest.approx(32 * accumulation / step)
    assert summary.waterfall["data"] == pytest.approx(2.0 * accumulation / step)
    assert summary.waterfall["optimizer"] == pytest.approx(1.0 / step)
    assert summary.waterfall["other"] == pytest.approx(4.0 * accumulation / step)
    assert summary.mfu == pytest.approx(3 * TINY_FLOPS * accumulation / step / PEAK)
    assert {phase: seconds / accumulation for phase, seconds in summary.phases_sec.items()} == pytest.approx(
        {"data": 2.0, "forward": 3.0, "backward": 5.0, "optimizer": 1.0 / accumulation, "other": 4.0}
    )
    assert summary.wall_time_sec == pytest.approx(
        {
            "training": 5 * step,
            "setup": 0.0,
            "sanity": 2.0 + 1000.0,
            "warmup": 2 * step,
            "counting": step,
            "sampling": 0.0,
            "validation": 4 * 2 * (2.0 + 1000.0),
            "checkpoint": 4 * 500.0,
            "lost": 0.0,
            "down": 0.0,
            "rest": 0.0,
        }
    )
    assert summary.goodput == pytest.approx(5 * step / now.seconds)
