import contextlib
import copy

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from gpt import GPT, SIZES
from mfu_callback import FlopCount, count_flops
from mfu_callback.flops import FlopCounter


def gpt_flops(*, width, layers, vocabulary, batch, length):
    """Closed form: the blocks' projections, the full attention square, and the head."""
    return batch * (layers * (24 * length * width**2 + 4 * length**2 * width) + 2 * length * width * vocabulary)


@pytest.mark.parametrize(
    ("size", "thop_prints", "complete"),
    [
        ("gpt-small", "5.1e+11", 5.8330e11),
        ("gpt-medium", "1.4e+12", 1.6539e12),
        ("gpt-large", "3.2e+12", 3.5491e12),
        ("gpt-xl", "6.4e+12", 7.0134e12),
    ],
)
def test_the_four_sizes_on_the_meta_device(size, thop_prints, complete):
    config = SIZES[size]
    with torch.device("meta"):
        model, tokens = GPT(config), torch.zeros(2, 1024, dtype=torch.long)
    count = count_flops(model, tokens)
    closed_form = gpt_flops(width=config.n_embd, layers=config.n_layer, vocabulary=50257, batch=2, length=1024)
    assert count.forward == closed_form
    assert count.forward == pytest.approx(complete, rel=1e-4)
    assert f"{count.thop:.1e}" == thop_prints
    assert count.complete


@pytest.mark.filterwarnings("ignore:distutils Version classes are deprecated:DeprecationWarning")
def test_the_thop_part_is_what_thop_says_of_a_model_that_it_sees_whole():
    import thop

    model = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.Flatten(), nn.Linear(8 * 36, 5))
    images = torch.randn(4, 3, 8, 8)
    macs, _ = thop.profile(copy.deepcopy(model), (images,), verbose=False)
    count = count_flops(model, images)
    assert count == FlopCount(forward=int(2 * macs), thop=int(2 * macs), functional=0)


class Functional(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


Q, KV = torch.randn(2, 4, 16, 8), torch.randn(2, 2, 16, 8)
A, B, V = torch.randn(3, 5, 7), torch.randn(3, 7, 2), torch.randn(7)


@pytest.mark.parametrize(
    ("function", "tensors", "flops"),
    [
        (lambda a, b: a @ b, (A, B), 2 * 3 * 5 * 7 * 2),
        (lambda a, b: torch.einsum("bik,bkj->bij", a, b), (A, B), 2 * 3 * 5 * 7 * 2),
        (lambda a, v: a[0] @ v, (A, V), 2 * 5 * 7),
        (lambda v: v @ v, (V,), 2 * 7),
        (lambda a, w: F.linear(a, w), (A, torch.randn(4, 7)), 2 * 3 * 5 * 7 * 4),
        (lambda a, b: torch.addbmm(torch.zeros(5, 2), a, b), (A, B), 2 * 3 * 5 * 7 * 2),
        (lambda a, b: torch.baddbmm(torch.zeros(3, 5, 2), a, b), (A, B), 2 * 3 * 5 * 7 * 2),
        (lambda a, v: torch.addmv(torch.zeros(5), a[0], v), (A, V), 2 * 5 * 7),
        (lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), (Q,), 4 * 2 * 4 * 16 * 16 * 8),
        (lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True), (Q, KV), 4 * 2 * 4 * 16 * 16 * 8),
        (lambda a, b: a @ b, (A.to(torch.complex64), B.to(torch.complex64)), 8 * 3 * 5 * 7 * 2),
        (
            lambda x, w: F.conv2d(x, w, groups=2),
            (torch.randn(2, 4, 6, 6), torch.randn(8, 2, 3, 3)),
            2 * 2 * 8 * 16 * 18,
        ),
        (lambda a: a.relu().softmax(-1) + a.sum(), (A,), 0),
    ],
)
def test_operators_outside_of_modules(function, tensors, flops):
    assert count_flops(Functional(function), *tensors) == FlopCount(forward=flops, thop=0, functional=flops)
    with torch.inference_mode():
        assert count_flops(Functional(function), *tensors).forward == flops


def recurrent(gates, size, hidden, steps):
    return 2 * steps * gates * hidden * (size + hidden)


PACKED = nn.utils.rnn.pack_padded_sequence(torch.randn(10, 3, 8), [10, 4, 1])


@pytest.mark.parametrize(
    ("module", "inputs", "thop_part", "flops"),
    [
        (nn.Linear(7, 4), A, 2 * 15 * 28, 2 * 15 * 28),
        (nn.Conv1d(4, 6, 3, stride=2), torch.randn(2, 4, 9), 2 * 2 * 6 * 4 * 12, 2 * 2 * 6 * 4 * 12),
        (nn.ConvTranspose2d(4, 8, 3, stride=2, groups=2), torch.randn(2, 4, 5, 5), 0, 2 * 200 * 4 * 9),
        (nn.LSTM(8, 48), torch.randn(10, 3, 8), 0, recurrent(4, 8, 48, 30)),
        (nn.GRU(8, 48, batch_first=True), torch.randn(3, 10, 8), 0, recurrent(3, 8, 48, 30)),
        (nn.RNN(8, 48), torch.randn(10, 8), 0, recurrent(1, 8, 48, 10)),
        (nn.LSTM(8, 48, 2, bidirectional=True), PACKED, 0, 2 * (recurrent(4, 8, 48, 15) + recurrent(4, 96, 48, 15))),
        (nn.LSTM(8, 48, proj_size=5), torch.randn(10, 3, 8), 0, 2 * 30 * (192 * (8 + 5) + 48 * 5)),
        (nn.Bilinear(3, 4, 5), (torch.randn(6, 3), torch.randn(6, 4)), 0, 2 * 6 * (60 + 20)),
    ],
)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
def test_modules_with_and_without_a_rule_of_thops(module, inputs, thop_part, flops):
    count = count_flops(module, *(inputs if type(inputs) is tuple else (inputs,)))
    assert (count.thop, count.forward, count.uncounted) == (thop_part, flops, ())


def test_a_subclass_of_linear_and_a_replaced_forward_are_counted_by_what_they_run():
    class LowRank(nn.Linear):
        def forward(self, x):
            return super().forward(x) + x @ torch.zeros(7, 2) @ torch.zeros(2, 4)

    assert count_flops(LowRank(7, 4), A).forward == 2 * 15 * (28 + 14 + 8)
    replaced = nn.Linear(7, 4)
    replaced.forward = lambda x: x @ torch.zeros(7, 1)
    assert count_flops(replaced, A).forward == 2 * 15 * 7


def test_a_module_called_twice_or_shared_is_counted_as_often_as_it_runs():
    shared = nn.Linear(7, 7)
    assert count_flops(nn.Sequential(shared, nn.Sequential(shared)), A).forward == 2 * 2 * 15 * 49


def test_what_a_users_hook_computes_is_counted_too():
    module = nn.Linear(7, 4)
    module.register_forward_hook(lambda module, args, out: out + args[0] @ torch.zeros(7, 4))
    assert count_flops(module, A) == FlopCount(forward=2 * 2 * 15 * 28, thop=2 * 15 * 28, functional=2 * 15 * 28)


def test_hugging_faces_gpt2_and_a_llama_with_grouped_queries():
    gpt2 = GPT2LMHeadModel(
        GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    )
    tokens = torch.randint(97, (2, 64))
    assert count_flops(gpt2, tokens).forward == gpt_flops(width=32, layers=2, vocabulary=97, batch=2, length=64)
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=97,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    block = 2 * 64 * (64 * 64 * 2 + 2 * 64 * 32) + 4 * 64 * 64 * 64 + 6 * 64 * 64 * 96
    assert count_flops(llama, tokens).forward == 2 * (2 * block + 2 * 64 * 64 * 97)


def test_compute_without_a_rule_is_named_and_the_count_is_not_complete():
    count = count_flops(Functional(lambda a: torch.cdist(a, a)), A)
    assert count.uncounted == ("aten::_cdist_forward",)
    assert not count.complete


def test_an_operator_of_an_unknown_library_is_named():
    with torch.library._scoped_library("attention_lab", "FRAGMENT") as library:
        library.define("mix(Tensor x) -> Tensor")
        library.impl("mix", lambda x: x * 2, "CompositeExplicitAutograd")
        count = count_flops(Functional(lambda a: torch.ops.attention_lab.mix(a)), A)
    assert count.uncounted == ("attention_lab::mix",)


class Odd(nn.Module):
    """All that a count could disturb: dropout, batch norm, a part in eval mode, a hook of the user's."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(7, 7), nn.BatchNorm1d(5), nn.Dropout(0.5))
        self.frozen = nn.Linear(7, 7).eval()
        self.body[0].register_forward_hook(lambda *_: None)

    def forward(self, x, fail=False):
        x = self.frozen(self.body(x))
        if fail:
            raise ArithmeticError("in the middle of forward")
        return x


def traces(module):
    return (
        {name: tensor.tolist() for name, tensor in module.state_dict().items()},
        [part.training for part in module.modules()],
        [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        [sorted(vars(part)) for part in module.modules()],
        torch.get_rng_state().tolist(),
        torch.utils._python_dispatch._get_current_dispatch_mode(),
    )


@pytest.mark.parametrize("fail", [False, True])
def test_counting_leaves_nothing_behind_also_when_the_forward_raises(fail):
    module = Odd()
    before = traces(module)
    if fail:
        with pytest.raises(ArithmeticError, match="in the middle of forward"):
            count_flops(module, A, fail=True)
    else:
        assert count_flops(module, A).forward == 2 * 2 * 15 * 49
    assert traces(module) == before


def test_a_backward_pass_inside_the_block_is_not_counted():
    module = nn.Linear(7, 4)
    with FlopCounter(module) as counter:
        (module(A) @ torch.zeros(4, 3)).sum().backward()
    assert counter.result().forward == 2 * 15 * (28 + 12)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_what_checkpointing_runs_a_second_time_is_not_counted(use_reentrant):
    module = nn.Sequential(nn.Linear(7, 7), Functional(lambda x: x @ torch.ones(7, 7)))
    with FlopCounter(module) as counter:
        out = torch.utils.checkpoint.checkpoint(module, A.clone().requires_grad_(), use_reentrant=use_reentrant)
        out.sum().backward()
    assert counter.result().forward == 2 * 2 * 15 * 49


def test_a_users_hook_that_fails_does_not_upset_the_count():
    module = nn.Linear(7, 4)

    def fail_once(module, args):
        handle.remove()
        raise ArithmeticError

    handle = module.register_forward_pre_hook(fail_once)
    with FlopCounter(module) as counter:
        with contextlib.suppress(ArithmeticError):
            module(A)
        module(A)
    assert counter.result().forward == 2 * 15 * 28


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.project, self.dropout = nn.Linear(32, 32), nn.Dropout(0.1)

    def forward(self, x):
        x = self.dropout(F.relu(self.project(x))).unflatten(-1, (4, 8)).transpose(1, 2)
        return F.scaled_dot_product_attention(x, x, x).transpose(1, 2).flatten(-2)


def compiled_model(how, backend):
    torch.manual_seed(0)
    model = nn.ModuleDict({"inner": Attention(), "head": nn.Linear(32, 5)})
    if how == "in place":
        model["inner"].compile(backend=backend)
    elif how == "wrapped":
        model["inner"] = torch.compile(model["inner"], backend=backend)
    return model


def train(how, *, counted):
    """Graphs that were compiled, the loss of three steps, and the count of the first."""
    torch._dynamo.reset()
    graphs = []
    model = compiled_model(how, lambda graph, _: graphs.append(graph) or graph.forward)
    losses, counter = [], FlopCounter(model)
    for step in range(3):
        torch.manual_seed(step)
        x = torch.randn(2, 8, 32)
        if counted and step == 0:
            with counter:
                out = model["head"](model["inner"](x))
        else:
            out = model["head"](model["inner"](x))
        out.sum().backward()
        losses.append(out.sum().item())
    return len(graphs), losses, counter.result()


@pytest.mark.parametrize("how", ["in place", "wrapped"])
def test_a_compiled_part_counts_like_the_eager_one_and_compiles_as_without_us(how):
    graphs, losses, _ = train(how, counted=False)
    graphs_counted, losses_counted, count = train(how, counted=True)
    assert (graphs_counted, losses_counted) == (graphs, losses)
    assert graphs == 1
    assert count == train("not compiled", counted=True)[2]
    assert count.forward == 2 * 16 * 32 * (32 + 5) + 4 * 2 * 4 * 8 * 8 * 8


def test_a_whole_compiled_module_counts_like_the_eager_one():
    torch._dynamo.reset()
    x = torch.randn(2, 8, 32)
    assert count_flops(torch.compile(Attention(), backend="eager"), x) == count_flops(Attention(), x)


def test_a_failing_rule_is_kept_and_the_forward_goes_on(monkeypatch):
    monkeypatch.setattr("mfu_callback.flops.counter.thop_macs", lambda *_: 1 / 0)
    module = nn.Linear(7, 4)
    with FlopCounter(module) as counter:
        out = module(A)
    assert out.shape == (3, 5, 4)
    with pytest.raises(RuntimeError, match="FLOPs could not be counted: division by zero"):
        counter.result()
