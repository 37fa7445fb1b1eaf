"""Operators of real runs, by torch's profiler."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.profilers import PyTorchProfiler
from torch import nn
from torch.profiler import ProfilerActivity, profile, schedule

from gpt import GPTModule
from mfu_callback import MFUCallback
from tests.helpers.runs import SMALL_MODEL, TINY, TINY_FLOPS, Manual, Step, make_trainer, tiny_data, train_tiny

STEPS = 16


@pytest.fixture(autouse=True)
def quick_roofs(monkeypatch):
    """The roofs are not measured, except for the run that most tests share."""
    monkeypatch.setattr("mfu_callback.meter.run_operators.measure_bandwidth", lambda device: 1e10)
    monkeypatch.setattr("mfu_callback.meter.run_operators.measure_product", lambda device, dtype, sizes: 1e12)


@pytest.fixture(scope="module")
def run():
    """The callback of a run whose operators are profiled, and its model."""
    callback = MFUCallback(peak=1e12, warmup_steps=1, operators=True)
    module = train_tiny(callback, max_steps=STEPS)
    return callback, module


def test_the_operators_of_a_batch_add_up_to_its_flops(run):
    summary = run[0].summary
    by_phase = {
        phase: sum(one.flops or 0 for one in summary.operators if one.phase == phase)
        for phase in ("forward", "backward")
    }
    assert by_phase["forward"] == summary.flops.forward == TINY_FLOPS
    assert by_phase["backward"] == summary.flops.backward + summary.flops.recomputed


def test_each_operator_is_of_a_kind_and_a_phase(run):
    operators = {(one.name, one.phase): one for one in run[0].summary.operators}
    addmm = operators["aten::addmm", "forward"]
    assert (addmm.kind, addmm.calls) == ("matmul", 8)  # four linear layers in each of two blocks
    assert operators["aten::bmm", "backward"].kind == "matmul"  # with dropout, attention runs as separate matmuls here
    assert operators["aten::gelu", "forward"].kind == "memory"
    assert any(phase == "optimizer" for _, phase in operators)
    assert addmm.bytes > 0
    assert addmm.roofline > 0


def test_the_longest_comes_first_and_the_shares_sum_to_one(run):
    operators = run[0].summary.operators
    assert [one.sec for one in operators] == sorted((one.sec for one in operators), reverse=True)
    assert sum(one.share for one in operators) == pytest.approx(1)


def test_the_kinds_of_loss_sum_to_the_kernels(run):
    summary = run[0].summary
    assert set(summary.kernels) == {"matmuls", "attention", "memory", "transfers", "gaps"}
    assert sum(summary.kernels.values()) == pytest.approx(summary.waterfall["kernels"])
    assert min(summary.kernels.values()) >= 0
    assert summary.kernels["transfers"] == 0
    plain = summary.as_dict()
    assert plain["operators"][0]["name"] == summary.operators[0].name
    assert plain["kernels"] == summary.kernels


def test_profiling_changes_no_weight(run):
    plain = train_tiny(max_steps=STEPS)
    weights = run[1].state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in plain.state_dict().items())


def test_the_profiled_steps_are_left_out(run):
    assert run[0].summary.steps == STEPS - 1 - 2  # of the warm-up; and two that are profiled
    assert run[0].summary.wall_time_sec["sampling"] > 0


def test_without_the_argument_nothing_is_profiled():
    callback = MFUCallback(peak=1e12, warmup_steps=1)
    train_tiny(callback)
    assert (callback.summary.operators, callback.summary.kernels) == (None, None)


def test_accumulated_batches_are_profiled_one_by_one():
    callback = MFUCallback(peak=1e12, warmup_steps=1, operators=True)
    train_tiny(callback, accumulate_grad_batches=3)
    forward = sum(one.flops or 0 for one in callback.summary.operators if one.phase == "forward")
    assert forward == TINY_FLOPS


def test_the_trainers_own_profiler_goes_on_and_is_the_only_one(tmp_path):
    callback = MFUCallback(peak=1e12, warmup_steps=1, operators=True)
    trainer = make_trainer(callback, profiler=PyTorchProfiler(dirpath=tmp_path, filename="own"))
    with pytest.warns(UserWarning, match="the Trainer's own PyTorchProfiler needs torch's profiler for itself"):
        trainer.fit(GPTModule(TINY), datamodule=tiny_data())
    assert callback.summary.operators is None
    assert callback.summary.mfu > 0


@pytest.mark.filterwarnings(SMALL_MODEL)
@pytest.mark.parametrize("broken", ["profiling", "read"])
def test_an_error_in_profiling_ends_no_run(monkeypatch, broken):
    monkeypatch.setattr(f"mfu_callback.meter.operator_times.OperatorTimes.{broken}", lambda *_: 1 / 0)
    callback = MFUCallback(peak=1e12, warmup_steps=1, operators=True)
    with pytest.warns(UserWarning, match="ZeroDivisionError"):
        train_tiny(callback)
    assert callback.summary.operators is None
    assert callback.summary.mfu > 0


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_manual_optimization_has_the_phases_apart():
    """Both passes and both optimizers run inside the training step."""
    callback = MFUCallback(peak=1e12, warmup_steps=1, operators=True)
    make_trainer(callback, max_steps=20).fit(Manual())
    summary = callback.summary
    by_phase = dict.fromkeys(("forward", "backward", "optimizer"), 0.0)
    for one in summary.operators:
        by_phase[one.phase] += one.flops or 0
    assert (by_phase["forward"], by_phase["backward"]) == (summary.flops.forward, summary.flops.backward)
    assert ("aten::add_", "optimizer") in {(one.name, one.phase) for one in summary.operators}


# Inductor's, of what it imports, and of a fp32 matmul on some processors.
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*[Ii]nductor.*")
@pytest.mark.filterwarnings(SMALL_MODEL)
def test_compiled_code_is_a_row_and_its_matmuls_have_their_flops():
    network = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4))
    callback = MFUCallback(peak=1e12, warmup_steps=1, operators=True)
    make_trainer(callback).fit(Step(torch.compile(network)))
    summary = callback.summary
    rows = {(one.name, one.phase): one for one in summary.operators}
    compiled = rows["compiled code", "forward"]
    assert (compiled.kind, compiled.flops, compiled.bytes, compiled.roofline) == ("memory", None, None, None)
    matmuls = [one.flops for one in summary.operators if one.phase == "forward" and one.kind == "matmul"]
    assert sum(matmuls) == summary.flops.forward == 2 * 4 * (8 * 16 + 16 * 4)
    assert sum(summary.kernels.values()) == pytest.approx(summary.waterfall["kernels"])


def test_both_tables_can_be_asked_for_at_once():
    callback = MFUCallback(peak=1e12, warmup_steps=1, operators=True, modules=True)
    train_tiny(callback, max_steps=STEPS)
    assert callback.summary.operators
    assert callback.summary.modules


def test_a_run_that_is_too_short_says_so_and_measures_nothing(monkeypatch):
    said = []
    monkeypatch.setattr("mfu_callback.lightning.run.rank_zero_info", said.append)
    callback = MFUCallback(peak=1e12, warmup_steps=1, operators=True)
    train_tiny(callback, max_steps=4)
    assert (callback.summary.operators, callback.summary.kernels) == (None, None)
    assert [line for line in said if "no batch was profiled" in line]
    assert not [line for line in said if "roofs" in line]


class UsersProfiler(Callback):
    """Profiles a few steps of a run by a schedule of its own."""

    def __init__(self):
        self.traces = []

    def on_train_start(self, trainer, pl_module):
        plan = schedule(wait=2, warmup=4, active=1, repeat=1)
        self.own = profile(
            activities=[ProfilerActivity.CPU],
            schedule=plan,
            on_trace_ready=lambda one: self.traces.append(len(one.events())),
        )
        self.own.start()

    def on_train_batch_end(self, *_):
        self.own.step()

    def on_train_end(self, *_):
        self.own.stop()


def test_a_users_profiler_with_a_schedule_goes_on_and_is_the_only_one():
    users, callback = UsersProfiler(), MFUCallback(peak=1e12, warmup_steps=1, operators=True)
    with pytest.warns(UserWarning, match="another profiler is about to start"):
        train_tiny(users, callback, max_steps=STEPS)
    assert len(users.traces) == 1
    assert users.traces[0] > 0
    assert callback.summary.operators is None
    assert callback.summary.mfu > 0
