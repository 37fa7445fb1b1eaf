"""Formulas from elsewhere: the user's, and those that libraries put into torch's own registry."""

import contextlib

import pytest
import torch
from torch import nn
from torch.utils import flop_counter

from mfu_callback import FlopCounter, count_flops, register_flop_formula
from mfu_callback.flops.table import shares_of_rules

X = torch.randn(3, 5, 7)
LINEAR = 2 * 15 * 7 * 7
REGISTERED, TORCHS = "register_flop_formula", "torch.utils.flop_counter"


@pytest.fixture
def mix():
    """An operator of a library that torch does not know, whose gradient another of its operators computes."""
    with torch.library._scoped_library("mixing", "FRAGMENT") as library:
        library.define("mix(Tensor x, int times=1) -> Tensor")
        library.define("mix_backward(Tensor g, int times) -> Tensor")
        library.impl("mix", lambda x, times=1: x * times, "CompositeExplicitAutograd")
        library.impl("mix_backward", lambda g, times: g * times, "CompositeExplicitAutograd")

        def setup(ctx, inputs, output):
            ctx.times = inputs[1]

        torch.library.register_autograd(
            "mixing::mix",
            lambda ctx, g: (torch.ops.mixing.mix_backward(g, ctx.times), None),
            setup_context=setup,
            lib=library,
        )
        yield torch.ops.mixing


def counted(module, *inputs, backward=True, **options):
    with FlopCounter(module, **options) as counter:
        out = module(*inputs)
        if backward:
            out.sum().backward()
    return counter.result()


class Mixes(nn.Module):
    """A linear layer, then the unknown operator."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(7, 7)

    def forward(self, x):
        return torch.ops.mixing.mix(self.linear(x), 3)


def test_without_a_formula_the_operator_is_named_in_both_passes(mix):
    assert counted(Mixes(), X).uncounted == ("mixing::mix", "mixing::mix_backward")


@pytest.mark.parametrize("target", ["packet", "overload"])
def test_an_operator_counts_by_its_formula_and_so_do_its_gradients(mix, registered, target):
    target = mix.mix if target == "packet" else mix.mix.default
    registered(
        target, forward=lambda x, times: 10 * times * x.numel(), backward=lambda x, times, out: 7 * times * out.numel()
    )
    count = counted(Mixes(), X)
    assert (count.uncounted, count.notes, count.complete) == ((), (), True)
    assert count.forward == LINEAR + 30 * X.numel()
    assert count.backward == LINEAR + 21 * X.numel()  # the input needs no gradient
    assert count.per_rule == {"thop: Linear": LINEAR, f"{REGISTERED}: mixing::mix": 30 * X.numel()}
    assert count.rules_of == {"linear": ("thop: Linear",), "": (f"{REGISTERED}: mixing::mix",)}
    assert count.per_operator["mixing::mix"].rule == REGISTERED
    assert count.per_operator["mixing::mix"].backward == 21 * X.numel()
    assert f"{REGISTERED}: mixing::mix" in str(count)


def test_gradients_that_never_run_do_not_count_and_those_that_run_twice_count_twice(mix, registered):
    registered(mix.mix, forward=lambda x, times: 0, backward=lambda x, times: 100)
    model, weight = Mixes(), torch.randn(7, 7, requires_grad=True)
    with FlopCounter(model) as counter:
        with torch.no_grad():
            model(X)  # a teacher
        loss = torch.ops.mixing.mix(X @ weight, 1).sum()
        torch.ops.mixing.mix(X @ weight, 1)  # not part of the loss
        loss.backward(retain_graph=True)
        loss.backward()
    assert counter.result().backward == 2 * (LINEAR + 100)


def test_a_formula_for_the_forward_alone_leaves_the_gradients_to_their_own_rules(mix, registered):
    registered(mix.mix, forward=lambda x, times: 5)
    count = counted(Mixes(), X)
    assert (count.forward, count.uncounted) == (LINEAR + 5, ("mixing::mix_backward",))


def test_the_last_registration_counts_until_it_is_removed(mix, registered):
    registered(mix.mix, forward=lambda x, times: 5)
    handle = registered(mix.mix, forward=lambda x, times: 6)
    assert count_flops(Mixes(), X).forward == LINEAR + 6
    handle.remove()
    assert count_flops(Mixes(), X).uncounted == ("mixing::mix",)


def test_a_registered_formula_goes_before_the_rule_of_this_package(registered):
    registered(torch.ops.aten.mm, forward=lambda left, right: 1)
    assert count_flops(nn.Identity(), X[0]).forward == 0
    with FlopCounter(nn.Identity()) as counter:
        X[0] @ torch.ones(7, 2)
    assert counter.result().per_rule == {f"{REGISTERED}: aten::mm": 1}


def test_what_a_library_has_put_into_torchs_registry_counts_without_a_word(mix, monkeypatch):
    def of_shapes(x, times, out_shape=None, **kwargs):
        assert tuple(out_shape) == tuple(x) == X.shape
        return 1000 * times

    monkeypatch.setitem(flop_counter.flop_registry, mix.mix, flop_counter.shape_wrapper(of_shapes))
    monkeypatch.setitem(flop_counter.flop_registry, mix.mix_backward, lambda g, times, out_val: 2000 * times)
    count = counted(Mixes(), X)
    assert (count.forward, count.backward, count.complete) == (LINEAR + 3000, LINEAR + 6000, True)
    assert count.per_rule[f"{TORCHS}: mixing::mix"] == 3000


def test_a_convention_that_a_formula_cannot_know_is_said(mix, monkeypatch):
    monkeypatch.setitem(flop_counter.flop_registry, mix.mix, lambda x, times, out_val: 1)
    count = counted(Mixes(), X, backward=False, attention="causal")
    assert count.notes == (f"mixing::mix is counted by its formula in {TORCHS}, whatever attention= says",)


@pytest.mark.parametrize(
    ("formula", "reason"),
    [
        (lambda x, times: 1 / 0, "its formula in register_flop_formula: ZeroDivisionError: division by zero"),
        (lambda x: 1, "its formula in register_flop_formula: TypeError"),
        (lambda x, times: "many", "its formula in register_flop_formula: ValueError"),
        (lambda x, times: -1, "its formula in register_flop_formula returned -1"),
    ],
)
def test_a_formula_that_fails_is_named_with_its_reason_and_the_forward_goes_on(mix, registered, formula, reason):
    registered(mix.mix, forward=formula)
    count = counted(Mixes(), X, backward=False)
    assert (count.forward, count.rule_errors) == (LINEAR, ())
    assert count.uncounted[0].startswith(f"mixing::mix ({reason}")


def test_a_custom_operator_of_python_is_a_target(registered):
    @torch.library.custom_op("mixing_in_python::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    twice.register_autograd(lambda ctx, g: 2 * (g @ torch.eye(7)))
    registered(twice, forward=lambda x: 11, backward=lambda x: 22)
    x = X.clone().requires_grad_()
    with FlopCounter(nn.Identity()) as counter:
        twice(x).sum().backward()
    count = counter.result()
    assert (count.forward, count.backward, count.complete) == (11, 22, True)  # not the matmul in its backward


class Scaled(torch.autograd.Function):
    """Multiplies by a matrix, twice more than its formula says."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight @ weight @ weight

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad @ weight.T, x.flatten(0, 1).T @ grad.flatten(0, 1)


def test_a_function_counts_by_its_formula_in_place_of_its_operators(registered):
    weight = torch.randn(7, 7, requires_grad=True)

    def run():
        with FlopCounter(nn.Identity()) as counter:
            (Scaled.apply(X.clone().requires_grad_(), weight) @ torch.ones(7, 1)).sum().backward()
        return counter.result()

    ours = run()
    assert (ours.forward, ours.backward) == (3 * LINEAR + LINEAR // 7, 2 * LINEAR + LINEAR // 7)
    registered(Scaled, forward=lambda x, w: 2 * x.numel() * w.shape[1], backward=lambda x, w, out: 5 * out.numel())
    count = run()
    assert (count.forward, count.backward) == (LINEAR + LINEAR // 7, 5 * X.numel() + LINEAR // 7)
    assert count.per_rule[f"{REGISTERED}: Scaled"] == LINEAR


class Doubled(nn.Module):
    """Two linear layers of which only one is to be counted."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(7, 7), nn.Linear(7, 7)

    def forward(self, x, *, shift=0.0):
        return self.second(self.first(x)) + shift


class Tripled(Doubled):
    """A subclass, which its base's formula counts."""


@pytest.mark.parametrize("counter", ["thop", "dispatch"])
@pytest.mark.parametrize("kind", [Doubled, Tripled])
def test_a_module_counts_by_its_formula_in_place_of_what_runs_inside(registered, kind, counter):
    registered(
        Doubled,
        forward=lambda module, x, shift: 2 * x.numel() * module.first.out_features,
        backward=lambda module, x, shift: 3,
    )
    model = nn.Sequential(nn.Linear(7, 7), kind(), nn.Linear(7, 1))
    model[1].register_forward_pre_hook(lambda m, args, kwargs: (args, {"shift": 1.0}), with_kwargs=True)
    count = counted(model, X, counter=counter)
    assert count.forward == 2 * LINEAR + LINEAR // 7
    assert count.backward == LINEAR + 3 + 2 * LINEAR // 7
    assert count.per_module == {"0": LINEAR, "1": LINEAR, "2": LINEAR // 7}
    assert count.rules_of["1"] == (f"{REGISTERED}: {kind.__name__}",)
    assert count.complete


def test_a_checkpoint_counts_a_registered_module_once_and_its_second_run_as_recomputed(registered):
    registered(Doubled, forward=lambda module, x: 100, backward=lambda module, x: 200)
    model = nn.ModuleList([nn.Linear(7, 7), Doubled()])
    for reentrant in (False, True):
        with FlopCounter(model) as counter:
            out = torch.utils.checkpoint.checkpoint(model[1], model[0](X), use_reentrant=reentrant)
            out.sum().backward()
        count = counter.result()
        assert (count.forward, count.backward, count.recomputed) == (LINEAR + 100, LINEAR + 200, 100)


def test_compiled_code_counts_by_formulas_too(registered):
    registered(Doubled, forward=lambda module, x: 100, backward=lambda module, x: 200)
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(7, 7), Doubled())
    compiled = torch.compile(model, backend="aot_eager")
    count = counted(compiled, X)
    assert (count.forward, count.backward, count.complete) == (LINEAR + 100, LINEAR + 200, True)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (torch.ops.aten.matmul, "aten.matmul runs as other operators"),
        (torch.matmul, "cannot have a FLOP formula. Give an operator"),
        ("aten::mm", "cannot have a FLOP formula. Give an operator"),
        (nn.Linear(7, 7), "cannot have a FLOP formula"),
        (dict, "cannot have a FLOP formula"),
    ],
)
def test_what_cannot_have_a_formula_is_refused_in_words(target, error):
    with pytest.raises((TypeError, ValueError), match=error):
        register_flop_formula(target, forward=lambda *args: 0)


def test_what_is_no_formula_is_refused_in_words(mix):
    with pytest.raises(TypeError, match=r"forward=12 cannot be called\. Give a function of the call's arguments"):
        register_flop_formula(mix.mix, forward=12)
    with pytest.raises(TypeError, match="backward=12 cannot be called"):
        register_flop_formula(mix.mix, forward=lambda x: 1, backward=12)


def test_nothing_is_left_on_torchs_classes():
    classes = torch.autograd.Function, torch.autograd.function._SingleLevelFunction
    before = [dict(vars(one)) for one in classes]
    with contextlib.suppress(ArithmeticError), FlopCounter(nn.Identity()):
        with FlopCounter(nn.Identity()):
            assert [dict(vars(one)) for one in classes] != before
        assert [dict(vars(one)) for one in classes] != before
        raise ArithmeticError
    assert [dict(vars(one)) for one in classes] == before


scaled_once_bound = Scaled.apply  # as libraries name the functions that they offer


@pytest.mark.skipif(
    not isinstance(vars(torch.autograd.Function)["apply"], classmethod),
    reason="from torch 2.14 on Function.apply is written in C, and a name that was bound to it is not seen",
)
def test_a_function_that_was_bound_before_counts_by_its_formula_too(registered):
    registered(Scaled, forward=lambda x, w: 10, backward=lambda x, w: 20)
    weight = torch.randn(7, 7, requires_grad=True)
    with FlopCounter(nn.Identity()) as counter:
        scaled_once_bound(X, weight).sum().backward()
    assert (counter.result().forward, counter.result().backward) == (10, 20)


def test_the_shares_of_the_rules_in_one_line():
    assert shares_of_rules({"mfu-callback: aten::bmm": 1, "thop: Linear": 3}) == "thop: Linear 75.0 %, aten::bmm 25.0 %"
    many = {f"mfu-callback: aten::op{place}": 1 for place in range(8)}
    assert shares_of_rules(many).endswith("aten::op5 12.5 % and 2 more")


def test_what_a_formula_computes_itself_is_not_the_models(registered):
    registered(Doubled, forward=lambda module, x: 10 * int((x @ torch.ones(7, 1)).numel()))
    assert count_flops(Doubled(), X).forward == 150


def test_a_kernel_that_an_operator_with_a_rule_launches_is_not_the_next_operators(mix, registered):
    """Kernels belong to the operator that launches them."""
    calls = FlopCounter(nn.Identity())._formulas
    calls._in_operator.append("a kernel")
    calls.forget()
    assert calls.count(None) is False


def test_the_handle_of_an_earlier_registration_leaves_the_later_one(mix, registered):
    first = registered(mix.mix, forward=lambda x, times: 5)
    registered(mix.mix, forward=lambda x, times: 6)
    first.remove()
    assert count_flops(Mixes(), X).forward == LINEAR + 6


class ReturnsNothing(nn.Module):
    """Keeps its result."""

    def forward(self, x):
        self.kept = x @ torch.ones(7, 7)


def test_a_module_that_returns_nothing_counts_by_its_formula_too(registered):
    registered(ReturnsNothing, forward=lambda module, x: 12)
    assert count_flops(ReturnsNothing(), X).forward == 12


def test_a_module_that_raises_does_not_count(registered):
    registered(Doubled, forward=lambda module, x: 12)
    model = Doubled()
    with FlopCounter(model) as counter, contextlib.suppress(RuntimeError):
        model(torch.ones(3))
    assert (counter.result().forward, counter.result().left_out) == (0, ())
