"""Each fault ends a run as it would without the callback, and leaves as little behind."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils._python_dispatch import _get_current_dispatch_mode

from mfu_callback import MFUCallback
from tests.helpers import signalled_runs
from tests.helpers.faulty_runs import InjectedError, Recording, Validated, run
from tests.helpers.runs import PEAK
from tests.lightning.test_traces import marks

# The calls of one fit in which other callbacks and the model can fail, with the number of the call that does.
HOOKS = [
    *(("setup", 1), ("on_fit_start", 1), ("on_sanity_check_start", 1), ("on_sanity_check_end", 1)),
    *(("on_train_start", 1), ("on_train_epoch_start", 1), ("on_train_batch_start", 1), ("on_train_batch_start", 5)),
    *(("on_before_zero_grad", 1), ("on_before_backward", 1), ("on_before_backward", 5), ("on_after_backward", 1)),
    *(("on_before_optimizer_step", 1), ("on_before_optimizer_step", 5), ("on_train_batch_end", 1)),
    *(("on_train_batch_end", 5), ("on_validation_start", 1), ("on_validation_start", 2)),
    *(("on_validation_batch_start", 3), ("on_validation_batch_end", 4), ("on_validation_epoch_end", 2)),
    *(("on_validation_end", 2), ("on_train_epoch_end", 1), ("on_train_end", 1), ("on_fit_end", 1), ("teardown", 1)),
]


def failing(hook, nth):
    """A callback whose hook raises when it is called for the nth time."""
    calls = []

    def fail(self, *_, **__):
        calls.append(hook)
        if len(calls) == nth:
            raise InjectedError(f"{hook}, call {nth}")

    return type("Failing", (Callback,), {hook: fail})()


@cache
def plain_end(hook, nth):
    return run(Validated, [failing(hook, nth)], left=marks).end


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize(("hook", "nth"), HOOKS)
def test_another_callback_that_fails_ends_the_run_as_without_us(hook, nth, ours_first):
    ours = MFUCallback(peak=PEAK, modules=True, validation=ours_first, warmup_steps=0, summary=None)
    callbacks = [ours, failing(hook, nth)] if ours_first else [failing(hook, nth), ours]
    end = run(Validated, callbacks, left=marks).end
    assert end.error == ("InjectedError", f"{hook}, call {nth}")
    assert end.is_like(plain_end(hook, nth))
    assert (ours._run, ours._evaluation) == (None, None)


class FailsInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise InjectedError("backward")


class FailsToStep(torch.optim.SGD):
    def step(self, closure=None):
        closure()
        raise InjectedError("step")


def failing_model(where, at):
    class Failing(Validated):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if batch_idx != at:
                return loss
            if where == "forward":
                raise InjectedError("forward")
            return FailsInBackward.apply(loss) if where == "backward" else loss

        def validation_step(self, batch, batch_idx):
            if where == "validation" and not self.trainer.sanity_checking and batch_idx == at:
                raise InjectedError("validation")
            return super().validation_step(batch, batch_idx)

        def configure_optimizers(self):
            return FailsToStep(self.parameters(), lr=0.1) if where == "step" else super().configure_optimizers()

    return Failing


@pytest.mark.parametrize("at", [0, 4])
@pytest.mark.parametrize("where", ["forward", "backward", "step", "validation"])
def test_a_model_that_fails_ends_the_run_as_without_us(where, at):
    at = min(at, 1) if where == "validation" else at
    ours = MFUCallback(peak=PEAK, modules=True, operators=True, validation=True, warmup_steps=0, summary=None)
    end = run(failing_model(where, at), [ours], left=marks).end
    assert end.error == ("InjectedError", where)
    assert end.is_like(run(failing_model(where, at), left=marks).end)


@cache
def undisturbed():
    return run(Validated, left=marks).end


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mfu_callback.flops.counter.FlopCounter.result", "FLOPs could not be counted"),
        ("mfu_callback.flops.counter.FlopCounter.__init__", "FLOPs could not be counted"),
        ("mfu_callback.flops.operators.Operators.see", "A FLOP rule of mfu-callback failed"),
        ("mfu_callback.meter.meter.DeviceWatch.take_window", "MFUCallback has failed"),
        ("mfu_callback.meter.batches.count_samples", "The batch could not be read"),
        ("mfu_callback.meter.measurement.Measurement.start", "MFUCallback has failed"),
        ("mfu_callback.meter.measurement.Measurement.finish", "MFUCallback has failed"),
        ("mfu_callback.lightning.run.MeasuredRun.__init__", "MFUCallback has failed"),
        ("mfu_callback.lightning.evaluation.MeasuredEvaluation.begin_batch", "MFUCallback has failed"),
        ("mfu_callback.lightning.evaluation.MeasuredEvaluation.finish", "MFUCallback has failed"),
    ],
)
@pytest.mark.parametrize("error", [ZeroDivisionError, RuntimeError])
def test_a_fault_of_our_own_is_one_warning_and_the_run_goes_on(monkeypatch, name, told, error):
    def fail(*_, **__):
        raise error("ours")

    monkeypatch.setattr(name, fail)
    ours = MFUCallback(peak=PEAK, validation=".evaluation." in name, warmup_steps=0, summary=None)
    end, warned = run(Validated, [ours], left=marks)
    assert end.is_like(undisturbed())
    assert len([one for one in warned if told in one]) == 1


def test_a_fault_of_our_own_after_a_fault_of_the_users_does_not_take_its_place(monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("mfu_callback.lightning.run.MeasuredRun.break_off", fail)
    ours = MFUCallback(peak=PEAK, summary=None)
    end, warned = run(failing_model("forward", 4), [ours], left=marks)
    assert end.error == ("InjectedError", "forward")
    assert [one[:23] for one in warned] == ["MFUCallback has failed "]


@pytest.mark.parametrize("error", [RuntimeError("x"), MemoryError("x"), ZeroDivisionError(), KeyError("x")])
def test_a_sweep_that_fails_leaves_the_peak_out(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("mfu_callback.peaks.resolve.measure_peak", fail)
    monkeypatch.setattr("mfu_callback.peaks.resolve.confirmed_peak", lambda *_: None)
    ours = MFUCallback(peak="measured", warmup_steps=0, summary=None)
    end, warned = run(Validated, [ours], left=marks)
    assert end.is_like(undisturbed())
    assert (ours.summary.mfu, ours.summary.steps) == (None, 5)
    assert len([one for one in warned if "MFU is left out" in one]) == 1


class Logs(Validated):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss)
        return loss


ERRORS = [OSError(28, "No space left on device"), ConnectionError("the server is closed")]


@pytest.mark.parametrize("error", ERRORS)
def test_a_logger_that_fails_on_the_users_metrics_ends_the_run_as_without_us(error):
    def end(*callbacks):
        return run(Logs, callbacks, logger=Recording(error, lambda metrics: "loss" in metrics), left=marks).end

    plain = end()
    assert plain.error is not None
    assert end(MFUCallback(peak=PEAK, warmup_steps=0, summary=None)).is_like(plain)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("model", [Validated, Logs])
def test_a_logger_that_fails_on_our_values_alone_ends_no_run(model, error):
    def is_ours(metrics):
        return any(name.startswith("throughput") for name in metrics)

    def loggers():
        return [Recording(), Recording(error, is_ours), Recording()]

    ours, with_us, without = MFUCallback(peak=PEAK, warmup_steps=0, summary=None), loggers(), loggers()
    end, warned = run(model, [ours], logger=with_us, left=marks)
    assert end.is_like(run(model, logger=without, left=marks).end)
    assert with_us[1].calls == without[1].calls
    for logger, plain in zip(with_us[::2], without[::2], strict=True):
        own = [{name: value for name, value in call.items() if "/" not in name} for call in logger.calls]
        assert [call for call in own if "loss" in call] == plain.calls
        assert sum(map(is_ours, logger.calls)) == 5
    assert len([one for one in warned if "Recording did not take the values of MFUCallback" in one]) == 1


def test_a_logger_that_cannot_save_our_values_ends_no_run():
    class FullDisk(Recording):
        is_full = True

        def save(self):
            if self.calls and self.is_full:
                self.is_full = False  # until someone has made room
                raise ERRORS[0]

    end, warned = run(Validated, [MFUCallback(peak=PEAK, warmup_steps=0, summary=None)], logger=FullDisk(), left=marks)
    assert end.is_like(undisturbed())
    assert len([one for one in warned if "FullDisk did not take the values" in one]) == 1


class RefusesModes(Validated):
    """Raises while a dispatch mode is on, after it has drawn random numbers."""

    def training_step(self, batch, batch_idx):
        self.refuse()
        return super().training_step(torch.dropout(batch, 0.5, train=True), batch_idx)

    def validation_step(self, batch, batch_idx):
        self.refuse()
        return super().validation_step(batch, batch_idx)

    def refuse(self):
        torch.rand(3)
        if _get_current_dispatch_mode() is not None:
            raise RuntimeError("no modes, please")


def test_a_model_that_refuses_to_run_in_a_count_runs_without_it():
    ours = MFUCallback(peak=PEAK, warmup_steps=0, validation=True, summary=None)
    end, warned = run(RefusesModes, [ours], left=marks)
    assert end.error is None
    assert end.is_like(run(RefusesModes, left=marks).end)
    assert (ours.summary.mfu, ours.summary.flops, ours.summary.steps) == (None, None, 5)
    assert ours.summary.samples_per_sec > 0
    # One for the training, one for the validations.
    assert [one[:57] for one in warned] == ["The model does not run while its FLOPs are counted (Runti"] * 2


def changes_and_refuses(change):
    class Changes(RefusesModes):
        def __init__(self):
            super().__init__()
            self.calls, self.kept = 0, []
            self.register_buffer("running", torch.zeros(1))

        def training_step(self, batch, batch_idx):
            change(self, batch)
            return super().training_step(batch, batch_idx)

    return Changes


def count(module, batch):
    module.calls += 1


def keep(module, batch):
    module.kept.append(1)


def update(module, batch):
    module.running.add_(1)


def log(module, batch):
    module.log("x", 1.0)


def fill(module, batch):
    batch.add_(1)


def differentiate(module, batch):
    module.network(batch).sum().backward()


def replace(module, batch):
    module.network.append(torch.nn.Identity())


@pytest.mark.parametrize("change", [count, keep, update, log, fill, differentiate, replace])
def test_a_step_that_has_changed_something_is_not_run_again(change):
    end, _ = run(changes_and_refuses(change), [MFUCallback(peak=PEAK, summary=None)], left=marks)
    assert (end.error, end.steps) == (("RuntimeError", "no modes, please"), 0)


def test_an_error_of_the_users_in_the_counted_step_is_the_users():
    class Broken(Validated):
        def training_step(self, batch, batch_idx):
            return self.network(batch[:, :3]).sum()

    end, warned = run(Broken, [MFUCallback(peak=PEAK, summary=None)], left=marks)
    assert end.error[0] == "RuntimeError"
    assert end.is_like(run(Broken, left=marks).end)
    assert warned == []


@pytest.fixture(scope="module")
def signalled(tmp_path_factory):
    """The ends of runs that have sent themselves a signal, by signal and phase, with and without the callback."""

    directory = tmp_path_factory.mktemp("signals")

    def ends(how):
        script = Path(signalled_runs.__file__)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            [sys.executable, str(script), how, str(directory)],
            **{"capture_output": True, "text": True, "env": environment, "timeout": 300},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return ends("with"), ends("without")


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("phase", signalled_runs.PHASES)
def test_a_signal_ends_the_run_as_without_us(signalled, sent, phase):
    with_us, without = (ends[f"{sent} {phase}"] for ends in signalled)
    assert without[0] or without[1]["error"] is not None or phase == "epoch end"
    assert with_us == without
