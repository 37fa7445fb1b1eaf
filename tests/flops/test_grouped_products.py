"""Grouped products (experts) count the rows that belong to a group, in the forward and in the backward pass."""

import types

import pytest
import torch
from torch import nn

from mfu_callback import FlopCounter
from tests.helpers.torch_features import found, has_kernel

pytestmark = pytest.mark.skipif(
    found("torch._grouped_mm") is None or not has_kernel("aten::_grouped_mm"),
    reason="torch 2.9 or later has torch._grouped_mm on a CPU",
)

ROWS, K, N, GROUPS = 64, 32, 48, 4
ENDS = torch.tensor([5, 5, 9, 20], dtype=torch.int32)  # one group is empty, and 44 rows belong to none


def bf16(*shape, **options):
    return torch.randn(*shape, dtype=torch.bfloat16, **options)


def counted(run, backward=True):
    with FlopCounter(nn.Identity()) as counter:
        out = run()
        if backward:
            out.float().nan_to_num().sum().backward()
    return counter.result()


def test_rows_behind_the_last_group_are_skipped_in_both_passes():
    left, right = bf16(ROWS, K, requires_grad=True), bf16(GROUPS, K, N, requires_grad=True)
    count = counted(lambda: torch._grouped_mm(left, right, offs=ENDS))
    assert (count.forward, count.backward, count.notes) == (2 * 20 * K * N, 2 * 2 * 20 * K * N, ())


@pytest.mark.parametrize(
    ("left", "right", "flops"),
    [
        ((ROWS, K), (GROUPS, K, N), 2 * 20 * K * N),  # groups of rows
        ((GROUPS, ROWS, K), (K, N), 2 * ROWS * K * 20),  # groups of columns
        ((ROWS, K), (K, N), 2 * ROWS * 20 * N),  # groups of what is summed over
    ],
)
def test_each_way_of_grouping(left, right, flops):
    count = counted(lambda: torch._grouped_mm(bf16(*left), bf16(*right), offs=ENDS), backward=False)
    assert (count.forward, count.complete) == (flops, True)


def test_batches_of_matrices_have_no_groups():
    count = counted(lambda: torch._grouped_mm(bf16(GROUPS, ROWS, K), bf16(GROUPS, K, N)), backward=False)
    assert count.forward == 2 * GROUPS * ROWS * K * N


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fallback_of_transformers_counts_alike(dtype):
    pytest.importorskip("transformers.integrations.moe", reason="transformers 5 or later has it")
    left = torch.randn(ROWS, K, dtype=dtype, requires_grad=True)
    right = torch.randn(GROUPS, K, N, dtype=dtype, requires_grad=True)
    count = counted(lambda: torch.ops.transformers.grouped_mm_fallback(left, right, ENDS))
    assert (count.forward, count.backward, count.complete) == (2 * 20 * K * N, 2 * 2 * 20 * K * N, True)


def test_groups_without_values_are_counted_in_full_and_the_count_says_so():
    with torch.device("meta"):
        count = counted(lambda: torch._grouped_mm(bf16(ROWS, K), bf16(GROUPS, K, N), offs=ENDS.to("meta")), False)
    assert count.forward == 2 * ROWS * K * N
    assert count.notes == ("the sizes of the groups of a grouped product could not be read, so all rows count",)


def test_groups_in_compiled_code_say_so_too():
    torch._dynamo.reset()
    left, right = bf16(ROWS, K), bf16(GROUPS, K, N)
    compiled = torch.compile(lambda a, b: torch._grouped_mm(a, b, offs=ENDS), backend="aot_eager")
    count = counted(lambda: compiled(left, right), backward=False)
    assert count.forward == 2 * ROWS * K * N
    assert len(count.notes) == 1


def test_one_of_four_expert_parallel_ranks_counts_its_own_experts_alone():
    """In transformers, pairs of a token and another rank's expert have the number behind the last expert."""
    moe = pytest.importorskip("transformers.integrations.moe", reason="transformers 5 or later has it")
    tokens, top_k, hidden, inner, own, ranks = 512, 2, 64, 96, 2, 4
    experts = types.SimpleNamespace(
        num_experts=own,
        has_gate=True,
        has_bias=False,
        has_post_expert_norm=False,
        is_transposed=False,
        _is_expert_parallel=True,
        gate_up_proj=nn.Parameter(bf16(own, 2 * inner, hidden)),
        down_proj=nn.Parameter(bf16(own, hidden, inner)),
        _apply_gate=lambda both: nn.functional.silu(both[..., :inner]) * both[..., inner:],
    )
    chosen = torch.randint(own * ranks, (tokens, top_k))
    mine = chosen.where(chosen < own, own)
    weights = torch.rand(tokens, top_k).where(chosen < own, 0.0)
    x = bf16(tokens, hidden, requires_grad=True)
    count = counted(lambda: moe.grouped_mm_experts_forward(experts, x, mine, weights))
    pairs = int((chosen < own).sum())
    assert 0 < pairs < tokens * top_k / 2
    per_pair = 2 * hidden * 2 * inner + 2 * inner * hidden
    assert (count.forward, count.backward, count.complete) == (pairs * per_pair, 2 * pairs * per_pair, True)
