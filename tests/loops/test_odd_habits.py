"""Habits of loops that are not those of the page."""

import copy
import pickle
import time
import warnings

import pytest
import torch
from torch import nn

from mfu_callback import MFUMeter
from tests.helpers.loop_runs import make_meter

pytestmark = pytest.mark.filterwarnings("ignore:The backward pass of this model takes")


def batches(number=6):
    return [torch.ones(2, 4) for _ in range(number)]


def train(model, meter, *, inside=lambda: None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in meter.fetch(batches()):
        with meter.step(batch):
            model(batch).sum().backward()
            optimizer.step()
            inside()


@pytest.mark.parametrize("extra", [{}, {"modules": True, "operators": True}])
def test_losses_that_can_be_read_once_reach_the_backward_pass(extra):
    model = nn.Linear(4, 4)
    with make_meter(model, **extra) as meter:
        for batch in meter.fetch(batches()):
            model.zero_grad()
            with meter.step(batch, is_last=True):
                torch.autograd.backward(model(part).sum() for part in batch)
            assert model.bias.grad.tolist() == [2.0] * 4


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_can_be_copied_inside_of_a_block_and_the_copy_is_not_measured(how):
    model, copies = nn.Linear(4, 4), []
    with make_meter(model) as meter:
        train(model, meter, inside=lambda: copies.append(how(model)))
        assert len(copies) == 6
        phase = meter._measured._clock.phase
        copies[-1](torch.ones(2, 4))
        assert meter._measured._clock.phase is phase
    assert meter.summary.steps == 5


def test_the_batches_of_a_validation_are_no_training_data():
    model = nn.Linear(4, 4)
    with make_meter(model) as meter:
        train(model, meter)
        with meter.pause():
            for _ in meter.fetch(time.sleep(0.02) for _ in range(3)):
                pass
        train(model, meter)
    assert meter.summary.wall_time_sec["validation"] >= 0.06


def test_the_loaders_of_earlier_epochs_are_not_kept():
    class Loader(list):
        alive = 0

        def __init__(self):
            super().__init__(batches())
            Loader.alive += 1

        def __del__(self):
            Loader.alive -= 1

    model = nn.Linear(4, 4)
    with make_meter(model) as meter:
        for _ in range(3):
            for _ in meter.fetch(Loader()):
                break
        assert Loader.alive == 1


def test_a_scripted_model_is_measured():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.script(nn.Linear(4, 4))
    with make_meter(model) as meter:
        train(model, meter)
    assert (meter.summary.steps, meter.summary.flops.forward) == (5, 2 * 2 * 4 * 4)


def test_an_optimizer_outside_of_the_blocks_is_said_at_the_end(capsys):
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    meter = make_meter(model, summary="line")
    for batch in meter.fetch(batches()):
        with meter.step(batch):
            model(batch).sum().backward()
        optimizer.step()
    with pytest.warns(UserWarning, match=r"stepped in 6 blocks.*no step was measured.*Call optimizer.step\(\) inside"):
        assert meter.close().steps == 0
    assert "MFUMeter measured no step" in capsys.readouterr().out


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("factor", "said"), [(2.0, 1), (0, 0), ("measured", 0)])
def test_a_loop_without_a_backward_pass_is_told_what_its_flops_are(factor, said):
    model = nn.Linear(4, 4)
    with warnings.catch_warnings(record=True) as caught, make_meter(model, backward_factor=factor) as meter:
        for batch in batches():
            with meter.step(batch, is_last=True), torch.no_grad():
                model(batch)
    assert sum("No backward pass ran in the first step" in str(one.message) for one in caught) == said


def test_a_meter_that_an_exception_has_ended_can_be_closed():
    with pytest.raises(KeyboardInterrupt), make_meter(nn.Linear(4, 4)) as meter:
        raise KeyboardInterrupt
    assert meter.close().steps == 0


def test_several_models_in_a_list_are_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"model=\[Linear.* is no torch\.nn\.Module.*torch\.nn\.ModuleList"):
        MFUMeter([nn.Linear(4, 4), nn.Linear(4, 4)])
