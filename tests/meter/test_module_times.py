"""Seconds of modules on a fake clock that only their own work moves."""

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from gpt import GPTModule
from mfu_callback import MFUCallback
from mfu_callback.meter.clock import HostTimer
from mfu_callback.meter.module_times import ModuleTimes, Seconds
from mfu_callback.meter.per_module import figures_per_module
from tests.helpers.runs import PEAK, TINY, TINY_FLOPS, FakeNow, Manual, fit, make_trainer, tiny_data
from tests.helpers.torch_features import global_hooks

NOW = FakeNow()


class Takes(torch.autograd.Function):
    """Moves the clock in its forward and in its backward."""

    @staticmethod
    def forward(ctx, x, forward, backward):
        ctx.backward_sec = backward
        NOW.seconds += forward
        return x * 1.0

    @staticmethod
    def backward(ctx, gradient):
        NOW.seconds += ctx.backward_sec
        return gradient, None, None


class Part(nn.Module):
    """Takes its seconds and computes with a weight."""

    def __init__(self, forward, backward):
        super().__init__()
        self.seconds = forward, backward
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return Takes.apply(x, *self.seconds) * self.weight


class Outer(nn.Module):
    """Two parts, with work of its own before, between and after them, and a way around them."""

    def __init__(self, checkpointed=None):
        super().__init__()
        self.one, self.two = Part(1.0, 2.0), Part(10.0, 20.0)
        self.checkpointed = checkpointed

    def forward(self, x):
        y = Takes.apply(x, 0.25, 0.5)
        y = self.one(y) if self.checkpointed is None else checkpoint(self.one, y, use_reentrant=self.checkpointed)
        y = Takes.apply(y, 0.25, 0.5)
        return Takes.apply(x + self.two(y), 0.25, 0.5)


class Whole(nn.Module):
    """Two outer ones, of which the second shares a part with the first, and a head."""

    def __init__(self, checkpointed=None):
        super().__init__()
        self.blocks = nn.ModuleList([Outer(checkpointed), Outer(checkpointed)])
        self.head = Part(100.0, 200.0)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def seconds_of(times):
    seconds, _ = times.seconds()
    return seconds


def step(model, times, loss_of=torch.sum):
    """A training step whose loss takes 1000 s, and 2000 s in the backward."""

    def training_step():
        return Takes.apply(loss_of(model(torch.ones(2, 4, requires_grad=True))), 1000.0, 2000.0)

    with times.watching():
        NOW.seconds += 7.0  # nobody's
        loss = times.around_forward(training_step)()
        NOW.seconds += 7.0
        loss.backward()
        NOW.seconds += 7.0


BLOCK = {"": Seconds(0.75, 1.5), "one": Seconds(1.0, 2.0), "two": Seconds(10.0, 20.0)}
EXPECTED = {
    "": Seconds(1000.0, 2000.0),
    **{f"blocks.{i}{'.' if part else ''}{part}": seconds for i in range(2) for part, seconds in BLOCK.items()},
    "head": Seconds(100.0, 200.0),
}


def test_every_second_is_its_modules_in_the_forward_and_in_the_backward():
    model = Whole()
    times = ModuleTimes(model, HostTimer(NOW))
    for _ in range(2):
        step(model, times)
    assert times.batches == 2
    assert seconds_of(times) == EXPECTED


def test_the_faster_half_of_the_batches_is_told_with_its_own_size():
    model = Whole()
    times = ModuleTimes(model, HostTimer(NOW))
    for size, slowdown in ((2.0, 1.0), (1.0, 9.0), (1.0, 1.0), (3.0, 4.0)):
        model.head.seconds = size * slowdown * 1e6, 0.0
        with times.watching(size):
            times.around_forward(lambda: model(torch.ones(2, 4)).sum())().backward()
    seconds, size = times.seconds()
    assert size == 1.5
    assert seconds["head"].forward == 1.5e6


def test_modules_under_a_root_that_is_not_called_are_told_apart_likewise():
    model = nn.ModuleDict({"left": Outer(), "right": Outer()})
    times = ModuleTimes(model, HostTimer(NOW))
    step(lambda x: model["left"](x) * Takes.apply(model["right"](x), 3.0, 4.0), times)
    assert seconds_of(times) == {
        "": Seconds(1003.0, 2004.0),
        **{f"{side}{'.' if part else ''}{part}": s for side in ("left", "right") for part, s in BLOCK.items()},
    }


@pytest.mark.parametrize(
    ("reentrant", "again"),
    [
        (False, {f"blocks.{i}.one": Seconds(1.0, 3.0) for i in range(2)}),
        # A backward inside of the backward is its caller's.
        (
            True,
            {
                f"blocks.{i}{end}": s
                for i in range(2)
                for end, s in (("", Seconds(0.75, 3.5)), (".one", Seconds(1.0, 1.0)))
            },
        ),
    ],
)
def test_what_a_checkpoint_runs_again_is_backward_time_of_its_module(reentrant, again):
    model = Whole(checkpointed=reentrant)
    times = ModuleTimes(model, HostTimer(NOW))
    step(model, times)
    assert seconds_of(times) == EXPECTED | again


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_code_is_one_piece_and_keeps_its_graph():
    model = Whole()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)

        def run(*args):
            NOW.seconds += 50.0
            return graph(*args)

        return run

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return self.inner(x).relu()

    model.blocks[1] = Plain()
    model.blocks[1].compile(backend=backend)
    torch._dynamo.reset()
    times = ModuleTimes(model, HostTimer(NOW))
    step(model, times)
    step(model, times)
    assert len(graphs) == 1
    seconds = seconds_of(times)
    assert seconds["blocks.1"].forward == 50.0
    assert "blocks.1.inner" not in seconds
    assert (seconds["blocks.0.two"], seconds["head"]) == (EXPECTED["blocks.0.two"], EXPECTED["head"])


def test_a_graph_that_is_kept_for_longer_and_run_again_later_adds_nothing():
    model = Whole()
    times = ModuleTimes(model, HostTimer(NOW))
    with times.watching():
        loss = times.around_forward(lambda: model(torch.ones(2, 4)).sum())()
    loss.backward()
    assert all(own.backward == 0 for own in seconds_of(times).values())


def test_a_step_that_breaks_off_leaves_no_hook():
    model = Whole()
    times = ModuleTimes(model, HostTimer(NOW))
    with pytest.raises(ArithmeticError), times.watching():
        raise ArithmeticError
    assert not global_hooks()


def test_figures_are_those_of_like_modules_with_what_is_inside_them():
    flops = {"": 5.0, "blocks.0.one": 10.0, "blocks.1.one": 10.0, "blocks.0.two": 1.0, "head": 74.0}
    rows = figures_per_module(EXPECTED, flops, flops_factor=3.0, peak_flops_per_sec=2.0)
    assert [(row.name, row.modules, row.flops) for row in rows] == [
        ("", 1, 300.0),
        ("blocks.*", 2, 63.0),
        ("blocks.*.one", 2, 60.0),
        ("blocks.*.two", 2, 3.0),
        ("head", 1, 222.0),
    ]
    whole, block, one, _, head = rows
    assert (whole.forward_sec, whole.backward_sec, whole.share) == (1123.5, 2247.0, 1.0)
    assert (block.forward_sec, block.backward_sec) == (23.5, 47.0)
    assert (one.mfu, head.mfu) == (60 / 6 / 2, 222 / 300 / 2)
    assert head.share == pytest.approx(300 / 3370.5)


def test_figures_without_flops_or_peak_have_the_times_alone():
    rows = figures_per_module(EXPECTED, {}, flops_factor=3.0, peak_flops_per_sec=1.0)
    assert {(row.flops, row.mfu) for row in rows} == {(None, None)}
    assert {row.mfu for row in figures_per_module(EXPECTED, {"": 1}, flops_factor=3.0, peak_flops_per_sec=None)} == {
        None
    }


class SlowModel(LightningModule):
    """The whole, in a real run."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        return Takes.apply(self.network(batch.requires_grad_()).sum(), 1000.0, 2000.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def train_dataloader(self):
        return DataLoader(torch.ones(400, 4), batch_size=2)


@pytest.mark.parametrize(
    ("arguments", "steps"),
    # Batches 0, 1, 2, 10 and 20 after warm-up; two of them are a step, so that 0 and 1 are in one.
    [({}, 5), ({"accumulate_grad_batches": 2}, 5), ({"gradient_clip_val": 1.0}, 5)],
)
def test_a_run_tells_them_and_leaves_the_sampled_steps_out(monkeypatch, arguments, steps):
    monkeypatch.setattr("mfu_callback.lightning.run.timer_for", lambda device: HostTimer(NOW))
    callback = MFUCallback(peak=PEAK, flops=lambda batch: 1.0, warmup_steps=1, modules=True)
    trainer = make_trainer(callback, max_steps=30, **arguments)
    trainer.fit(SlowModel(Whole()))
    rows = {row.name: row for row in callback.summary.modules}
    assert (rows[""].forward_sec, rows[""].backward_sec) == (1123.5, 2247.0)
    assert (rows["network.blocks.*.two"].forward_sec, rows["network.blocks.*.two"].backward_sec) == (20.0, 40.0)
    sampled = callback.summary.wall_time_sec["sampling"] / callback.summary.step_time_sec
    assert sampled == pytest.approx(steps)


def test_flops_by_module_sum_to_those_of_forward_and_backward():
    callback = MFUCallback(peak=PEAK, warmup_steps=1, modules=True)
    trainer = make_trainer(callback, max_steps=8)
    trainer.fit(GPTModule(TINY), datamodule=tiny_data())
    rows = {row.name: row for row in callback.summary.modules}
    assert rows[""].flops == 3 * TINY_FLOPS
    assert rows["model.head"].flops == 3 * 4 * 2 * 8 * 16 * 64
    assert rows["model.blocks.*.mlp"].flops == 3 * 4 * 2 * 2 * 8 * 8 * 16**2
    assert rows["model.head"].mfu > 0
    assert callback.summary.as_dict()["modules"][0]["flops"] == 3 * TINY_FLOPS


@pytest.mark.filterwarnings("ignore:The backward pass of this model takes")
def test_manual_optimization_tells_them_too():
    callback = MFUCallback(peak=PEAK, warmup_steps=1, modules=True)
    make_trainer(callback, max_steps=16).fit(Manual())
    rows = {row.name: row for row in callback.summary.modules}
    assert list(rows) == ["", "one", "two"]
    assert all(row.forward_sec > 0 and row.backward_sec > 0 for row in rows.values() if row.name)


def test_without_being_asked_nothing_is_sampled():
    callback, _ = fit(GPTModule(TINY), data=tiny_data())
    assert callback.summary.modules is None
    assert callback.summary.wall_time_sec["sampling"] == 0
