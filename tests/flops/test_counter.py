import contextlib
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention.bias import causal_lower_right

from mfu_callback import FlopCounter, count_flops
from mfu_callback.flops.rules.call import UncountableError
from mfu_callback.flops.rules.operators import RULES, may_compute
from tests.helpers.contexts import Functional

A = torch.randn(3, 5, 7)


def test_an_operator_of_an_unknown_library_is_named():
    with torch.library._scoped_library("attention_lab", "FRAGMENT") as library:
        library.define("mix(Tensor x) -> Tensor")
        library.impl("mix", lambda x: x * 2, "CompositeExplicitAutograd")
        count = count_flops(Functional(lambda a: torch.ops.attention_lab.mix(a)), A)
    assert count.uncounted == ("attention_lab::mix",)


def test_a_kernel_outside_of_torch_is_found_by_the_memory_that_it_fills():
    class OtherLibrary(nn.Module):
        def forward(self, x):
            out = torch.empty(x.shape[0], x.shape[1], 2)
            np.matmul(x.numpy(), np.ones((7, 2), dtype=np.float32), out=out.numpy())
            return out.relu()

    count = count_flops(nn.Sequential(nn.Linear(7, 7), OtherLibrary()), A)
    assert count.forward == 2 * 15 * 49
    assert count.uncounted == ("OtherLibrary 1 (memory filled outside of torch's operators)",)


def test_memory_that_operators_fill_is_no_kernel_of_others():
    def fills(x):
        return (
            torch.empty(3).normal_()
            + torch.empty_like(x[0, 0, :3]).copy_(x[0, 0, :3])
            + torch.add(x[0, 0, :3], 1, out=torch.empty(3))
            + torch.zeros_like(torch.empty(3))
            + torch.empty(0).sum()
            + torch.empty(6).view(2, 3).fill_(1)[0]
        )

    assert count_flops(Functional(fills), A).complete


def test_every_operator_of_torch_whose_name_speaks_of_a_product_has_a_rule_or_is_named():
    names = {name.split(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")}
    words = ("mm", "matmul", "convolution", "attention", "rnn", "linear")
    harmless = {
        *("aten::_convert_weight_to_int4pack", "aten::_convert_weight_to_int4pack_for_cpu"),
        *("aten::_cudnn_rnn_flatten_weight", "aten::_use_cudnn_rnn_flatten_weight", "aten::_cslt_sparse_mm_search"),
        *("aten::mkldnn_reorder_conv2d_weight", "aten::mkldnn_reorder_conv3d_weight", "aten::_wrapped_linear_prepack"),
        *("aten::fbgemm_pack_gemm_matrix_fp16", "aten::fbgemm_pack_quantized_matrix"),
    }
    for name in sorted(names - harmless):
        parts = name.removeprefix("aten::").strip("_").split("_")
        if not any(part.endswith(words) for part in parts) or "upsample" in name or name.endswith(("gamma", "comm")):
            continue
        packet = getattr(torch.ops.aten, name.removeprefix("aten::"))
        overload = getattr(packet, packet.overloads()[0])
        assert name in RULES or name.removesuffix("_") in RULES or may_compute(overload), name


def count_with_a_rule(monkeypatch, rule, **arguments):
    monkeypatch.setitem(RULES, "aten::mm", rule)
    try:
        with FlopCounter(nn.Identity(), **arguments) as counter:
            out = A[0] @ torch.ones(7, 2)
    finally:
        monkeypatch.undo()
    assert out.shape == (5, 2)
    return counter.result()


def test_a_rule_that_fails_is_our_fault_and_no_missing_rule_and_the_forward_goes_on(monkeypatch):
    count = count_with_a_rule(monkeypatch, lambda call: 1 / 0)
    assert count.rule_errors == ("aten::mm(float32[5, 7], float32[7, 2]): ZeroDivisionError: division by zero",)
    assert (count.uncounted, count.complete, count.left_out) == ((), False, count.rule_errors)
    assert "not counted: aten::mm(float32[5, 7]" in str(count)


def test_a_rule_that_fails_is_named_beside_thops_own_figures_too(monkeypatch):
    count = count_with_a_rule(monkeypatch, lambda call: 1 / 0, counter="thop-modules")
    assert (len(count.rule_errors), count.complete) == (1, False)


def test_a_rule_that_says_that_it_cannot_count_is_no_fault(monkeypatch):
    def cannot(call):
        raise UncountableError("it depends")

    count = count_with_a_rule(monkeypatch, cannot)
    assert (count.uncounted, count.rule_errors) == (("aten::mm (it depends)",), ())


def test_other_threads_are_not_counted():
    module = nn.Linear(7, 7)
    with FlopCounter(module) as counter:
        thread = threading.Thread(target=lambda: module(A))
        thread.start()
        thread.join()
        module(A)
    assert counter.result().forward == 2 * 15 * 49


def test_modules_that_the_root_does_not_know_are_counted_under_their_type():
    class Hides(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = [nn.Linear(7, 7)]

        def forward(self, x):
            return self.hidden[0](x)

    assert count_flops(nn.Sequential(Hides()), A).per_module == {"0.(Linear)": 2 * 15 * 49}


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


def test_an_optimizers_own_matmuls_are_left_out_and_those_of_its_closure_are_not():
    module = nn.Linear(7, 7)

    class Orthogonal(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            torch.ones(7, 7) @ torch.ones(7, 7)
            return super().step(closure)

    optimizer = Orthogonal(module.parameters(), lr=0.1)

    def closure():
        with torch.no_grad():
            module(A)  # a teacher, say: nothing tells it from the optimizer's own work
        loss = module(A).sum()
        loss.backward()
        return loss

    with FlopCounter(module) as counter:
        optimizer.step(closure)
    assert counter.result().forward == 2 * 15 * 49
    with FlopCounter(module) as counter, counter.forward_only_inside():
        optimizer.step()
    assert counter.result().forward == 0


def test_memory_that_a_training_step_fills_through_numpy_is_no_alarm():
    def stages(x):
        staged = torch.empty(4)
        staged.numpy().fill(1)
        return x[0, 0, :4] * staged

    with FlopCounter(nn.Identity()) as counter:
        stages(A)
    assert counter.result().complete


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state:UserWarning")
def test_a_sparse_matrix_counts_what_it_stores():
    matrix = torch.eye(10).to_sparse_csr()
    assert count_flops(Functional(lambda x: matrix @ x), torch.ones(10)).forward == 2 * 10
    assert count_flops(Functional(lambda x: matrix @ x), torch.ones(10, 3)).forward == 2 * 10 * 3


class Subclass(torch.Tensor):
    """A tensor with a name of its own."""


SUBCLASS = torch.ones(2).as_subclass(Subclass)


@pytest.mark.parametrize(
    "make",
    [
        *(lambda: Subclass(A), lambda: Subclass(), lambda: Subclass([1.0]), lambda: causal_lower_right(3, 4)),
        *(lambda: A.as_subclass(Subclass), lambda: torch.relu(SUBCLASS)),
    ],
)
def test_tensor_subclasses_can_be_made_under_the_counter(make):
    before = torch.Tensor.__new__
    with FlopCounter(nn.Identity()):
        assert type(make()) is not torch.Tensor
        assert torch.Tensor([1, 2]).shape == (2,)
    assert torch.Tensor.__new__ is before
    assert not {"__new__", "as_subclass"} & vars(torch.Tensor).keys()


def test_a_causal_bias_that_is_made_in_the_forward_counts_its_pairs():
    q, k = torch.randn(1, 1, 16, 8), torch.randn(1, 1, 64, 8)
    with FlopCounter(nn.Identity(), attention="causal") as counter:
        torch.nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=causal_lower_right(16, 64))
    assert counter.result().forward == 2 * 2 * 8 * sum(64 - 16 + i + 1 for i in range(16))
    assert counter.result().complete
