"""Compiled code counts as the eager code does, forward and backward, and is compiled as it would be without us."""

import contextlib
import warnings

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

from mfu_callback import FlopCounter
from mfu_callback.flops.compiled import compiled_calls_watched
from mfu_callback.tools.dynamo import SWITCH, uncompiled
from tests.helpers.contexts import skip_what_torch_lacks
from tests.helpers.torch_features import needs

WIDTH, ROWS = 32, 64
pytestmark = [
    pytest.mark.filterwarnings("ignore:Skipping serialization of skipfiles_inline_module_allowlist:UserWarning"),
    # Dynamo's, of the inputs that it is given, and inductor's, of what it imports.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning"),
]
# Without it, torch runs the hooks of a checkpoint around compiled code while it traces the code, and raises, also
# without a counter.
hooks_rest_while_tracing = needs("torch._C._autograd._saved_tensors_hooks_set_tracing", "2.5")


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
    for index in range(3):
        x = torch.randn(ROWS, WIDTH)
        context = counter if counted and index == 0 else torch.enable_grad()
        # Inside of the count, which sees a compiled call as such before an older torch holds it off.
        with context, uncompiled() if eager else contextlib.nullcontext():
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


@needs("torch.nn.attention.flex_attention", "2.5")
def test_compiled_flex_attention():
    from torch.nn.attention.flex_attention import flex_attention

    torch._dynamo.reset()
    q, k, v = torch.randn(3, 1, 2, 128, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inductor's of this processor
        skip_what_torch_lacks(torch.compile(flex_attention), q, k, v)
        torch._dynamo.reset()
        with FlopCounter(nn.Identity()) as counter:
            out = torch.compile(flex_attention)(q, k, v)
    assert counter.result().forward == 4 * 2 * 128 * 128 * 16
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("use_reentrant", [True, pytest.param(False, marks=hooks_rest_while_tracing)])
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


def test_a_count_does_not_stop_compiled_code_that_keeps_the_random_state_for_a_recomputation():
    def attend(x):
        heads = x.view(4, 16, 2, 16).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads, is_causal=True).transpose(1, 2).reshape(ROWS, WIDTH)

    torch._dynamo.reset()
    layer = nn.Linear(WIDTH, WIDTH)
    function = torch.compile(
        lambda x: checkpoint(lambda y: attend(layer(y)), x, use_reentrant=False), backend="aot_eager"
    )
    with FlopCounter(layer) as counter:
        function(torch.randn(ROWS, WIDTH)).square().mean().backward()
    count = counter.result()
    assert count.complete
    assert count.forward == 2 * ROWS * WIDTH**2 + 4 * 4 * 2 * 16 * 16 * 16


def test_counters_that_end_in_the_order_in_which_they_began_leave_nothing_behind():
    before = getattr(torch._dynamo.eval_frame, SWITCH)
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    for stack in (first, second):
        stack.enter_context(compiled_calls_watched(lambda *_: None, lambda: None))
    first.close()
    assert getattr(torch._dynamo.eval_frame, SWITCH) is not before
    second.close()
    assert getattr(torch._dynamo.eval_frame, SWITCH) is before


@pytest.mark.parametrize("way", [in_place, in_part, by_function])
def test_a_counter_inside_another_counts_the_same(way):
    def counts(counters):
        torch._dynamo.reset()
        torch.manual_seed(0)
        network = Network()
        function = way(network, "aot_eager")
        with contextlib.ExitStack() as stack:
            entered = [stack.enter_context(FlopCounter(network)) for _ in range(counters)]
            function(torch.randn(ROWS, WIDTH)).square().mean().backward()
        assert network.calls == 1
        return [counter.result() for counter in entered], network.first.weight.grad

    ((alone,), gradient), (both, gradient_of_both) = counts(1), counts(2)
    assert both == [alone, alone]
    assert alone.complete
    assert torch.equal(gradient, gradient_of_both)
