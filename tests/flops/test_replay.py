"""What compiled code refers to is the user's own and stays as it is while a copy of it is counted."""

import collections
import contextlib
import random

import pytest
import torch
import torch._dynamo
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from mfu_callback import FlopCounter
from mfu_callback.flops.operator_mode import modes_off
from mfu_callback.flops.replay import Replay
from tests.flops.test_compiled import (
    ROWS,
    WIDTH,
    Network,
    hooks_rest_while_tracing,
    pytestmark,  # noqa: F401 - the marks hold here too
    train,
)


def test_a_replay_holds_no_memory_and_leaves_the_module_alone():
    network = Network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    replay = Replay(network, network.forward, (torch.randn(ROWS, WIDTH),), {})
    copied = replay.modules[id(network)]
    assert all(isinstance(tensor, FakeTensor) for tensor in (*copied.parameters(), *copied.buffers()))
    replay.run(contextlib.nullcontext())
    assert (copied.calls, network.calls) == (1, 0)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


GLOBAL = Network()


def test_modules_found_among_globals_or_in_other_places_are_left_alone():
    stray = {"hidden": Network()}

    def forward(x):
        return GLOBAL(stray["hidden"](x))

    torch._dynamo.reset()
    modules = (GLOBAL, stray["hidden"])
    before = [[tensor.clone() for tensor in module.state_dict().values()] for module in modules]
    x = torch.randn(ROWS, WIDTH)
    replay = Replay(GLOBAL, forward, (x,), {})
    with FlopCounter(GLOBAL) as counter, modes_off():
        replay.run(counter._mode)
    count = counter.result()
    assert count.forward == 2 * train("wrapped", "eager", counted=True, eager=True)[2].forward
    for module, state in zip(modules, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), state, strict=True))
        assert not any(isinstance(tensor, FakeTensor) for tensor in module.state_dict().values())
        assert all(parameter.grad is None for parameter in module.parameters())


def test_a_backward_inside_compiled_code_leaves_real_gradients_alone():
    layer = {"hidden": nn.Linear(WIDTH, WIDTH)}
    layer["hidden"].weight.grad = gradient = torch.ones(WIDTH, WIDTH)

    def step(x):
        layer["hidden"](x).sum().backward()

    Replay(nn.Identity(), step, (torch.randn(ROWS, WIDTH),), {}).run(contextlib.nullcontext())
    assert layer["hidden"].weight.grad is gradient
    assert torch.equal(gradient, torch.ones(WIDTH, WIDTH))
    assert layer["hidden"].bias.grad is None


def test_a_large_state_outside_of_the_parameters_is_not_copied():
    network = Network()
    network.memory = collections.deque(torch.ones(10) for _ in range(3))
    copied = Replay(network, network.forward, (torch.randn(ROWS, WIDTH),), {}).modules[id(network)]
    assert all(isinstance(tensor, FakeTensor) for tensor in copied.memory)


def test_a_module_that_cannot_be_copied_is_named():
    class Uncopyable(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x)

        def __deepcopy__(self, memo):
            raise NotImplementedError("sharded modules cannot be copied")

    torch._dynamo.reset()
    module = Uncopyable()
    with FlopCounter(module) as counter:
        torch.compile(module, backend="eager")(torch.ones(3, 4))
    (name,) = counter.result().uncounted
    assert "sharded modules cannot be copied" in name


LOG, STRAY = [], nn.Linear(WIDTH, WIDTH)


class Cache:
    """An object of the user's that the compiled code changes."""

    def __init__(self):
        self.seen = []


def remembers_in_a_closure(network):
    features = []
    network.first.register_forward_hook(lambda module, args, out: features.append(out.detach()))
    return network, lambda: len(features)


def remembers_in_a_global(network):
    LOG.clear()

    def step(x):
        out = STRAY(network(x))
        LOG.append(out.shape)
        return out

    return step, lambda: len(LOG)


def remembers_in_an_argument(network):
    cache = Cache()

    def step(x, kept):
        kept.seen.append(x.shape)
        return network(x)

    compiled = torch.compile(step, backend="eager")
    return lambda x: compiled(x, cache), lambda: len(cache.seen), "compiled"


def draws_from_its_own_generator(network):
    generator = random.Random(0)

    @torch.compiler.disable
    def draw():
        return generator.random()

    return lambda x: network(x) * draw(), generator.getstate


@pytest.mark.parametrize(
    "remembers",
    [remembers_in_a_closure, remembers_in_a_global, remembers_in_an_argument, draws_from_its_own_generator],
)
def test_what_compiled_code_does_to_the_users_objects_it_does_once(remembers):
    def run(*, counted):
        torch._dynamo.reset()
        torch.manual_seed(0)
        network = Network()
        step, state, *already_compiled = remembers(network)
        step = step if already_compiled else torch.compile(step, backend="eager")
        counter = FlopCounter(network)
        with counter if counted else contextlib.nullcontext():
            out = step(torch.randn(ROWS, WIDTH))
            out.sum().backward()
        gradients = [parameter.grad for parameter in (*network.parameters(), *STRAY.parameters())]
        assert not any(isinstance(gradient, FakeTensor) for gradient in gradients)
        STRAY.zero_grad()
        return state(), out.sum().item(), counter.result()

    plain, counted = run(counted=False), run(counted=True)
    assert counted[:2] == plain[:2]
    assert counted[2].forward > 0


@hooks_rest_while_tracing
def test_a_users_hooks_for_saved_tensors_never_see_a_fake():
    packed = []
    torch._dynamo.reset()
    network = torch.compile(Network(), backend="aot_eager")
    with FlopCounter(network), torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
        network(torch.randn(ROWS, WIDTH)).sum().backward()
    assert packed
    assert not any(isinstance(tensor, FakeTensor) for tensor in packed)


def test_a_compiled_optimizer_keeps_its_state_real():
    def run(*, counted):
        torch._dynamo.reset()
        torch.manual_seed(0)
        layer = nn.Linear(WIDTH, WIDTH)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
        step = torch.compile(optimizer.step, backend="eager")
        counter = FlopCounter(layer)
        for index in range(2):
            with counter if counted and index == 0 else contextlib.nullcontext():
                layer(torch.randn(ROWS, WIDTH)).square().mean().backward()
                step()
                optimizer.zero_grad()
        states = [value for state in optimizer.state.values() for value in state.values()]
        assert not any(isinstance(value, FakeTensor) for value in states)
        return layer.weight.tolist(), counter.result()

    plain, counted = run(counted=False), run(counted=True)
    assert counted[0] == plain[0]
    assert (counted[1].forward, counted[1].uncounted) == (2 * ROWS * WIDTH**2, ())


def test_a_function_with_a_variable_not_yet_assigned_is_named_all_the_same():
    def make():
        def reads_a_value(x):
            return x @ x if x.sum().item() > 0 else later

        return reads_a_value
        later = None

    torch._dynamo.reset()
    function = make()
    counter = FlopCounter(nn.Identity())
    with counter:
        counter._regions._enter(function, (torch.ones(3, 3),), {})
        counter._regions._leave()
    (name,) = counter.result().uncounted
    assert "reads_a_value (compiled; DataDependentOutputException" in name
