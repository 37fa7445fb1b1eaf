from dataclasses import dataclass

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.demos import Transformer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

from gpt import GPTModule
from mfu_callback import MFUCallback
from mfu_callback.flops.rules.operators import RULES
from mfu_callback.meter.clock import HostTimer
from mfu_callback.meter.tags import TAGS
from tests.helpers.runs import (
    ABSENT_TAGS,
    PEAK,
    SMALL_MODEL,
    TINY,
    TINY_FLOPS,
    FakeNow,
    Images,
    Manual,
    Step,
    fit,
    make_trainer,
    tiny_data,
    two_layers,
)

ALL_TAGS = {tag.name for tag in TAGS}
TOKEN_TAGS = {"throughput/tokens_per_sec", "throughput/device/tokens_per_sec", "total/tokens"}


class LanguageModel(LightningModule):
    """Someone else's module around a Hugging Face model, with a dictionary for a batch."""

    def __init__(self):
        super().__init__()
        config = GPT2Config(
            vocab_size=64, n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        )
        self.network = GPT2LMHeadModel(config)

    def training_step(self, batch):
        return self.network(**batch, labels=batch["input_ids"]).loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return DataLoader([{"input_ids": torch.arange(8) + index % 50} for index in range(80)], batch_size=4)


class DemoLanguageModel(LightningModule):
    """Lightning's demo Transformer."""

    def __init__(self):
        super().__init__()
        self.model = Transformer(vocab_size=64, nlayers=1, ninp=16, nhead=2, nhid=32)

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        return torch.nn.functional.nll_loss(self.model(inputs, targets), targets.view(-1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        tokens = torch.arange(9) % 64
        return DataLoader([(tokens[:-1], tokens[1:])] * 80, batch_size=4)


@pytest.mark.parametrize(
    ("module", "flops", "absent"),
    [
        (LanguageModel, TINY_FLOPS, set()),
        (BoringModel, 2 * 1 * 32 * 2, TOKEN_TAGS),
        (Images, 2 * 2 * (4 * 36 * 27 + 4 * 36 * 5), TOKEN_TAGS),
        (Manual, 2 * 2 * 4 * 8 * (8 + 4), TOKEN_TAGS),
    ],
)
@pytest.mark.filterwarnings(SMALL_MODEL)
def test_any_lightning_module_without_an_argument_from_the_user(module, flops, absent):
    callback, trainer = fit(module(), limit_val_batches=0)
    assert callback.summary.flops.forward == flops
    assert callback.summary.flops.complete
    expected = ALL_TAGS - ABSENT_TAGS - absent
    assert {name for name in trainer.callback_metrics if "/" in name} == expected


def test_lightnings_demo_transformer():
    module = DemoLanguageModel()
    layers = module.model.transformer
    encoder, decoder = len(layers.encoder.layers), len(layers.decoder.layers)
    callback, _ = fit(module)
    tokens, width, hidden, length = 32, 16, 32, 8
    attention = 2 * tokens * 4 * width**2 + 4 * tokens * length * width
    mlp = 2 * tokens * 2 * width * hidden
    head = 2 * tokens * width * 64
    expected = encoder * (attention + mlp) + decoder * (2 * attention + mlp) + head
    assert callback.summary.flops.forward == expected


@pytest.mark.parametrize("how", ["in place", "whole"])
@pytest.mark.filterwarnings(SMALL_MODEL)
def test_a_compiled_model_counts_like_the_eager_one(how):
    torch._dynamo.reset()
    callback = MFUCallback(peak=PEAK)
    if how == "in place":
        module = GPTModule(TINY)
        module.model.compile(backend="aot_eager")
        make_trainer(callback).fit(module, datamodule=tiny_data())
    else:
        make_trainer(callback).fit(torch.compile(Images(), backend="eager"))
    expected = TINY_FLOPS if how == "in place" else 2 * 2 * (4 * 36 * 27 + 4 * 36 * 5)
    assert callback.summary.flops.forward == expected


def test_a_count_that_cannot_begin_is_said_once_and_the_rest_goes_on(monkeypatch):
    monkeypatch.setattr("mfu_callback.flops.compiled_regions.compiled_calls_watched", lambda *_: 1 / 0)
    callback = MFUCallback(peak=PEAK)
    trainer = make_trainer(callback)
    with pytest.warns(UserWarning, match="FLOPs could not be counted .ZeroDivisionError.*tokens/sec is still logged"):
        trainer.fit(GPTModule(TINY), datamodule=tiny_data())
    assert "throughput/tokens_per_sec" in trainer.callback_metrics
    assert "throughput/mfu" not in trainer.callback_metrics
    assert callback.summary.mfu is None


@pytest.mark.filterwarnings("ignore:The backward pass of this model")
def test_a_rule_of_ours_that_fails_is_said_to_be_our_fault(monkeypatch):
    monkeypatch.setitem(RULES, "aten::addmm", lambda call: 1 / 0)
    callback = MFUCallback(peak=PEAK, flops="dispatch")
    try:
        with pytest.warns(UserWarning, match=r"a bug in mfu-callback.*: aten::addmm\(float32.*report this"):
            make_trainer(callback).fit(Images())
    finally:
        monkeypatch.undo()
    assert callback.summary.flops.rule_errors
    assert callback.summary.as_dict()["flops"]["uncounted"] == ()


class OtherLibrary(nn.Module):
    """Computes in a library that torch does not know."""

    def forward(self, images):
        rows = images.flatten(1).numpy()
        product = torch.empty(2, 2)
        np.matmul(rows, rows.T, out=product.numpy())
        return product.sum()


class Opaque(Images):
    def __init__(self):
        super().__init__()
        self.other = OtherLibrary()

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + 0 * self.other(batch[0])


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_a_partial_count_is_never_passed_off_as_whole(capsys):
    callback = MFUCallback(peak=PEAK, summary="table")
    with pytest.warns(UserWarning, match="No FLOP rule covers .*outside of torch's operators.*so the FLOP count"):
        make_trainer(callback).fit(Opaque())
    assert not callback.summary.flops.complete
    assert "not counted" in capsys.readouterr().out


@dataclass
class Sample:
    features: torch.Tensor
    name: str = "a sample"


class FromDataclass(Step):
    def unwrap(self, batch):
        return batch.features


class FromDict(Step):
    def unwrap(self, batch):
        return batch["inner"][0]


@pytest.mark.parametrize(
    "module",
    [
        lambda: Step(two_layers()),
        lambda: FromDataclass(two_layers(), wrap=Sample),
        lambda: FromDict(two_layers(), wrap=lambda x: {"inner": (x, "a string"), "weight": 1.5}),
    ],
)
@pytest.mark.filterwarnings(SMALL_MODEL)
def test_batches_of_any_kind_have_samples_and_flops(module):
    callback, _ = fit(module())
    assert callback.summary.flops.forward == 2 * 4 * (64 + 32)
    assert callback.summary.samples_per_sec > 0
    assert callback.summary.mfu > 0


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_flops_follow_the_shape_of_every_batch(monkeypatch):
    now = FakeNow()
    monkeypatch.setattr("mfu_callback.lightning.run.timer_for", lambda device: HostTimer(now))

    class Slow(Step):
        def training_step(self, batch, batch_idx):
            now.seconds += 1.0
            return super().training_step(batch, batch_idx)

    # Steps 1 (warm-up too), 2 and 5 are counted: their shapes are new. What is measured is 4 + 2 + 6 + 4 rows.
    rows = (4, 2, 4, 2, 6, 6, 4)
    callback, _ = fit(Slow(two_layers(), sizes=[(n, 8) for n in rows]), max_steps=len(rows))
    assert callback.summary.steps == 4
    assert callback.summary.mfu * PEAK * 4.0 == pytest.approx(3 * 2 * (4 + 2 + 6 + 4) * (64 + 32))


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_the_number_of_counted_shapes_is_bounded():
    callback = MFUCallback(peak=PEAK, warmup_steps=0)
    sizes = [(n, 8) for n in range(1, 41)]
    with pytest.warns(UserWarning, match="Many shapes of batches were counted"):
        make_trainer(callback, max_steps=40).fit(Step(two_layers(), sizes=sizes))
    assert callback.summary.steps == 40 - 32
    rows = sum(range(33, 41))  # a network without attention is linear in them, so scaling is exact
    seconds = callback.summary.steps * rows / callback.summary.samples_per_sec / callback.summary.steps
    assert callback.summary.mfu * PEAK * seconds == pytest.approx(3 * 2 * rows * (64 + 32))


class SometimesNothing(Step):
    def training_step(self, batch, batch_idx):
        return None if batch_idx < 2 else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings(SMALL_MODEL)
@pytest.mark.filterwarnings("ignore:.*training_step.* returned .*None")
def test_a_first_step_that_returns_none_is_counted_again():
    callback, _ = fit(SometimesNothing(two_layers()))
    assert callback.summary.flops.forward == 2 * 4 * (64 + 32)
    assert callback.summary.mfu > 0


class NoMatmulAtFirst(Step):
    """Its first batch is scaled by a weight, and meets no matrix."""

    def training_step(self, batch, batch_idx):
        weight = self.network[0].weight
        return (batch * weight[0]).square().mean() if batch_idx < 1 else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_the_first_count_that_finds_flops_is_reported(caplog):
    with caplog.at_level("INFO"):
        callback, _ = fit(NoMatmulAtFirst(two_layers()))
    assert callback.summary.flops.forward == 2 * 4 * (64 + 32)
    assert "7.6800e+02 model FLOPs in the forward pass of one batch" in caplog.text


def test_a_model_without_any_matmul_has_no_mfu_and_says_so():
    callback = MFUCallback(peak=PEAK)
    with pytest.warns(UserWarning, match="No model FLOPs were seen in three batches"):
        make_trainer(callback).fit(Step(nn.LayerNorm(8)))
    assert callback.summary.mfu is None
    assert callback.summary.steps == 5
