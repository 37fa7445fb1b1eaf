import copy
import csv
import logging

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos import Transformer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from runs import TINY, TINY_FLOPS, Images, Manual, make_trainer, tiny_data, train_tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

from gpt import GPTModule, TextFile
from mfu_callback import MFUCallback
from mfu_callback.clock import HostTimer
from mfu_callback.metrics import TAGS

ALL_TAGS = {tag.name for tag in TAGS}
TOKEN_TAGS = {"throughput/tokens_per_sec", "throughput/device/tokens_per_sec"}
PEAK = 1e12
# The first layer's share of a model of two layers: its input takes no gradient.
SMALL_MODEL = "ignore:The backward pass of this model takes"


def fit(module, *callbacks, **arguments):
    """Fit with MFUCallback and return it with the Trainer."""
    callback = MFUCallback(peak=PEAK, warmup_steps=1)
    trainer = make_trainer(callback, *callbacks, **arguments)
    trainer.fit(module)
    return callback, trainer


def test_a_gpts_flops_and_all_tags(capsys):
    callback = MFUCallback(peak=PEAK)
    trainer = make_trainer(callback)
    trainer.fit(GPTModule(TINY), datamodule=tiny_data())
    assert callback.summary.flops.forward == TINY_FLOPS
    assert callback.summary.steps == 5  # 8 less the warm-up of 3
    assert callback.summary.tokens == 5 * 32
    assert set(trainer.callback_metrics) - {"train/loss"} == ALL_TAGS - {"throughput/mfu_achievable", "memory/peak_gib"}
    assert {"throughput/mfu", "throughput/tokens_per_sec"} <= set(trainer.progress_bar_metrics)
    parts = [float(value) for name, value in trainer.callback_metrics.items() if name.startswith("waterfall/")]
    assert sum(parts) == pytest.approx(1.0, abs=1e-6)
    assert "MFU over 5 steps" in capsys.readouterr().out


def test_mfu_is_three_forward_passes_over_time_and_peak():
    callback = MFUCallback(peak=PEAK)
    train_tiny(callback)
    summary = callback.summary
    assert summary.mfu == pytest.approx(3 * TINY_FLOPS / 32 * summary.tokens_per_sec / PEAK)


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
        (BoringModel, 2 * 1 * 32 * 2, TOKEN_TAGS | {"throughput/hfu"}),
        (Images, 2 * 2 * (4 * 36 * 27 + 4 * 36 * 5), TOKEN_TAGS | {"throughput/hfu"}),
        (Manual, 2 * 2 * 4 * 8 * (8 + 4), TOKEN_TAGS | {"throughput/hfu"}),
    ],
)
@pytest.mark.filterwarnings(SMALL_MODEL)
def test_any_lightning_module_without_an_argument_from_the_user(module, flops, absent):
    callback, trainer = fit(module(), limit_val_batches=0)
    assert callback.summary.flops.forward == flops
    assert callback.summary.flops.complete
    expected = ALL_TAGS - {"throughput/mfu_achievable", "memory/peak_gib"} - absent
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


RUNS = {
    "plain": {},
    "accumulation": {"accumulate_grad_batches": 3},
    "clipping": {"gradient_clip_val": 0.01},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "bf16-true": {"precision": "bf16-true"},
    "validation in the middle": {"val_check_interval": 2, "limit_val_batches": 1},
}


@pytest.mark.parametrize("run", RUNS)
def test_the_weights_are_bit_identical_with_and_without_the_callback(run):
    without = train_tiny(**RUNS[run]).state_dict()
    with_it = train_tiny(MFUCallback(peak="measured" if run == "plain" else PEAK), **RUNS[run]).state_dict()
    assert list(with_it) == list(without)
    assert all(torch.equal(with_it[name], without[name]) for name in without)


def test_manual_optimization_ends_in_the_same_weights_too():
    seed_everything(1, verbose=False)
    one = Manual()
    two = copy.deepcopy(one)
    make_trainer().fit(one)
    fit(two)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def marks(trainer, module):
    """Where a bracket or a hook could be left."""
    loop = trainer.fit_loop.epoch_loop
    objects = (trainer, trainer.strategy, loop, loop.val_loop, module)
    return (
        [sorted(name for name, value in vars(thing).items() if callable(value)) for thing in objects],
        [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        [len(optimizer._optimizer_step_post_hooks) for optimizer in trainer.optimizers],
        torch.utils._python_dispatch._get_current_dispatch_mode(),
    )


class Breaks(GPTModule):
    """Fails in a training step."""

    def __init__(self, at, error):
        super().__init__(TINY)
        self.at, self.error = at, error

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if batch_idx == self.at:
            raise self.error
        return loss


@pytest.mark.parametrize("at", [0, 5])
@pytest.mark.parametrize("error", [ArithmeticError("broken"), KeyboardInterrupt()])
def test_nothing_stays_behind_when_the_run_breaks_off(at, error):
    def run(*callbacks):
        trainer, module = make_trainer(*callbacks), Breaks(at, error)
        with pytest.raises((ArithmeticError, SystemExit)) as caught:
            trainer.fit(module, datamodule=tiny_data())
        return type(caught.value), marks(trainer, module)

    callback = MFUCallback(peak=PEAK)
    assert run(callback) == run()
    assert callback.summary.steps == (0 if at == 0 else 2)


def test_nothing_stays_behind_after_a_whole_run():
    def run(*callbacks):
        trainer, module = make_trainer(*callbacks), GPTModule(TINY)
        trainer.fit(module, datamodule=tiny_data())
        return marks(trainer, module)

    assert run(MFUCallback(peak=PEAK)) == run()


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


class FakeNow:
    seconds = 0.0

    def __call__(self):
        return self.seconds


class SlowRun(GPTModule):
    """Every part of a run takes its own time on a fake clock."""

    def __init__(self, now):
        super().__init__(TINY)
        self.now = now

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


@pytest.mark.parametrize("accumulation", [1, 2])
def test_every_second_of_a_run_lands_in_its_phase(monkeypatch, tmp_path, accumulation):
    now = FakeNow()
    monkeypatch.setattr("mfu_callback.callback.timer_for", lambda device: HostTimer(now))
    callback = MFUCallback(peak=PEAK)
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
    assert now.seconds > 1500.0  # validation and checkpoints really took their time


def test_the_peak_is_measured_on_a_cpu_and_the_log_says_so(caplog, monkeypatch):
    with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
        callback = MFUCallback()
        train_tiny(callback)
    assert callback.summary.peak.is_measured
    assert callback.summary.mfu == callback.summary.mfu_achievable
    assert "MFU is measured against" in caplog.text
    assert "model FLOPs in the forward pass of one batch" in caplog.text


def test_a_count_that_fails_is_said_once_and_the_rest_goes_on(monkeypatch):
    monkeypatch.setattr("mfu_callback.flops.counter.thop_macs", lambda *_: 1 / 0)
    callback = MFUCallback(peak=PEAK)
    trainer = make_trainer(callback)
    with pytest.warns(UserWarning, match="FLOPs could not be counted: division by zero.*tokens/sec goes on"):
        trainer.fit(GPTModule(TINY), datamodule=tiny_data())
    assert "throughput/tokens_per_sec" in trainer.callback_metrics
    assert "throughput/mfu" not in trainer.callback_metrics
    assert callback.summary.mfu is None


class Distances(Images):
    def training_step(self, batch, batch_idx):
        images = batch[0].flatten(1)
        return super().training_step(batch, batch_idx) + 0 * torch.cdist(images, images).mean()


def test_a_partial_count_is_never_passed_off_as_whole():
    callback = MFUCallback(peak=PEAK)
    with pytest.warns(UserWarning, match="No FLOP rule covers aten::_cdist_forward, so the count is too low"):
        make_trainer(callback).fit(Distances())
    assert not callback.summary.flops.complete


def test_an_mfu_above_one_is_reported_as_a_wrong_measurement_once():
    callback = MFUCallback(peak=1.0)
    with pytest.warns(UserWarning, match="nothing can exceed its peak: this is a wrong measurement") as caught:
        train_tiny(callback)
    assert len([warning for warning in caught if "wrong measurement" in str(warning.message)]) == 1


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
        ({"flops": 0}, "flops=0 must be above 0"),
        ({"backward_factor": -1}, "backward_factor=-1 must not be negative"),
        ({"peak": "a100"}, "peak='a100' is not known"),
        ({"peak": -1.0}, "peak=-1.0 must be above 0"),
        ({"tokens": 0}, "tokens=0 must be at least 1"),
        ({"warmup_steps": -1}, "warmup_steps=-1 must not be negative"),
    ],
)
def test_a_wrong_argument_raises_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        MFUCallback(**arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator")
def test_a_run_on_a_real_accelerator():
    callback = MFUCallback()
    train_tiny(callback, accelerator="auto", precision="bf16-true")
    assert 0 < callback.summary.mfu < 1
