import pytest
import torch
from torch import nn

from mfu_callback.flops import FlopCounter
from mfu_callback.flops.operator_calls import OperatorCalls, kind_of_name, shapes_in


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
    ("step", "name", "moved"),
    [
        (lambda: torch.empty(4, 8).copy_(A), "aten::copy_", 2 * 128),
        (lambda: torch.empty(4, 8).zero_(), "aten::zero_", 128),
        (lambda: A.clone().add_(A), "aten::add_", 3 * 128),
        (lambda: torch.mm(A, B, out=torch.empty(4, 16)), "aten::mm", 4 * (32 + 128 + 64)),
        (lambda: torch.cat([A, A]), "aten::cat", 4 * 128),
        (lambda: torch._foreach_add_([A.clone(), A.clone()], 1.0), "aten::_foreach_add_", 4 * 128),
        (lambda: A.new_empty(100), "aten::new_empty", 0),
        (lambda: torch.empty_like(A), "aten::empty_like", 0),
        (lambda: torch.ones(1, 8).expand(100, 8).exp(), "aten::exp", 4 * (8 + 800)),
        # Of a table of 1000 rows, two are read and written; the numbers of the rows are int64.
        (lambda: nn.functional.embedding(torch.tensor([1, 2]), torch.ones(1000, 8)), "aten::embedding", 16 + 2 * 64),
    ],
)
def test_bytes_are_those_that_are_read_and_written(step, name, moved):
    known = recorded(step)[name]
    assert known.bytes == moved
    assert known.kind == ("matmul" if name == "aten::mm" else "memory" if moved else "other")


def test_work_that_is_not_the_models_is_recorded_with_its_flops_and_not_counted():
    weight = nn.Parameter(torch.ones(8, 8))

    class Orthogonal(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            torch.mm(weight, weight)

    calls, optimizer = OperatorCalls(), Orthogonal([weight], lr=0.1)
    with FlopCounter(nn.Identity(), calls=calls) as counter:
        optimizer.step()
    assert counter.result().forward == 0
    assert calls.known["aten::mm", ((8, 8), (8, 8))].flops == 2 * 8**3


def test_what_cannot_be_recorded_is_missing_and_disturbs_no_count():
    class Unknown(OperatorCalls):
        def add(self, func, *call):
            if "mm" not in str(func):
                raise RuntimeError("Internal error: NestedTensorImpl doesn't support sizes.")
            super().add(func, *call)

    calls = Unknown()
    with FlopCounter(nn.Identity(), calls=calls) as counter:
        (A @ B).sum()
    assert counter.result().complete
    assert counter.result().forward == 2 * 4 * 8 * 16
    assert ("aten::mm", ((4, 8), (8, 16))) in calls.known


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::mm", "matmul"),
        ("aten::_scaled_dot_product_flash_attention", "attention"),
        ("aten::add_", "memory"),
        ("aten::_softmax", "memory"),
        ("aten::t", "other"),  # a view
        ("aten::linear", "matmul"),
        ("aten::to", "other"),  # only calls others
        ("torch::autograd::AccumulateGrad", "other"),
        ("triton_poi_fused_gelu_0", "memory"),
        ("compiled code", "memory"),
        ("no::such_operator", "other"),
    ],
)
def test_an_operator_that_was_not_recorded_has_the_kind_of_its_name(name, kind):
    assert kind_of_name(name) == kind


@pytest.mark.parametrize(
    ("sizes", "shapes"),
    [
        ([[2, 3], [], [4]], ((2, 3), (4,))),
        ([[[2, 3], [5]], [4]], ((4,),)),  # a list of tensors, of which torch's profiler reports no sizes
        (((7,),), ((7,),)),
        ([], ()),
    ],
)
def test_sizes_are_those_of_tensors_with_dimensions(sizes, shapes):
    assert shapes_in(sizes) == shapes
