"""Kinds of training steps: several networks, frozen parts, checkpointing, conventions."""

import time

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from gpt import GPT, GPTConfig, GPTModule
from gpt.model import next_token_loss
from mfu_callback import MFUCallback
from tests.helpers.runs import PEAK, SMALL_MODEL, TINY, TINY_FLOPS, make_trainer, tiny_data

PRODUCT = 2 * 4 * 8 * 8  # of a Linear of 8 x 8 with four samples


class Step(LightningModule):
    """Four samples of eight features, and layers of eight by eight."""

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=1e-3)

    def train_dataloader(self):
        return DataLoader(torch.linspace(-1.0, 1.0, 320).reshape(40, 8), batch_size=4)


def layers(number):
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(number)))


def fit(module, *callbacks, trainer=None, **arguments):
    callback = MFUCallback(peak=PEAK, warmup_steps=1, **arguments)
    make_trainer(callback, *callbacks, **(trainer or {})).fit(module)
    return callback.summary


class Adversarial(Step):
    """A generator and a discriminator, each with its optimizer."""

    automatic_optimization = False

    def __init__(self):
        super().__init__()
        self.generator, self.discriminator = layers(2), layers(1)

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        fake = self.generator(batch)
        first.zero_grad()
        self.manual_backward(self.discriminator(fake).mean())
        first.step()
        second.zero_grad()
        self.manual_backward(self.discriminator(fake.detach()).mean() - self.discriminator(batch).mean())
        second.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=1e-3) for part in (self.generator, self.discriminator)]


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_both_networks_of_a_gan_are_counted_as_often_as_they_run():
    summary = fit(Adversarial())
    assert summary.flops.forward == (2 + 1 + 1 + 1) * PRODUCT
    # The generator's first layer has no gradient of its input; the discriminator's has one where the generator learns.
    assert summary.flops.backward == (3 + 2 + 1 + 1) * PRODUCT


class Distillation(Step):
    """A frozen teacher of three layers, in a place of its own, and a student of two."""

    def __init__(self):
        super().__init__()
        self.student, self.hidden = layers(2), [layers(3).requires_grad_(False)]

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            goal = self.hidden[0](batch)
        return (self.student(batch) - goal).square().mean()


def test_a_frozen_teacher_is_counted_and_the_factor_of_two_is_called_wrong():
    with pytest.warns(UserWarning, match=r"takes 0.6 times the FLOPs of its forward .*are 88% too high.*'measured'"):
        summary = fit(Distillation())
    assert summary.flops.forward == 5 * PRODUCT
    assert summary.flops.backward == 3 * PRODUCT


def test_the_measured_backward_is_taken_without_a_warning():
    summary = fit(Distillation(), backward_factor="measured")
    per_sample = (5 + 3) * PRODUCT / 4
    assert summary.mfu * PEAK == pytest.approx(per_sample * summary.samples_per_sec)
    assert summary.conventions == "attention full, backward measured"


class Thaws(Callback):
    """Trains the last layer alone in the first epoch and everything from the second on."""

    def on_train_epoch_start(self, trainer, pl_module):
        pl_module.student[0].requires_grad_(trainer.current_epoch > 0)


def test_flops_follow_what_is_thawed_between_epochs():
    class Plain(Step):
        def __init__(self):
            super().__init__()
            self.student = layers(2)

        def training_step(self, batch, batch_idx):
            return self.student(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    module = Plain()
    callback = MFUCallback(peak=PEAK, warmup_steps=0, backward_factor="measured")
    arguments = {"max_epochs": 2, "max_steps": -1, "limit_train_batches": 4}
    make_trainer(Thaws(), callback, **arguments).fit(module)
    summary = callback.summary
    assert summary.steps == 6  # the first step of each epoch was counted
    trained = 3 * (2 + 1) * PRODUCT + 3 * (2 + 3) * PRODUCT
    assert summary.mfu * PEAK / summary.samples_per_sec == pytest.approx(trained / (6 * 4))


class Checkpointed(GPTModule):
    """The tiny GPT with every block checkpointed."""

    def __init__(self, use_reentrant):
        super().__init__(TINY)
        self.use_reentrant = use_reentrant

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        x = self.model.token_embedding(inputs) + self.model.position_embedding(torch.arange(inputs.shape[1]))
        for block in self.model.blocks:
            x = checkpoint(block, x, use_reentrant=self.use_reentrant)
        return next_token_loss(self.model.head(self.model.norm(x)), targets)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_counts_as_the_plain_model_does_and_shows_as_hfu(use_reentrant):
    def run(module):
        callback = MFUCallback(peak=PEAK, warmup_steps=1)
        make_trainer(callback).fit(module, datamodule=tiny_data())
        return callback.summary

    plain, summary = run(GPTModule(TINY)), run(Checkpointed(use_reentrant))
    assert summary.flops.forward == plain.flops.forward == TINY_FLOPS
    assert summary.flops.backward == plain.flops.backward
    blocks = TINY_FLOPS - 4 * 2 * 8 * 16 * 64
    assert summary.flops.recomputed == blocks
    assert summary.hfu > summary.mfu
    assert plain.hfu is None


@pytest.mark.parametrize(("attention", "share"), [("full", 1.0), ("causal", 0.5)])
def test_the_convention_for_attention(attention, share):
    config = GPTConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=64, context_length=8, dropout=0.0)
    callback = MFUCallback(peak=PEAK, attention=attention)
    make_trainer(callback).fit(GPTModule(config), datamodule=tiny_data())
    square = 4 * 2 * 4 * 8**2 * 16
    assert callback.summary.flops.forward == TINY_FLOPS - square + share * square
    assert callback.summary.conventions == f"attention {attention}, backward 2 x"


def test_thop_modules_as_the_counter_says_what_it_leaves_out():
    callback = MFUCallback(peak=PEAK, flops="thop-modules")
    with pytest.warns(UserWarning, match=r"No FLOP rule covers aten::.*, so the FLOP count and MFU are too low"):
        make_trainer(callback).fit(GPTModule(TINY), datamodule=tiny_data())
    norms = 4 * 8 * 16 * 5
    with torch.device("meta"):
        linear = sum(m.in_features * m.out_features for m in GPT(TINY).modules() if isinstance(m, nn.Linear))
    assert callback.summary.flops.forward == callback.summary.flops.thop
    assert 0 <= callback.summary.flops.thop - 2 * 4 * 8 * linear <= 2 * 4 * norms


class OneLayer(Step):
    """One layer, and a training step that takes 10 ms at least."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def training_step(self, batch, batch_idx):
        time.sleep(0.01)
        return self.layer(batch).square().mean()


NOTE = (
    "MFUCallback: The backward pass of this model takes as many FLOPs as its forward pass, where 2.0 times as many are"
    " assumed: a layer whose input needs no gradient is a large part of it. So model FLOPs and MFU are 50% too high."
    " Pass backward_factor='measured' to use the backward FLOPs that really run."
)
SMALL = 3e5  # FLOP/s, of which the layer uses half


@pytest.mark.parametrize(
    ("arguments", "every", "said"),
    [
        ({"peak": SMALL}, 1, [NOTE]),
        ({"peak": SMALL}, 100, [NOTE]),  # at the end, where nothing was logged before
        ({"peak": SMALL, "backward_factor": "measured"}, 1, []),
        ({"peak": PEAK}, 1, []),  # an MFU of a ten-millionth
    ],
)
def test_one_layer_is_told_of_its_backward_pass_once_and_only_where_mfu_is_read(arguments, every, said, caplog):
    callback = MFUCallback(warmup_steps=1, summary=None, **arguments)
    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        make_trainer(callback, log_every_n_steps=every).fit(OneLayer())
    assert callback.summary.flops.backward == callback.summary.flops.forward == PRODUCT
    assert [one.message for one in caplog.records if "The backward pass" in one.message] == said
