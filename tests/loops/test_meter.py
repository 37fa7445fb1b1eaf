"""A loop of one's own, measured: the figures, and that nothing of it is changed."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from mfu_callback import MFUMeter, count_flops
from mfu_callback.meter.arguments import Arguments
from mfu_callback.meter.clock import HostTimer
from tests.helpers.loop_runs import loss_of, make_meter, tiny_batches, tiny_gpt, train
from tests.helpers.runs import ABSENT_TAGS, PEAK, TINY_FLOPS, FakeNow

pytestmark = pytest.mark.filterwarnings("ignore:The backward pass of this model takes")


class MovedNow(FakeNow):
    def go(self, seconds):
        self.seconds += seconds


@pytest.fixture
def now(monkeypatch):
    """A clock that only the test moves."""
    clock = MovedNow()
    monkeypatch.setattr("mfu_callback.loops.measured_loop.timer_for", lambda device: HostTimer(clock))
    return clock


def test_a_loop_has_the_figures_of_its_steps():
    model = tiny_gpt()
    with make_meter(model) as meter:
        train(model, tiny_batches(12), meter)
    summary = meter.summary
    assert (summary.steps, summary.tokens) == (11, 11 * 32)
    assert (summary.flops.forward, summary.flops.thop) == (TINY_FLOPS, count_flops(model, tiny_batches(1)[0][0]).thop)
    seconds = sum(summary.phases_sec.values()) * summary.steps
    assert summary.mfu == pytest.approx(3 * TINY_FLOPS * 11 / seconds / PEAK)
    assert summary.tokens_per_sec == pytest.approx(11 * 32 / seconds)
    assert sum(summary.waterfall.values()) == pytest.approx(1)
    assert meter.close() is summary


def test_the_values_are_those_of_the_trainers_tags():
    model, seen = tiny_gpt(), []
    meter = make_meter(model)

    def ask(number):
        if meter.due(5):
            seen.append((number, meter.values()))

    train(model, tiny_batches(12), meter, after_step=ask)
    assert [number for number, _ in seen] == [4, 9]
    from mfu_callback.meter.tags import TAGS

    assert set(seen[0][1]) == {tag.name for tag in TAGS} - ABSENT_TAGS
    meter.close()


def test_micro_batches_are_parts_of_the_step_that_follows():
    model = tiny_gpt()
    with make_meter(model) as meter:
        train(model, tiny_batches(12), meter, accumulate=3)
    assert (meter.summary.steps, meter.summary.tokens) == (3, 3 * 3 * 32)
    seconds = sum(meter.summary.phases_sec.values()) * 3
    assert meter.summary.mfu == pytest.approx(3 * 3 * 3 * TINY_FLOPS / seconds / PEAK)


def test_micro_batches_inside_of_one_block_count_as_what_the_block_computes():
    model = tiny_gpt()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with make_meter(model) as meter:
        for batch in meter.fetch(tiny_batches(5)):
            with meter.step(batch):
                for half in range(2):
                    loss_of(model, tuple(part[2 * half : 2 * half + 2] for part in batch)).backward()
                optimizer.step()
    assert (meter.summary.steps, meter.summary.tokens) == (4, 4 * 32)
    assert meter.summary.flops.forward == TINY_FLOPS


def test_every_second_lands_in_its_phase(now):
    model = tiny_gpt()
    hook = model.register_forward_pre_hook(lambda *_: now.go(3.0))

    def slowly():
        for batch in tiny_batches(6):
            now.go(0.5)
            yield batch

    class Slow(torch.optim.SGD):
        def step(self, closure=None):
            now.go(7.0)
            return super().step(closure)

    optimizer = Slow(model.parameters(), lr=0.1)
    with make_meter(model) as meter:
        for batch in meter.fetch(slowly()):
            with meter.step(batch):
                now.go(0.25)  # before the model is called
                loss = loss_of(model, batch)
                now.go(0.125)
                loss.register_hook(lambda _: now.go(5.0))
                loss.backward()
                now.go(1.0)  # gradients are clipped
                optimizer.step()
                now.go(2.0)
            now.go(4.0)
            with meter.pause():
                now.go(1000.0)
            with meter.pause("checkpoint"):
                now.go(500.0)
    hook.remove()
    phases = {"data": 0.5, "forward": 3.125, "backward": 5.0, "optimizer": 8.0, "other": 0.25 + 2.0 + 4.0}
    # The first block is counted; after the last step nothing is a step's.
    assert meter.summary.phases_sec == pytest.approx(phases)
    wall = meter.summary.wall_time_sec
    assert (wall["validation"], wall["checkpoint"]) == (6 * 1000.0, 6 * 500.0)
    assert meter.summary.steps == 5


def test_a_model_that_is_called_by_a_method_of_its_own_has_its_forward_too(now):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def loss(self, batch):
            now.go(3.0)
            return self.layer(batch).sum()

    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with make_meter(model) as meter:
        for batch in [torch.ones(2, 4)] * 4:
            with meter.step(batch):
                model.loss(batch).backward()
                optimizer.step()
    assert meter.summary.phases_sec["forward"] == pytest.approx(3.0)
    assert meter.summary.flops.forward == 2 * 2 * 4 * 4


def test_two_models_in_one_block():
    models = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 4)])
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    with make_meter(models) as meter:
        for batch in [torch.ones(2, 4)] * 5:
            with meter.step(batch):
                made = models[0](batch)
                models[1](made.detach()).sum().backward()
                optimizers[1].step()
                models[1](made).sum().backward()
                optimizers[0].step()
    assert meter.summary.steps == 4
    assert meter.summary.flops.forward == 3 * 2 * 2 * 4 * 8


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar:UserWarning")
def test_a_closure_runs_inside_of_the_optimizers_step():
    model = nn.Linear(4, 4)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    with make_meter(model) as meter:
        for batch in [torch.ones(2, 4)] * 4:
            with meter.step(batch):

                def closure(batch=batch):
                    optimizer.zero_grad()
                    loss = model(batch).square().sum()
                    loss.backward()
                    return loss

                optimizer.step(closure)
    assert meter.summary.steps == 3
    assert all(meter.summary.phases_sec[phase] > 0 for phase in ("forward", "backward", "optimizer"))


def test_a_step_that_a_gradient_scaler_skips_joins_the_next():
    model = nn.Linear(4, 4)
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=4.0)
    batches = [torch.full((2, 4), float("inf") if number == 5 else 1.0) for number in range(8)]
    with make_meter(model) as meter:
        for batch in batches:
            with meter.step(batch):
                scaler.scale(model(batch).sum()).backward()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
    assert (meter.summary.steps, meter.summary.samples_per_sec) == (
        6,
        pytest.approx(7 * 2 / (sum(meter.summary.phases_sec.values()) * 6)),
    )


def test_no_step_of_a_torch_optimizer_is_said_and_each_block_is_a_step():
    model = nn.Linear(4, 4)
    meter = make_meter(model)

    def loop():
        for batch in [torch.ones(2, 4)] * 70:
            with meter.step(batch):
                model(batch).sum().backward()

    with pytest.warns(UserWarning, match="No optimizer of torch's has stepped in 64 blocks.*is_last=True") as warned:
        loop()
    assert len(warned) == 1
    assert meter.close().steps == 6  # the first 64 blocks are one step, which is warm-up


def test_the_end_of_a_step_can_be_told():
    model = nn.Linear(4, 4)
    with make_meter(model) as meter:
        for number in range(8):
            with meter.step(torch.ones(2, 4), is_last=number % 2 == 1):
                model(torch.ones(2, 4)).sum().backward()
    assert meter.summary.steps == 3


def test_a_block_inside_of_a_block_is_refused():
    model = nn.Linear(4, 4)
    meter = make_meter(model)
    with pytest.raises(RuntimeError, match="inside another"), meter.step(torch.ones(2, 4)), meter.step(None):
        pass
    with pytest.raises(ValueError, match="part='lunch' is not known"), meter.pause("lunch"):
        pass


def test_wrong_arguments_are_refused_at_once():
    with pytest.raises(ValueError, match="sync='never' is not known"):
        MFUMeter(nn.Linear(1, 1), sync="never")
    with pytest.raises(TypeError, match=r"MFUMeter has no argument 'warmup'.*it takes flops, "):
        MFUMeter(nn.Linear(1, 1), warmup=3)


def test_the_keywords_are_those_of_the_callback():
    import inspect
    from dataclasses import fields

    from mfu_callback import MFUCallback

    asked = {name: one.default for name, one in inspect.signature(MFUCallback).parameters.items()}
    del asked["validation"]  # a Trainer's
    assert {field.name: field.default for field in fields(Arguments)} == asked


def test_a_meter_that_measured_nothing_says_so(capsys):
    meter = MFUMeter(nn.Linear(4, 4), peak=PEAK, summary="line")
    assert meter.close().steps == 0
    assert "measured no step" in capsys.readouterr().out


def test_frozen_parameters_are_counted_anew_in_the_next_epoch():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    meter, values = make_meter(model, backward_factor="measured"), []
    for epoch in range(2):
        model[0].requires_grad_(epoch == 0)
        for batch in meter.fetch([torch.ones(2, 4)] * 6):
            with meter.step(batch):
                model(batch).sum().backward()
                optimizer.step()
        values.append(meter.values())
    flops = [one["throughput/device/tflops_per_sec"] / one["throughput/samples_per_sec"] for one in values]
    # One layer's forward is 2 x 16 FLOPs a sample: both forward, 3 backward of them, then one.
    assert flops == pytest.approx([(2 + 3) * 32e-12, (2 + 1) * 32e-12])
    meter.close()


def test_modules_and_operators_are_timed():
    model = tiny_gpt()
    with make_meter(model, modules=True, operators=True) as meter:
        train(model, tiny_batches(24), meter)
    names = {one.name for one in meter.summary.modules}
    assert {"head", "blocks.*.attention.qkv"} & names or len(names) > 4
    operators = {(one.name, one.phase) for one in meter.summary.operators}
    assert {("aten::addmm", "forward"), ("aten::mm", "backward")} & operators
    assert sum(meter.summary.kernels.values()) == pytest.approx(meter.summary.waterfall["kernels"])


def test_the_wait_for_a_loader_with_workers_is_measured():
    model = tiny_gpt()
    loader = DataLoader(tiny_batches(12), batch_size=None, num_workers=1)
    with make_meter(model) as meter:
        train(model, loader, meter)
    assert meter.summary.phases_sec["data"] > 0
    assert meter.summary.circumstances.num_workers == 1
    assert meter.summary.circumstances.unfused == ("AdamW",)


def test_nothing_is_said_twice_and_lines_go_to_logging_where_it_is_set_up(caplog, capsys):
    model = tiny_gpt()
    with caplog.at_level("INFO", logger="mfu_callback"), warnings.catch_warnings():
        warnings.simplefilter("error")
        with make_meter(model) as meter:
            train(model, tiny_batches(6), meter)
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "model FLOPs in the forward pass" in line]) == 1
    assert all(line.startswith("MFUMeter: ") for line in lines)
    assert capsys.readouterr() == ("", "")
