"""A measured loop is what it was: its weights, random state and compiled code, and what was attached before."""

import copy
import sys
import threading

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from tests.helpers.loop_runs import loss_of, make_meter, tiny_batches, tiny_gpt, train
from tests.helpers.runs import TINY_FLOPS

OPTIMIZERS = sys.modules["torch.optim.optimizer"]  # torch.optim hides it
pytestmark = pytest.mark.filterwarnings("ignore:The backward pass of this model takes")


def own_traces(model):
    """What a meter could leave behind."""
    return (
        torch.autograd.backward.__module__,
        _get_current_dispatch_mode(),
        len(OPTIMIZERS._global_optimizer_pre_hooks),
        len(OPTIMIZERS._global_optimizer_post_hooks),
        [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()],
        sorted(vars(model)),
    )


class RaisedError(Exception):
    pass


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("extra", [{}, {"modules": True, "operators": True}, {"peak": "measured"}])
def test_a_loop_ends_in_the_same_weights_and_the_same_random_state(accumulate, extra):
    one, two = tiny_gpt(), tiny_gpt()
    torch.manual_seed(3)
    train(one, tiny_batches(60), None, accumulate=accumulate)
    state = torch.random.get_rng_state()
    torch.manual_seed(3)
    with make_meter(two, **extra) as meter:
        train(two, tiny_batches(60), meter, accumulate=accumulate)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert list(one.state_dict()) == list(two.state_dict())
    assert all(torch.equal(one.state_dict()[name], value) for name, value in two.state_dict().items())
    assert meter.summary.steps > 0


@pytest.mark.parametrize("where", ["before", "forward", "backward", "optimizer"])
@pytest.mark.parametrize("extra", [{}, {"modules": True, "operators": True}])
@pytest.mark.parametrize("number", [0, 2, 4])
def test_an_exception_leaves_nothing_behind_and_the_loop_may_go_on(where, extra, number):
    model = tiny_gpt()
    before = own_traces(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def raises(*_):
        raise RaisedError

    meter = make_meter(model, **extra)
    for index, batch in enumerate(meter.fetch(tiny_batches(9))):
        is_it = index == number
        try:
            with meter.step(batch):
                if where == "before" and is_it:
                    raises()
                hook = model.head.register_forward_hook(raises) if where == "forward" and is_it else None
                try:
                    loss = loss_of(model, batch)
                finally:
                    if hook is not None:
                        hook.remove()
                if where == "backward" and is_it:
                    loss.register_hook(raises)
                loss.backward()
                if where == "optimizer" and is_it:
                    raises()
                optimizer.step()
                optimizer.zero_grad()
        except RaisedError:
            assert is_it
        assert own_traces(model) == before
    assert meter.close().flops.forward == TINY_FLOPS
    assert meter.summary.steps >= (1 if extra else 6)
    assert own_traces(model) == before


def test_an_exception_through_the_meter_leaves_the_figures_so_far():
    model = tiny_gpt()

    def stop(number):
        if number == 6:
            raise RaisedError

    meter = make_meter(model)
    with pytest.raises(RaisedError), meter:
        train(model, tiny_batches(12), meter, after_step=stop)
    assert meter.summary.steps == 6
    with pytest.raises(RuntimeError, match="was closed"):
        meter.values()


@pytest.mark.parametrize("how", ["module", "in place", "function"])
def test_compiled_code_is_counted_and_compiled_as_without_the_meter(how):
    from torch._dynamo.utils import counters

    def run(measured):
        torch._dynamo.reset()
        counters.clear()
        model = tiny_gpt().train()
        called = model
        if how == "in place":
            model.compile(backend="aot_eager")
        else:
            called = torch.compile(model if how == "module" else lambda tokens: model(tokens), backend="aot_eager")
        meter = make_meter(called if how == "module" else model) if measured else None
        train_called(called, model, meter)
        return model, copy.deepcopy(dict(counters["stats"])), meter

    def train_called(called, model, meter):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in tiny_batches(8):
            with meter.step(batch) if meter else torch.enable_grad():
                loss_of(called, batch).backward()
                optimizer.step()
                optimizer.zero_grad()

    one, compiled, _ = run(measured=False)
    two, again, meter = run(measured=True)
    assert again == compiled
    assert all(torch.equal(one.state_dict()[name], value) for name, value in two.state_dict().items())
    assert meter.close().flops.forward == TINY_FLOPS


def test_a_backward_in_another_thread_is_not_this_loops():
    model, other = tiny_gpt(), nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with make_meter(model) as meter:
        for batch in tiny_batches(6):
            with meter.step(batch):
                loss = loss_of(model, batch)
                thread = threading.Thread(target=lambda: other(torch.ones(1, 4)).sum().backward())
                thread.start()
                thread.join()
                loss.backward()
                optimizer.step()
    assert meter.summary.steps == 5
