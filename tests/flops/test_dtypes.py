"""FLOPs by the dtype that is multiplied."""

import pytest
import torch
from torch import nn

from mfu_callback import FlopCounter
from tests.helpers.torch_features import has_kernel

X = torch.randn(16, 32)
PRODUCT = 2 * 16 * 32 * 64


def counted(run, module=None, **options):
    with FlopCounter(module if module is not None else nn.Identity(), **options) as counter:
        out = run()
        if out.requires_grad:
            out.float().sum().backward()
    return counter.result()


class Mixed(nn.Module):
    """A layer in bfloat16, one in float32, and one under autocast."""

    def __init__(self):
        super().__init__()
        self.low, self.single = nn.Linear(32, 64, dtype=torch.bfloat16), nn.Linear(64, 8)
        self.cast = nn.Linear(8, 4)

    def forward(self, x):
        x = self.single(self.low(x.to(torch.bfloat16)).float())
        with torch.autocast("cpu", torch.float16):
            return self.cast(x)


@pytest.mark.parametrize("counter", ["thop", "dispatch"])
def test_each_operator_counts_under_the_dtype_in_which_it_multiplies(counter):
    model = Mixed()
    count = counted(lambda: model(X.clone().requires_grad_()), model, counter=counter)
    single, cast = 2 * 16 * 64 * 8, 2 * 16 * 8 * 4
    assert count.per_dtype == {"bfloat16": PRODUCT, "float32": single, "float16": cast}
    assert count.backward_per_dtype == {"bfloat16": 2 * PRODUCT, "float32": 2 * single, "float16": 2 * cast}
    assert sum(count.per_dtype.values()) == count.forward


multiplies_float8 = pytest.mark.skipif(
    not has_kernel("aten::_scaled_mm"), reason="a newer torch multiplies float8 on a CPU"
)


@multiplies_float8
def test_float8():
    left, right = X.to(torch.float8_e4m3fn), torch.randn(64, 32).to(torch.float8_e4m3fn).t()
    one = torch.ones(())
    count = counted(lambda: torch._scaled_mm(left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16))
    assert count.per_dtype == {"float8_e4m3fn": PRODUCT}


def test_int8():
    left, right = torch.ones(32, 32, dtype=torch.int8), torch.ones(32, 64, dtype=torch.int8)
    assert counted(lambda: torch._int_mm(left, right)).per_dtype == {"int8": 2 * 32 * 32 * 64}


def test_weights_that_are_stored_as_int8_are_multiplied_in_the_dtype_of_the_activations():
    weight, scales = torch.ones(64, 32, dtype=torch.int8), torch.ones(64, dtype=torch.bfloat16)
    count = counted(lambda: torch._weight_int8pack_mm(X.to(torch.bfloat16), weight, scales))
    assert count.per_dtype == {"bfloat16": PRODUCT}


class Quantized(torch.Tensor):
    """A weight that unwraps itself into operators of a lower precision, as those of torchao do."""

    @staticmethod
    def __new__(cls, weight):
        return torch.Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype, requires_grad=False)

    def __init__(self, weight):
        self.low = weight.to(torch.float8_e4m3fn)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is not torch.nn.functional.linear:
            return super().__torch_function__(func, types, args, kwargs or {})
        x, weight, bias = args
        one = torch.ones(())
        out = torch._scaled_mm(x.to(torch.float8_e4m3fn), weight.low.t(), one, one, out_dtype=torch.bfloat16)
        return out.to(x.dtype) + bias

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        assert func is torch.ops.aten.detach.default, func
        return Quantized(args[0].low)


@multiplies_float8
@pytest.mark.parametrize("counter", ["thop", "dispatch"])
def test_a_weight_that_unwraps_itself_counts_in_the_dtype_that_it_multiplies(counter):
    layer = nn.Linear(32, 64)
    layer.weight = nn.Parameter(Quantized(layer.weight.detach()), requires_grad=False)
    with torch.no_grad():
        count = counted(lambda: layer(X), layer, counter=counter)
    assert (count.forward, count.complete) == (PRODUCT, True)
    assert count.per_dtype == {"float8_e4m3fn": PRODUCT}


@pytest.mark.parametrize("kind", ["weights", "weights and activations"])
def test_torchao(kind):
    quantization = pytest.importorskip("torchao.quantization")
    name = "Int8WeightOnlyConfig" if kind == "weights" else "Int8DynamicActivationInt8WeightConfig"
    layer = nn.Sequential(nn.Linear(32, 64, dtype=torch.bfloat16))
    quantization.quantize_(layer, getattr(quantization, name)())
    with torch.no_grad():
        count = counted(lambda: layer(X.to(torch.bfloat16)), layer)
    assert (count.forward, count.complete) == (PRODUCT, True)
    assert count.per_dtype == {"bfloat16" if kind == "weights" else "int8": PRODUCT}


def test_float8_training_of_torchao():
    float8 = pytest.importorskip("torchao.float8")
    model = float8.convert_to_float8_training(nn.Sequential(nn.Linear(32, 64, dtype=torch.bfloat16)))
    x = X.to(torch.bfloat16).requires_grad_()
    count = counted(lambda: model(x), model)
    assert (count.per_dtype, count.complete) == ({"float8_e4m3fn": PRODUCT}, True)
    assert count.backward_per_dtype == {"float8_e5m2": 2 * PRODUCT}


def test_a_module_that_only_thops_rule_counts_has_the_dtype_of_its_input():
    with torch.library._scoped_library("own_linear", "FRAGMENT") as library:
        library.define("linear(Tensor x, Tensor w) -> Tensor")
        library.impl("linear", lambda x, w: (x.float() @ w.float().t()).to(x.dtype), "CompositeExplicitAutograd")

        class Own(torch.Tensor):
            @classmethod
            def __torch_function__(cls, func, types, args=(), kwargs=None):
                if func is torch.nn.functional.linear:
                    plain = [one.as_subclass(torch.Tensor) for one in args[:2]]
                    return torch.ops.own_linear.linear(*plain)
                return super().__torch_function__(func, types, args, kwargs or {})

        layer = nn.Linear(32, 64, bias=False, dtype=torch.bfloat16)
        layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Own), requires_grad=False)
        count = counted(lambda: layer(X.to(torch.bfloat16)), layer)
    assert (count.forward, count.thop, count.complete) == (PRODUCT, PRODUCT, True)
    assert count.per_dtype == {"bfloat16": PRODUCT}
