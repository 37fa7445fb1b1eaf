"""The Trainer of transformers, measured: the figures, where they go, and what is said of what is not measured."""

import json
import logging
import math
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import GPT2LMHeadModel, Trainer, TrainerCallback

from mfu_callback import count_flops
from mfu_callback.logs.directory import read_runs
from mfu_callback.meter.clock import HostTimer
from mfu_callback.meter.tags import TAGS
from tests.helpers.event_files import cards, hparams, layouts
from tests.helpers.runs import ABSENT_TAGS, PEAK, FakeNow
from tests.helpers.trainer_runs import (
    LENGTH,
    SAMPLES,
    TOKENS,
    VOCABULARY,
    Texts,
    bert,
    gpt2,
    llama,
    losses_of,
    make_callback,
    make_trainer,
    train,
)

LOGGED = {tag.name for tag in TAGS} - ABSENT_TAGS | {"throughput/loss_tokens_per_sec"}  # its batches have labels


@pytest.mark.parametrize("make", [gpt2, llama, bert])
def test_the_figures_of_a_run_whose_batches_have_padding(make, tmp_path):
    callback, data = make_callback(), Texts(padding=True)
    trainer = train(tmp_path, callback, model=make(), data=data)
    summary = callback.summary
    batch = {name: torch.stack([data[i][name] for i in range(SAMPLES)]) for name in data[0]}
    expected = count_flops(make(), **batch)
    assert (summary.flops.forward, summary.flops.thop) == (expected.forward, expected.thop)
    assert summary.flops.uncounted == ()
    assert (summary.steps, summary.tokens) == (7, 7 * TOKENS)
    seconds = sum(summary.phases_sec.values()) * 7
    assert summary.mfu == pytest.approx(3 * expected.forward * 7 / seconds / PEAK)
    for record in losses_of(trainer)[1:]:  # some of the first window's tokens were counted in the step that counts
        share = record["throughput/real_tokens_per_sec"] / record["throughput/tokens_per_sec"]
        assert math.isclose(share * 2 * TOKENS, round(share * 2 * TOKENS), rel_tol=1e-6)
        assert 2 * SAMPLES * (LENGTH - 3) <= round(share * 2 * TOKENS) < 2 * TOKENS


def test_the_padding_of_every_batch_is_left_out_of_the_real_tokens(tmp_path):
    class AsLong(Texts):
        def __getitem__(self, index):
            return super().__getitem__(3)

    trainer = train(tmp_path, make_callback(), data=AsLong(padding=True))
    for record in losses_of(trainer):
        share = record["throughput/real_tokens_per_sec"] / record["throughput/tokens_per_sec"]
        assert share == pytest.approx((LENGTH - 3) / LENGTH)


def test_micro_batches_are_parts_of_one_step(tmp_path):
    # An epoch has five batches: two steps of two micro-batches and one of a single one.
    callback = make_callback()
    train(tmp_path, callback, data=Texts(10), gradient_accumulation_steps=2, max_steps=-1, num_train_epochs=2)
    summary = callback.summary
    assert (summary.steps, summary.tokens) == (5, 8 * TOKENS)
    seconds = sum(summary.phases_sec.values()) * 5
    assert summary.mfu == pytest.approx(8 * 3 * summary.flops.forward / seconds / PEAK)


def test_the_values_are_in_the_record_of_each_loss(tmp_path):
    trainer = train(tmp_path, make_callback())
    assert [record["step"] for record in losses_of(trainer)] == [2, 4, 6, 8]
    for record in losses_of(trainer):
        assert record.keys() - {"loss", "grad_norm", "learning_rate", "epoch", "step"} == LOGGED
    others = [record for record in trainer.state.log_history if "loss" not in record]
    assert all("throughput/mfu" not in record for record in others)


def test_an_epoch_that_is_logged_as_a_whole_has_values_too(tmp_path):
    arguments = {"logging_strategy": "epoch", "max_steps": -1, "num_train_epochs": 2}
    trainer = train(tmp_path, make_callback(), data=Texts(8), **arguments)
    assert [record.keys() >= LOGGED for record in losses_of(trainer)] == [True, True]


def test_they_reach_tensorboard_at_the_same_step_beside_card_dashboard_and_record(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    callback = make_callback()
    trainer = train(tmp_path / "run", callback, report_to="tensorboard")
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    logged = {record["step"]: record["throughput/mfu"] for record in losses_of(trainer)}
    written = {event.step: event.value for event in events.Scalars("train/throughput/mfu")}
    assert written == pytest.approx(logged)
    assert [event.step for event in events.Scalars("train/loss")] == list(written)
    (run,) = read_runs(tmp_path / "events")
    assert set(run.scalars) == LOGGED
    assert run.record["mfu"] == pytest.approx(callback.summary.mfu)
    assert len(cards(tmp_path / "events")) == 2
    (layout,) = layouts(tmp_path / "events")
    charts = [pattern for category in layout.category for chart in category.chart for pattern in chart.multiline.tag]
    assert all(any(re.match(pattern, f"train/{tag}") for pattern in charts) for tag in LOGGED)
    values, _, metrics = hparams(tmp_path / "events")
    assert (values["run/model"], values["run/batch_size"]) == ("GPT2LMHeadModel", SAMPLES)
    assert metrics == ["train/throughput/mfu", "train/throughput/tokens_per_sec"]
    for directory in (tmp_path / "run", tmp_path / "events"):
        assert json.loads((directory / "mfu_summary.json").read_text())["steps"] == 7


def test_without_a_board_tensorboard_gets_the_values_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    train(tmp_path / "run", make_callback(board=False), report_to="tensorboard")
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    assert len(events.Scalars("train/throughput/mfu")) == 4
    assert set(events.Tags()["tensors"]) == {"args/text_summary", "model_config/text_summary"}
    assert (tmp_path / "run" / "mfu_summary.json").is_file()


def test_the_summary_is_printed_once_at_the_end(tmp_path, capsys):
    train(tmp_path, make_callback(summary="line"))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("MFU ")
    assert "7 steps" in last


class Moving(torch.autograd.Function):
    """Moves a clock in the backward pass."""

    @staticmethod
    def forward(ctx, x, clock):
        ctx.clock = clock
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        ctx.clock.seconds += 4
        return gradient, None


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    clock = FakeNow()
    monkeypatch.setattr("mfu_callback.loops.trainer_run.timer_for", lambda device: HostTimer(clock))
    return clock


def test_every_second_is_booked_on_what_took_it(clock, tmp_path):
    """A sample takes 1/8 s to load, a forward pass 2 s, a backward pass 4, clipping 1/2, the optimizer 1, a hook 8."""

    class Slow(Texts):
        def __getitem__(self, index):
            clock.seconds += 1 / 8
            return super().__getitem__(index)

    class SlowModel(GPT2LMHeadModel):
        def forward(self, input_ids, labels):
            clock.seconds += 2
            out = super().forward(input_ids, labels=labels)
            out.loss = Moving.apply(out.loss, clock)
            return out

        def save_pretrained(self, *args, **kwargs):
            clock.seconds += 1024

    class SlowTrainer(Trainer):
        def _clip_grad_norm(self, model):
            total = super()._clip_grad_norm(model)
            clock.seconds += 1 / 2
            return total

    class SlowCallback(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            clock.seconds += 8

    callback = make_callback(warmup_steps=0)
    trainer = make_trainer(
        *(tmp_path, SlowCallback(), callback),
        model=SlowModel(gpt2().config),
        data=Slow(),
        kind=SlowTrainer,
        gradient_accumulation_steps=2,
        max_steps=4,
        **{"save_strategy": "steps", "save_steps": 2, "save_only_model": True},
        **{"eval_strategy": "steps", "eval_steps": 3, "eval_on_start": True},
    )
    optimizer = trainer.create_optimizer()
    optimizer.register_step_pre_hook(lambda *_: setattr(clock, "seconds", clock.seconds + 1))
    trainer.train()
    summary = callback.summary
    assert summary.phases_sec["forward"] == 2 * 2
    assert summary.phases_sec["backward"] == 2 * 4
    assert summary.phases_sec["optimizer"] == 1 + 1 / 2
    assert summary.phases_sec["data"] == 2 * 2 / 8
    assert summary.phases_sec["other"] == 8
    wall = summary.wall_time_sec
    assert wall["counting"] == 2 * 2 + 2 * 4 + 1.5 + 8 + 3 * 2 / 8  # accelerate's loader fetches one batch ahead
    assert wall["training"] == 3 * (2 * 2 + 2 * 4 + 1.5 + 8 + 2 * 2 / 8)
    assert wall["checkpoint"] == 2 * 1024
    assert wall["sanity"] == 2  # evaluates one batch of eight
    assert wall["validation"] == 2 * 2  # after the third step and at the end


def test_a_second_training_of_a_trainer_has_figures_of_its_own(tmp_path):
    callback = make_callback()
    trainer = train(tmp_path, callback)
    first = callback.summary
    trainer.args.max_steps = 5
    trainer.train()
    assert (first.steps, callback.summary.steps) == (7, 4)
    assert callback.summary.flops.forward == first.flops.forward


def test_a_trainer_that_is_out_of_memory_is_measured_at_its_next_batch_size(tmp_path):
    callback = make_callback()
    trainer = make_trainer(tmp_path, callback, auto_find_batch_size=True, per_device_train_batch_size=4)

    def allocate(module, args, kwargs):
        if kwargs["input_ids"].shape[0] == 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate")

    trainer.model.register_forward_pre_hook(allocate, with_kwargs=True)
    trainer.train()
    assert (callback.summary.steps, callback.summary.circumstances.batch_size) == (7, 3)


class OwnTrainer(Trainer):
    """A Trainer whose methods are the user's."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = model(**self._prepare_inputs(inputs)).loss
        loss.backward()
        return loss.detach()

    def log(self, logs, start_time=None):
        super().log({"own": 1.0, **logs}, start_time)


def test_methods_of_the_users_own_trainer_are_measured_as_they_are(tmp_path):
    callback = make_callback()
    trainer = train(tmp_path, callback, kind=OwnTrainer)
    assert callback.summary.steps == 7
    assert all(record.keys() >= LOGGED | {"own"} for record in losses_of(trainer))
    assert "training_step" not in vars(trainer)


class InAnotherThread(TrainerCallback):
    """Hands events to another callback, the first one from another thread."""

    def __init__(self, callback):
        self.callback = callback

    def on_train_begin(self, *args, **kwargs):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self.callback.on_train_begin, *args, **kwargs).result()

    def __getattribute__(self, name):
        own = name in ("callback", "on_train_begin") or not name.startswith("on_")
        return object.__getattribute__(self, name) if own else getattr(self.callback, name)


def test_a_trainer_that_cannot_be_found_trains_on_and_says_what_to_do(tmp_path):
    callback = make_callback()
    with pytest.warns(UserWarning, match=r"was not found.*trainer.add_callback\(MFUTrainerCallback\(trainer=trainer\)"):
        trainer = train(tmp_path, InAnotherThread(callback))
    assert (callback.summary, trainer.state.global_step) == (None, 8)


def test_a_trainer_that_is_handed_over_need_not_be_found(tmp_path):
    trainer = make_trainer(tmp_path)
    callback = make_callback(trainer=trainer)
    trainer.add_callback(InAnotherThread(callback))
    trainer.train()
    assert callback.summary.steps == 7


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("_run_epoch", None, "has no _run_epoch, .*Use transformers 5.3 or later"),
        ("n_gpu", 2, "trains on 2 GPUs in threads .*torchrun --nproc-per-node=2"),
    ],
)
def test_what_cannot_be_measured_is_said(name, value, said, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    if value is None:
        monkeypatch.delattr(Trainer, name)
    else:
        monkeypatch.setattr(type(trainer.args), name, value)
    callback = make_callback(trainer=trainer)
    with pytest.warns(UserWarning, match=said):
        callback.on_train_begin(trainer.args, trainer.state, trainer.control)
    callback.on_train_end(trainer.args, trainer.state, trainer.control)
    assert callback.summary is None


def test_a_copy_has_the_arguments_and_no_run(tmp_path):
    callback = make_callback(warmup_steps=4)
    copied = []

    class Copying(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                copied.append(pickle.loads(pickle.dumps(callback)))

    train(tmp_path, Copying(), callback)
    train(tmp_path, *copied)
    assert (callback.summary.steps, copied[0].summary.steps) == (4, 4)


def test_wrong_arguments_raise_at_once():
    with pytest.raises(ValueError, match="attention='none' is not known"):
        make_callback(attention="none")
    with pytest.raises(TypeError):
        make_callback(atention="full")
    with pytest.raises(TypeError, match=r"trainer='x' must be a transformers\.Trainer; or None"):
        make_callback(trainer="x")


def test_the_room_is_imported_without_transformers():
    code = "import sys, mfu_callback.loops, mfu_callback.loops.meter; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_checkpointing_counts_what_runs_again(tmp_path):
    callback = make_callback()
    train(tmp_path, callback, activation_checkpointing=True)
    blocks = callback.summary.flops.forward - 2 * TOKENS * 16 * VOCABULARY
    assert callback.summary.flops.recomputed == blocks
    assert callback.summary.hfu > callback.summary.mfu


def test_bf16_is_counted_and_measured_in_bfloat16(tmp_path):
    callback = make_callback()
    train(tmp_path, callback, bf16=True)
    flops = callback.summary.flops.per_dtype
    assert max(flops, key=flops.get) == "bfloat16"
    assert callback.summary.peak.dtype is torch.bfloat16
    assert json.loads((tmp_path / "mfu_summary.json").read_text())["run"]["precision"] == "bf16-mixed"


def test_its_values_are_served_to_prometheus(tmp_path, caplog):
    caplog.set_level(logging.INFO, "mfu_callback")
    pages = []

    class Scrape(TrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            if not pages:
                address = caplog.text.split("served to Prometheus at ")[1].split("metrics.")[0] + "metrics"
                pages.append(urlopen(address, timeout=10).read().decode())

    train(tmp_path, make_callback(prometheus_port=0), Scrape())
    assert "mfu_last_step_timestamp_seconds" in pages[0]
    assert "mfu_throughput_mfu_ratio" in pages[0]
