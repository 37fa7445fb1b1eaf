"""Compiled code counts as the eager code does, forward and backward, and is compiled as it would be without us."""

import collections
import contextlib
import random
import warnings

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.checkpoint import checkpoint

from mfu_callback import FlopCounter
from mfu_callback.flops.operator_mode import mode_off
from mfu_callback.flops.replay import Replay

WIDTH, ROWS = 32, 64
pytestmark = [
    # Dynamo's, of the inputs that it is given, and inductor's, of what it imports.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning"),
]


class Network(nn.Module):
    """A network with a state that a second forward would move, attention, and dropout."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        x = F.dropout(F.relu(self.norm(self.first(x))), 0.1)
        heads = x.view(4, 16, 2, 16).transpose(1, 2)
        return self.last(F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).reshape(ROWS, WIDTH))


def by_function(network, backend):
    return torch.compile(lambda x: network(x), backend=backend)


def in_place(network, backend):
    network.compile(backend=backend)
    return network


def in_part(network, backend):
    network.last = torch.compile(network.last, backend=backend)
    return network


def with_a_break(network, backend):
    def broken(x):
        x = network.first(x)
        torch._dynamo.graph_break()
        return network(x)

    return torch.compile(broken, backend=backend)


def checkpointed(network, backend):
    layers = nn.Sequential(network.first, nn.ReLU(), network.last)
    return torch.compile(lambda x: checkpoint(layers, x, use_reentrant=False), backend=backend)


WAYS = {
    "wrapped": lambda network, backend: torch.compile(network, backend=backend),
    "in place": in_place,
    "in part": in_part,
    "a function": by_function,
    "with a graph break": with_a_break,
    "checkpointed": checkpointed,
}


def train(way, backend, *, counted, eager=False):
    """Train three steps; returns what was compiled, what came out, and the count of the first step."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    network = Network()
    step = WAYS[way](network, backend)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    counter = FlopCounter(network)
    with torch.compiler.set_stance("force_eager" if eager else "default"):
        for index in range(3):
            x = torch.randn(ROWS, WIDTH)
            context = counter if counted and index == 0 else torch.enable_grad()
            with context:
                step(x).square().mean().backward()
                optimizer.step()
            optimizer.zero_grad()
    ends_with = [tensor.tolist() for tensor in network.state_dict().values()]
    return dict(counters["stats"]), (ends_with, network.calls, torch.get_rng_state().tolist()), counter.result()


@pytest.mark.parametrize(
    ("way", "backend"), [*((way, "aot_eager") for way in WAYS), ("wrapped", "eager"), ("wrapped", "inductor")]
)
def test_compiled_code_counts_like_eager_code_and_is_left_alone(way, backend):
    plain_graphs, plain_end, _ = train(way, backend, counted=False)
    graphs, end, count = train(way, backend, counted=True)
    assert graphs == plain_graphs
    assert graphs["unique_graphs"] >= 1
    assert end == plain_end
    eager = train(way, backend, counted=True, eager=True)[2]
    assert (count.forward, count.thop, count.backward) == (eager.forward, eager.thop, eager.backward)
    assert count.recomputed == eager.recomputed
    assert count.complete
    assert sum(count.per_module.values()) == count.forward


def test_a_compiled_function_that_cannot_be_replayed_is_named():
    def reads_a_value(x):
        return x @ x if x.sum().item() > 0 else x

    torch._dynamo.reset()
    with FlopCounter(nn.Identity()) as counter:
        torch.compile(reads_a_value, backend="eager")(torch.ones(3, 3))
    (name,) = counter.result().uncounted
    assert "reads_a_value (compiled; DataDependentOutputException" in name


def test_compiled_flex_attention():
    torch._dynamo.reset()
    q = torch.randn(1, 2, 128, 16)
    with FlopCounter(nn.Identity()) as counter, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inductor's of this processor
        out = torch.compile(flex_attention)(q, q, q)
    assert counter.result().forward == 4 * 2 * 128 * 128 * 16
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, q, q))


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
    with FlopCounter(GLOBAL) as counter, mode_off(counter._mode):
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
    class Uncopyable(nn.Linear):
        def __deepcopy__(self, memo):
            raise NotImplementedError("sharded modules cannot be copied")

    torch._dynamo.reset()
    module = Uncopyable(4, 4)
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


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpoint_around_compiled_code(use_reentrant):
    def run(*, compiled):
        torch._dynamo.reset()
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())
        function = torch.compile(layers, backend="aot_eager") if compiled else layers
        with FlopCounter(layers) as counter:
            x = torch.randn(ROWS, WIDTH, requires_grad=True)
            checkpoint(function, x, use_reentrant=use_reentrant).sum().backward()
        return counter.result(), layers[0].weight.grad

    (count, gradient), (eager, eager_gradient) = run(compiled=True), run(compiled=False)
    torch.testing.assert_close(gradient, eager_gradient)
    assert (count.forward, count.backward, count.recomputed) == (eager.forward, eager.backward, eager.recomputed)
    assert count.complete


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
