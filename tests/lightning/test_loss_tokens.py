"""The tokens that the loss is taken over, in real runs."""

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader

from mfu_callback import MFUCallback
from tests.helpers.event_files import scalars
from tests.helpers.runs import PEAK, SMALL_MODEL, make_trainer

pytestmark = pytest.mark.filterwarnings(SMALL_MODEL)
IGNORED = (0, 3, 5, 1, 7, 2, 4, 6)  # labels of each sample of a step, of eight


def loader(steps=8):
    """Batches of 4 x 8 tokens, in which every sample of a step has as many labels that are -100."""
    ids = torch.zeros(8, dtype=torch.long)
    labels = [torch.cat([torch.full((ignored,), -100), ids[ignored:]]) for ignored in IGNORED[:steps]]
    return DataLoader([{"input_ids": ids, "labels": of_step} for of_step in labels for _ in range(4)], batch_size=4)


class Words(LightningModule):
    """Predicts a word from a word; labels of -100 are not in its loss."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(4, 8), nn.Linear(8, 8), nn.Linear(8, 4))

    def training_step(self, batch, batch_idx):
        ids, labels = batch["input_ids"], batch["labels"]
        return nn.functional.cross_entropy(self.net(ids).flatten(0, 1), labels.flatten())

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def share(steps):
    """The share of the tokens of some steps that is in the loss."""
    return 1 - sum(IGNORED[step] for step in steps) / (8 * len(steps))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_rate_and_the_total_have_the_labels_that_are_not_ignored(tmp_path, accumulation):
    callback, logger = MFUCallback(peak=PEAK, warmup_steps=1, summary=None), TensorBoardLogger(tmp_path)
    saves = ModelCheckpoint(tmp_path / "checkpoints", every_n_train_steps=3, save_top_k=-1)
    steps = 8 // accumulation
    trainer = make_trainer(
        *(callback, saves),
        logger=logger,
        log_every_n_steps=2,
        max_steps=steps,
        accumulate_grad_batches=accumulation,
        enable_checkpointing=True,
    )
    trainer.fit(Words(), loader())
    rates = {}
    for tag, step, value in scalars(logger.log_dir):
        if tag in ("throughput/loss_tokens_per_sec", "throughput/tokens_per_sec"):
            rates.setdefault(step, {})[tag.split("/")[1]] = value
    windows = {
        step: share(range(max(accumulation, (step - 1) * accumulation), (step + 1) * accumulation)) for step in rates
    }
    assert list(windows) == list(range(1, steps, 2))
    for step, rate in rates.items():  # the first step is counted
        assert rate["loss_tokens_per_sec"] / rate["tokens_per_sec"] == pytest.approx(windows[step], rel=1e-5)
    summary = callback.summary
    measured = range(accumulation, 8)
    assert summary.loss_tokens_per_sec / summary.tokens_per_sec == pytest.approx(share(measured))
    assert (summary.job.tokens, summary.job.loss_tokens) == (8 * 32, 4 * (64 - sum(IGNORED)))
    state = torch.load(tmp_path / "checkpoints" / "epoch=0-step=3.ckpt", weights_only=True)["callbacks"]["MFUCallback"]
    assert state["loss_tokens"] == 4 * sum(8 - ignored for ignored in IGNORED[: 3 * accumulation])


def test_an_evaluation_has_them_too():
    callback = MFUCallback(peak=PEAK, warmup_steps=1, summary=None)
    trainer = make_trainer(callback)
    trainer.validate(Words(), loader(), verbose=False)
    figures = callback.evaluations["validate"]
    assert figures.loss_tokens_per_sec / figures.tokens_per_sec == pytest.approx(share(range(1, 8)))


def test_targets_of_another_shape_are_no_labels_and_nothing_is_said_of_them():
    ids = torch.zeros(8, dtype=torch.long)
    batches = DataLoader([{"input_ids": ids, "labels": ids[None]}] * 32, batch_size=4)
    callback = MFUCallback(peak=PEAK, warmup_steps=1, summary=None)
    trainer = make_trainer(callback)
    trainer.fit(Words(), batches)
    assert "throughput/tokens_per_sec" in trainer.callback_metrics
    assert "throughput/loss_tokens_per_sec" not in trainer.callback_metrics
    assert (callback.summary.loss_tokens_per_sec, callback.summary.job.loss_tokens) == (None, None)
