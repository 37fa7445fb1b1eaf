"""The Trainer of transformers, measured: the figures, where they go, and that nothing of it is changed."""

import json
import math
import re

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
    Texts,
    bert,
    gpt2,
    llama,
    losses_of,
    make_callback,
    make_trainer,
    train,
)

LOGGED = {tag.name for tag in TAGS} - ABSENT_TAGS


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
        def forward(self, *args, **kwargs):
            clock.seconds += 2
            out = super().forward(*args, **kwargs)
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
    # accelerate's loader fetches one batch ahead, so the counted step has five batches and the last one three.
    assert summary.phases_sec["forward"] == 2 * 2
    assert summary.phases_sec["backward"] == 2 * 4
    assert summary.phases_sec["optimizer"] == 1 + 1 / 2
    assert summary.phases_sec["data"] == 2 * 2 / 8
    assert summary.phases_sec["other"] == 8
    wall = summary.wall_time_sec
    assert wall["counting"] + wall["training"] == 4 * (2 * 2 + 2 * 4 + 1.5 + 8) + 17 * 2 / 8
    assert wall["training"] == 3 * (2 * 2 + 2 * 4 + 1.5 + 8 + 2 * 2 / 8)
    assert wall["checkpoint"] == 2 * 1024
    assert wall["sanity"] == 2  # evaluates one batch of eight
    assert wall["validation"] == 2 * 2  # after the third step and at the end
