import pytest
import torch
from torch import nn

from mfu_callback.flops import FlopCounter
from mfu_callback.flops.operator_calls import OperatorCalls, shapes_in


def recorded(step):
    """The calls of a step, by the operator's name."""
    calls = OperatorCalls()
    with FlopCounter(nn.Identity(), calls=calls):
        step()
    return {name: one for (name, _), one in calls.known.items()}


A, B = torch.ones(4, 8), torch.ones(8, 16)


def test_a_matmul_reads_both_matrices_and_writes_the_third():
    mm = recorded(lambda: [A @ B for _ in range(3)])["aten::mm"]
    assert (mm.kind, mm.dtype, mm.product, mm.calls) == ("matmul", "float32", (4, 8, 16), 3)
    assert (mm.flops, mm.bytes) == (3 * 2 * 4 * 8 * 16, 3 * 4 * (4 * 8 + 8 * 16 + 4 * 16))


def test_an_addition_only_moves_memory_and_a_view_moves_nothing():
    known = recorded(lambda: (A + A).view(-1).t())
    assert set(known) == {"aten::add"}
    assert (known["aten::add"].kind, known["aten::add"].flops) == ("memory", 0)
    assert known["aten::add"].bytes == 3 * 4 * 32


def test_attention_counts_what_really_runs():
    q = torch.ones(1, 2, 8, 4, requires_grad=True)
    known = recorded(lambda: nn.functional.scaled_dot_product_attention(q, q, q).sum().backward())
    forward = known["aten::_scaled_dot_product_flash_attention_for_cpu"]
    backward = known["aten::_scaled_dot_product_flash_attention_for_cpu_backward"]
    assert (forward.kind, backward.kind) == ("attention", "attention")
    assert (forward.flops, backward.flops) == (2 * 2 * 2 * 8 * 8 * 4, 2.5 * 2 * 2 * 2 * 8 * 8 * 4)


def test_a_softmax_is_no_attention_and_a_tensor_that_is_not_written_moves_nothing():
    known = recorded(lambda: (A.softmax(-1), torch.empty(1000)))
    assert known["aten::_softmax"].kind == "memory"
    assert "aten::empty" not in known or known["aten::empty"].bytes == 0


@pytest.mark.parametrize(
    ("sizes", "shapes"),
    [
        ([[2, 3], [], [4]], ((2, 3), (4,))),
        ([[[2, 3], [5]], []], ((2, 3), (5,))),
        (((7,),), ((7,),)),
        ([], ()),
    ],
)
def test_sizes_are_found_in_nested_lists(sizes, shapes):
    assert shapes_in(sizes) == shapes
