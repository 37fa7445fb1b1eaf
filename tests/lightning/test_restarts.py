"""Fits that go on from a checkpoint, in one process and in several."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from gpt import GPTModule
from mfu_callback import MFUCallback
from tests.helpers import restart_run
from tests.helpers.event_files import scalars
from tests.helpers.restart_run import ENDS_IN, EVERY, LAST, LOG_EVERY
from tests.helpers.runs import PEAK, TINY, TINY_FLOPS, make_trainer, tiny_data

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]
TOKENS, FLOPS = 32, 3 * TINY_FLOPS  # of a step
TOTALS = ("total/tokens", "total/samples", "total/flops", "total/device_hours")


def make_callback():
    return MFUCallback(peak=PEAK, warmup_steps=2, summary=None)


def train(directory, callback, *others, checkpoint=None, every=3, **arguments):
    """Eight steps, logged at every second, with a checkpoint after every third; then up to max_steps."""
    saves = ModelCheckpoint(directory / "checkpoints", every_n_train_steps=every, save_top_k=-1)
    defaults = {"enable_checkpointing": True, "log_every_n_steps": 2}
    callbacks = [one for one in (callback, *others, saves) if one is not None]
    trainer = make_trainer(*callbacks, root=directory, **defaults | arguments)
    trainer.fit(GPTModule(TINY), datamodule=tiny_data(), ckpt_path=checkpoint)
    return trainer


def checkpoint_at(directory, step):
    return directory / "checkpoints" / f"epoch=0-step={step}.ckpt"


def state_in(checkpoint):
    return torch.load(checkpoint, weights_only=True)["callbacks"]["MFUCallback"]


def change_state(checkpoint, state):
    whole = torch.load(checkpoint, weights_only=False)
    whole["callbacks"]["MFUCallback"] = state
    torch.save(whole, checkpoint)


def sum_of(job):
    return job.began_at + sum(job.wall_time_sec.values())


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A fit of eight steps: its directory, its callback."""
    directory = tmp_path_factory.mktemp("first")
    callback = make_callback()
    train(directory, callback, logger=TensorBoardLogger(directory))
    return directory, callback


def test_a_checkpoint_has_all_steps_before_it_with_those_that_were_not_yet_logged(first):
    directory, callback = first
    for step in (3, 6):
        state = state_in(checkpoint_at(directory, step))
        done = {name: state[name] for name in ("version", "restarts", "steps", "samples", "tokens", "flops")}
        assert done == {
            "version": 1,
            "restarts": 0,
            "steps": step,
            "samples": 4 * step,
            "tokens": TOKENS * step,
            "flops": FLOPS * step,
        }
        assert state["began_at"] == callback.summary.job.began_at
        assert state["began_at"] + sum(state["wall_time_sec"].values()) == pytest.approx(state["at"], abs=1.0)
        assert state["device_hours"] * 3600 == pytest.approx(sum(state["wall_time_sec"].values()), abs=1.0)
    assert state["wall_time_sec"]["warmup"] + state["wall_time_sec"]["counting"] > 0
    assert state["wall_time_sec"]["training"] > 0


def test_the_totals_are_logged_beside_the_others_and_have_every_step(first):
    directory, callback = first
    logged = scalars(directory / "lightning_logs" / "version_0")
    steps = [step for tag, step, _ in logged if tag == "throughput/tokens_per_sec"]
    assert steps == [3, 5, 7]  # the first two are warm-up
    values = {name: [(step, value) for tag, step, value in logged if tag == name] for name in TOTALS}
    assert values["total/tokens"] == [(step, TOKENS * (step + 1)) for step in steps]
    assert values["total/samples"] == [(step, 4 * (step + 1)) for step in steps]
    assert values["total/flops"] == [(step, FLOPS * (step + 1)) for step in steps]
    hours = [value for _, value in values["total/device_hours"]]
    assert 0 < hours[0] < hours[1] < hours[2] < callback.summary.job.device_hours
    job = callback.summary.job
    assert (job.steps, job.samples, job.tokens, job.flops, job.restarts) == (8, 32, 8 * TOKENS, 8 * FLOPS, 0)
    assert sum_of(job) == pytest.approx(job.at, abs=1.0)


@pytest.mark.parametrize("step", [3, 6])
def test_the_totals_go_on_from_the_checkpoint(first, tmp_path, step):
    directory, _ = first
    callback, logger = make_callback(), TensorBoardLogger(tmp_path)
    train(tmp_path, callback, checkpoint=checkpoint_at(directory, step), max_steps=14, logger=logger)
    tokens = [(at, value) for tag, at, value in scalars(Path(logger.log_dir)) if tag == "total/tokens"]
    assert tokens[-1] == (13, TOKENS * 14)
    assert len(tokens) >= 3
    assert all(value == TOKENS * (at + 1) for at, value in tokens)
    state, job = state_in(checkpoint_at(directory, step)), callback.summary.job
    assert (job.steps, job.samples, job.tokens, job.flops) == (14, 56, 14 * TOKENS, 14 * FLOPS)
    assert (job.restarts, job.began_at) == (1, state["began_at"])
    assert callback.summary.steps == 14 - step - 2  # its own figures are those of its own measured steps
    assert all(job.wall_time_sec[part] >= seconds for part, seconds in state["wall_time_sec"].items() if part != "rest")
    assert sum_of(job) == pytest.approx(job.at, abs=1.0)
    assert callback.summary.goodput == job.wall_time_sec["training"] / sum(job.wall_time_sec.values())
    assert callback.summary.wall_time_sec == job.wall_time_sec


def test_the_next_checkpoint_has_the_whole_job(first, tmp_path):
    directory, _ = first
    train(tmp_path, make_callback(), checkpoint=checkpoint_at(directory, 6), max_steps=9)
    state = state_in(checkpoint_at(tmp_path, 9))
    assert (state["steps"], state["tokens"], state["restarts"]) == (9, 9 * TOKENS, 1)
    third = make_callback()
    train(tmp_path, third, checkpoint=checkpoint_at(tmp_path, 9), max_steps=12)
    assert (third.summary.job.tokens, third.summary.job.restarts) == (12 * TOKENS, 2)


def test_in_one_process_what_is_lost_is_known_exactly(tmp_path):
    callback = make_callback()
    train(tmp_path, callback, logger=TensorBoardLogger(tmp_path))
    before, state = callback.summary.job, state_in(checkpoint_at(tmp_path, 6))
    train(tmp_path, callback, checkpoint=checkpoint_at(tmp_path, 6), max_steps=12, logger=TensorBoardLogger(tmp_path))
    wall = callback.summary.job.wall_time_sec
    assert wall["lost"] == before.at - state["at"]
    assert wall["lost"] > 0
    assert wall["down"] > 0


def test_where_no_step_came_after_the_checkpoint_nothing_is_lost(tmp_path):
    callback = make_callback()
    trainer = train(tmp_path, callback)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    state = state_in(tmp_path / "end.ckpt")
    assert (state["steps"], state["tokens"], state["at"]) == (8, 8 * TOKENS, callback.summary.job.at)
    train(tmp_path, callback, checkpoint=tmp_path / "end.ckpt", max_steps=12)
    job = callback.summary.job
    assert (job.steps, job.wall_time_sec["lost"]) == (12, 0.0)
    assert job.wall_time_sec["down"] > 0


def test_the_summary_in_the_logs_says_to_another_callback_when_the_fit_ended(first, tmp_path):
    directory, before = first
    for step, lost in ((6, before.summary.job.at - state_in(checkpoint_at(directory, 6))["at"]), (8, 0.0)):
        if step == 8:  # as a checkpoint at the last step would be
            checkpoint = tmp_path / "last.ckpt"
            torch.save(torch.load(checkpoint_at(directory, 6), weights_only=False), checkpoint)
            change_state(checkpoint, state_in(checkpoint_at(directory, 6)) | {"steps": 8})
        callback = make_callback()
        train(tmp_path, callback, checkpoint=checkpoint if step == 8 else checkpoint_at(directory, 6), max_steps=10)
        assert callback.summary.job.wall_time_sec["lost"] == lost


def test_two_fits_without_a_checkpoint_are_two_jobs(tmp_path):
    callback = make_callback()
    train(tmp_path, callback)
    before = callback.summary.job
    train(tmp_path, callback)
    job = callback.summary.job
    assert (job.steps, job.tokens, job.restarts) == (8, 8 * TOKENS, 0)
    assert (job.wall_time_sec["lost"], job.wall_time_sec["down"]) == (0, 0)
    assert job.began_at > before.at


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_checkpoint_that_is_validated_is_not_what_the_next_fit_goes_on_from(first, tmp_path):
    directory, _ = first
    callback = make_callback()
    trainer = make_trainer(callback, root=tmp_path, limit_val_batches=1)
    module = GPTModule(TINY)
    loader = tiny_data()
    trainer.validate(module, loader.train_dataloader(), ckpt_path=checkpoint_at(directory, 6), verbose=False)
    trainer.fit(module, datamodule=tiny_data())
    assert (callback.summary.job.steps, callback.summary.job.restarts) == (8, 0)


def test_a_checkpoint_loads_without_the_callback(first, tmp_path):
    directory, _ = first
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint need to be provided"):
        trainer = train(tmp_path, None, checkpoint=checkpoint_at(directory, 6), max_steps=10)
    assert trainer.global_step == 10


def test_a_checkpoint_that_was_written_without_the_callback_begins_a_job(tmp_path):
    train(tmp_path, None)
    assert "MFUCallback" not in torch.load(checkpoint_at(tmp_path, 6), weights_only=False)["callbacks"]
    callback = make_callback()
    trainer = train(tmp_path, callback, checkpoint=checkpoint_at(tmp_path, 6), max_steps=10)
    assert (trainer.global_step, callback.summary.job.steps, callback.summary.job.restarts) == (10, 4, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 7}, "has version 7, of which this mfu-callback knows nothing; it reads 1"),
        ({"tokens": "many"}, "is damaged: tokens='many'"),
        ({"directory": 3}, None),  # nothing is found there
    ],
)
def test_a_state_that_cannot_be_read_is_ignored_with_one_warning(first, tmp_path, change, message, recwarn):
    checkpoint = tmp_path / "changed.ckpt"
    torch.save(torch.load(checkpoint_at(first[0], 6), weights_only=False), checkpoint)
    change_state(checkpoint, state_in(checkpoint) | change)
    callback = make_callback()
    trainer = train(tmp_path, callback, checkpoint=checkpoint, max_steps=10)
    ours = [str(one.message) for one in recwarn if "The state of MFUCallback" in str(one.message)]
    assert trainer.global_step == 10
    if message is None:
        assert (ours, callback.summary.job.steps, callback.summary.job.wall_time_sec["lost"]) == ([], 10, 0.0)
        return
    assert len(ours) == 1
    assert message in ours[0]
    assert "Resume from another checkpoint" in ours[0]
    assert (callback.summary.job.steps, callback.summary.job.restarts) == (4, 0)


class Saves(Callback):
    """Saves a checkpoint where the measuring has broken."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 4:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "broken.ckpt")


def test_a_device_that_does_not_answer_costs_the_state_and_not_the_checkpoint(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr("mfu_callback.meter.meter.RunMeter.done_so_far", fail)
    with pytest.warns(UserWarning, match=r"not in the checkpoint \(RuntimeError: the device is gone\)"):
        trainer = train(tmp_path, make_callback(), Saves(), every=100)
    assert "MFUCallback" not in torch.load(tmp_path / "broken.ckpt", weights_only=False)["callbacks"]
    assert trainer.global_step == 8


def in_process(directory, how, checkpoint=None, *, signal_number=None, fails=False):
    """What each rank of a run in a process of its own ends with."""
    command = [sys.executable, "-W", "ignore", restart_run.__file__, str(directory), how]
    done = subprocess.run(
        [*command, *([] if checkpoint is None else [str(checkpoint)])], capture_output=True, text=True
    )
    if signal_number is not None:
        assert done.returncode == -signal_number
    else:
        assert (done.returncode != 0) is fails, done.stderr
    return [torch.load(path) for path in sorted(directory.glob(f"{how}-[0-9].pt"))]


def test_after_a_process_was_killed_what_its_logs_show_is_lost_and_the_rest_down(tmp_path):
    in_process(tmp_path, "one-killed", signal_number=signal.SIGKILL)
    checkpoint = tmp_path / "one" / f"epoch=0-step={EVERY}.ckpt"
    state = state_in(checkpoint)
    assert Path(state["directory"]) == tmp_path / "logs" / "one"
    assert (state["steps"], state["tokens"]) == (EVERY, EVERY * TOKENS)
    written = max(file.stat().st_mtime for file in Path(state["directory"]).iterdir())
    assert written > state["at"]
    # The second fit writes to the same directory.
    (end,) = in_process(tmp_path, "one", checkpoint)
    job = end["job"]
    assert (job["steps"], job["tokens"], job["flops"]) == (2 * LAST, 2 * LAST * TOKENS, 2 * LAST * FLOPS)
    assert job["wall_time_sec"]["lost"] == written - state["at"]
    assert job["wall_time_sec"]["down"] > 0
    assert job["began_at"] + sum(job["wall_time_sec"].values()) == pytest.approx(job["at"], abs=1.0)
    assert end["goodput"] == job["wall_time_sec"]["training"] / sum(job["wall_time_sec"].values())
    tokens = [(step, value) for tag, step, value in scalars(tmp_path / "logs" / "one") if tag == "total/tokens"]
    assert {step for step, _ in tokens} >= {LOG_EVERY - 1, ENDS_IN - 3, 2 * LAST - 1}
    assert all(value == TOKENS * (step + 1) for step, value in tokens)


def test_after_a_process_ended_by_an_exception_what_its_summary_says_is_lost(tmp_path):
    in_process(tmp_path, "one-raising", fails=True)
    checkpoint = tmp_path / "one" / f"epoch=0-step={EVERY}.ckpt"
    state = state_in(checkpoint)
    summary = json.loads((tmp_path / "logs" / "one" / "mfu_summary.json").read_text())
    assert (summary["job"]["steps"], summary["job"]["began_at"]) == (ENDS_IN, state["began_at"])
    (end,) = in_process(tmp_path, "two", checkpoint)
    assert end["job"]["wall_time_sec"]["lost"] == summary["job"]["at"] - state["at"]


def test_what_is_not_known_of_an_earlier_process_is_down(first, tmp_path):
    checkpoint = tmp_path / "moved.ckpt"
    torch.save(torch.load(checkpoint_at(first[0], 6), weights_only=False), checkpoint)
    for directory in (str(tmp_path / "gone"), "\0", None):
        change_state(checkpoint, state_in(checkpoint_at(first[0], 6)) | {"directory": directory})
        callback = make_callback()
        train(tmp_path, callback, checkpoint=checkpoint, max_steps=8)
        assert callback.summary.job.wall_time_sec["lost"] == 0.0
        assert callback.summary.job.wall_time_sec["down"] > 0


@pytest.mark.parametrize(("how", "tokens"), [("one-ddp-alone", 2 * TOKENS), ("one-ddp-uneven", TOKENS + TOKENS // 2)])
def test_a_checkpoint_of_two_processes_has_what_both_have_done(tmp_path, how, tokens):
    ends = in_process(tmp_path, how)
    assert [end["job"]["tokens"] for end in ends] == [LAST * tokens] * 2
    # The window that ended at the fourth step was told by the eighth.
    step = 2 * EVERY if "uneven" in how else EVERY
    checkpoint = tmp_path / "one" / f"epoch=0-step={step}.ckpt"
    state = state_in(checkpoint)
    done = {name: state[name] for name in ("steps", "tokens", "samples", "flops")}
    assert done == {
        "steps": step,
        "tokens": step * tokens,
        "samples": step * tokens // 8,
        "flops": step * FLOPS * tokens // TOKENS,
    }
    assert state["device_hours"] * 3600 == pytest.approx(2 * sum(state["wall_time_sec"].values()), abs=1.0)
    asked = ends[0]["asked"]
    assert ("alone" not in how) or (asked["steps"], asked["tokens"]) == (6, 6 * tokens)
    again = in_process(tmp_path, how.replace("one", "two"), checkpoint)
    assert again[0]["job"] == again[1]["job"]
    assert (again[0]["job"]["steps"], again[0]["job"]["tokens"]) == (2 * LAST, 2 * LAST * tokens)
    assert again[0]["metrics"]["total/tokens"] == again[1]["metrics"]["total/tokens"] == 2 * LAST * tokens


@pytest.mark.parametrize("is_same", [False, True])
def test_two_callbacks_are_of_one_job(tmp_path, is_same):
    """A Trainer refuses two stateful callbacks of one kind; ours share what they write."""
    first = make_callback()
    callbacks = (first, first if is_same else make_callback())
    saves = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1)
    trainer = make_trainer(*callbacks, saves, max_steps=3, enable_checkpointing=True)
    trainer.fit(GPTModule(TINY), datamodule=tiny_data())
    path = tmp_path / "epoch=0-step=3.ckpt"
    again = (make_callback(), make_callback())
    trainer = make_trainer(*again, saves, max_steps=8, enable_checkpointing=True)
    trainer.fit(GPTModule(TINY), datamodule=tiny_data(), ckpt_path=path)
    assert [callback.summary.job.tokens for callback in again] == [8 * TOKENS] * 2
