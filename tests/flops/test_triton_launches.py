"""Launches of Triton kernels: with Triton's interpreter where it is installed, else with classes of its interface."""

import os
import sys
import types

import pytest
import torch
from torch import nn
from torch.utils import flop_counter

from mfu_callback import FlopCounter, register_flop_formula
from mfu_callback.flops import triton_launches

X = torch.ones(5)


class Launcher:
    """What the counter uses of a Triton kernel: its function, its arguments' names and `run`."""

    def __init__(self, fn, arg_names=("x", "out", "n", "block")):
        self.fn, self.arg_names = fn, arg_names

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.run(*args, grid=grid, warmup=False, **kwargs)

    def run(self, *args, grid, warmup, **kwargs):
        return None if warmup else self.fn(*args, **{k: v for k, v in kwargs.items() if k in self.arg_names})


class Autotuned(Launcher):
    """A kernel inside an autotuner, which launches it."""

    def __init__(self, fn):
        super().__init__(fn, fn.arg_names)

    def run(self, *args, grid, warmup, **kwargs):
        return self.fn.run(*args, grid=grid, warmup=warmup, **{"num_warps": 4} | kwargs)


Launcher.__module__ = Autotuned.__module__ = "triton.runtime.jit"


@pytest.fixture(params=["interface", "interpreter"])
def scale(request, monkeypatch):
    """A kernel that doubles n numbers."""
    if request.param == "interface":
        monkeypatch.setitem(sys.modules, "triton.runtime.jit", types.SimpleNamespace(JITFunction=Launcher))

        def scale(x, out, n, block):
            out.numpy()[:] = 2 * x.numpy()

        return Launcher(scale)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    triton = pytest.importorskip("triton")
    tl = pytest.importorskip("triton.language")
    if not hasattr(pytest.importorskip("triton.runtime.interpreter").InterpretedFunction, "run"):
        pytest.skip("the launches of this Triton's interpreter cannot be watched")
    monkeypatch.setitem(globals(), "tl", tl)

    @triton.jit
    def scale(x, out, n, block: tl.constexpr):
        place = tl.program_id(0) * block + tl.arange(0, block)
        inside = place < n
        tl.store(out + place, 2 * tl.load(x + place, mask=inside), mask=inside)

    return scale


def launched(kernel, make=torch.empty_like, **options):
    with FlopCounter(nn.Identity(), **options) as counter:
        out = make(X)
        kernel[(1,)](X, out, X.numel(), block=8, num_warps=1)
        out = out.relu()
    assert torch.equal(out, 2 * X)
    return counter.result()


@pytest.mark.parametrize("make", [torch.empty_like, torch.zeros_like, torch.clone])
def test_a_kernel_without_a_formula_is_named_once(scale, make):
    assert launched(scale, make).uncounted == ("scale (a Triton kernel)",)


def test_a_kernel_counts_by_its_registered_formula(scale, registered):
    registered(scale, forward=lambda x, out, n, block, grid: 100 * n * grid[0] + block)
    count = launched(scale)
    assert (count.forward, count.complete) == (508, True)
    assert count.per_rule == {"register_flop_formula: scale": 508}


def test_a_kernel_counts_by_torchs_registry(scale, monkeypatch):
    def formula(kernel_idx, constant_args_idx, grid, tma_descriptor_metadata, kwargs, out_val):
        return kwargs["n"] * kwargs["block"]

    monkeypatch.setitem(flop_counter.flop_registry, scale, formula)
    assert launched(scale).per_rule == {"torch.utils.flop_counter: scale": 40}


def test_a_kernel_has_no_backward_of_its_own(scale):
    with pytest.raises(ValueError, match=r"A Triton kernel has no backward\. Register the kernel that computes"):
        register_flop_formula(scale, forward=lambda **_: 0, backward=lambda **_: 0)


def test_a_kernel_inside_an_autotuner_is_launched_once_under_its_own_name(monkeypatch, registered):
    monkeypatch.setitem(sys.modules, "triton.runtime.jit", types.SimpleNamespace(JITFunction=Launcher))

    def scale(x, out, n, block):
        out.numpy()[:] = 2 * x.numpy()

    tuned = Autotuned(Launcher(scale))
    assert launched(tuned).uncounted == ("scale (a Triton kernel)",)
    registered(tuned, forward=lambda x, out, n, block, grid: n)
    assert launched(tuned).per_rule == {"register_flop_formula: scale": 5}


class Doubles(torch.autograd.Function):
    """Launches a kernel in both passes."""

    @staticmethod
    def forward(ctx, x, kernel):
        ctx.kernel, out = kernel, torch.empty_like(x)
        kernel[(1,)](x, out, x.numel(), block=8)
        return out

    @staticmethod
    def backward(ctx, grad):
        out = torch.empty_like(grad)
        ctx.kernel[(1,)](grad.contiguous(), out, grad.numel(), block=8)
        return out, None


def test_in_a_function_the_kernel_is_named_and_with_a_formula_each_pass_counts(scale, registered):
    def run():
        with FlopCounter(nn.Identity()) as counter:
            Doubles.apply(X.clone().requires_grad_(), scale).sum().backward()
        return counter.result()

    assert run().uncounted == ("scale (a Triton kernel)",)
    registered(scale, forward=lambda x, out, n, block, grid: 7)
    count = run()
    assert (count.forward, count.backward, count.complete) == (7, 7, True)


def test_a_kernel_that_an_operator_launches_counts_in_the_operators_place(scale, registered):
    with torch.library._scoped_library("launching", "FRAGMENT") as library:
        library.define("double(Tensor x) -> Tensor")

        def double(x):
            out = torch.empty_like(x)
            scale[(1,)](x, out, x.numel(), block=8)
            return out

        library.impl("double", double, "CompositeExplicitAutograd")

        def run():
            with FlopCounter(nn.Identity()) as counter:
                torch.ops.launching.double(X).relu()
            return counter.result()

        assert run().uncounted == ("launching::double",)
        registered(scale, forward=lambda x, out, n, block, grid: 7)
        count = run()
        assert (count.forward, count.complete) == (7, True)


def test_nothing_is_left_on_tritons_classes(monkeypatch):
    before = Launcher.run
    monkeypatch.setitem(sys.modules, "triton.runtime.jit", types.SimpleNamespace(JITFunction=Launcher))
    with FlopCounter(nn.Identity()):
        assert Launcher.run is not before
    assert Launcher.run is before
    assert triton_launches.__doc__
    assert "TRITON_INTERPRET" not in os.environ
