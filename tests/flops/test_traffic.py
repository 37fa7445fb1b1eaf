"""Bytes that operators read and write, by operator and by module."""

import torch
from torch import nn

from mfu_callback import FlopCounter

X = torch.randn(16, 32)
F32 = 4


def counted(run, module=None):
    with FlopCounter(module if module is not None else nn.Identity()) as counter:
        out = run()
        if out.requires_grad:
            out.sum().backward()
    return counter.result()


def bytes_of(run, name):
    one = counted(run).per_operator[name]
    return one.calls, one.bytes_read, one.bytes_written


def test_a_product_reads_both_matrices_and_writes_one():
    assert bytes_of(lambda: X @ torch.ones(32, 8), "aten::mm") == (1, F32 * (16 * 32 + 32 * 8), F32 * 16 * 8)


def test_views_and_memory_that_is_only_allocated_are_free():
    count = counted(lambda: torch.empty(1000).view(10, 100).t()[2:].unsqueeze(0).expand(5, -1, -1))
    assert all((one.bytes_read, one.bytes_written) == (0, 0) for one in count.per_operator.values())


def test_what_is_expanded_is_read_once_and_written_at_its_full_size():
    assert bytes_of(lambda: X[:1].expand(16, 32).clone(), "aten::clone") == (1, F32 * 32, F32 * 16 * 32)


def test_an_operator_in_place_reads_and_writes_and_one_that_overwrites_writes_alone():
    size = F32 * 16 * 32
    assert bytes_of(lambda: X.clone().add_(1), "aten::add_") == (1, size, size)
    assert bytes_of(lambda: X.clone().zero_(), "aten::zero_") == (1, 0, size)
    assert bytes_of(lambda: torch.empty_like(X).copy_(X), "aten::copy_") == (1, size, size)


def test_a_look_up_reads_the_rows_that_it_returns():
    table, rows = torch.randn(1000, 32), torch.tensor([1, 5, 7])
    run = lambda: nn.functional.embedding(rows, table)  # noqa: E731
    assert bytes_of(run, "aten::embedding") == (1, 3 * 8 + F32 * 3 * 32, F32 * 3 * 32)


def test_bytes_follow_the_dtype():
    half = X.to(torch.bfloat16)
    assert bytes_of(lambda: half + half, "aten::add") == (1, 2 * 2 * 16 * 32, 2 * 16 * 32)


def test_both_passes_are_in_the_operators_and_the_forward_in_the_modules():
    model = nn.Sequential(nn.Linear(32, 8), nn.ReLU())
    count = counted(lambda: model(X), model)
    weight, out = F32 * 32 * 8, F32 * 16 * 8
    assert count.bytes_per_module["0"] == (F32 * 16 * 32 + weight + F32 * 8, out)
    assert count.bytes_per_module["1"] == (out, out)
    addmm, mm = count.per_operator["aten::addmm"], count.per_operator["aten::mm"]
    assert (addmm.calls, addmm.rule, addmm.forward, addmm.backward) == (1, "mfu-callback", 2 * 16 * 32 * 8, 0)
    assert (mm.calls, mm.forward, mm.backward) == (1, 0, 2 * 16 * 32 * 8)  # the gradient of the weight
    assert (mm.bytes_read, mm.bytes_written) == (out + F32 * 16 * 32, weight)
    assert count.per_operator["aten::relu"].rule is None
    text = count.operators()
    assert "aten::addmm" in text
    assert "aten::relu" in text


def test_the_count_of_one_of_several_equal_calls_has_its_share():
    def twice():
        return (X @ torch.ones(32, 8)) + (X @ torch.ones(32, 8))

    count = counted(twice).of_one(2)
    assert count.per_operator["aten::mm"].calls == 1
    assert count.bytes_per_module[""].read == counted(twice).bytes_per_module[""].read // 2
    assert count.per_rule == {"mfu-callback: aten::mm": 2 * 16 * 32 * 8}


def test_what_uses_a_shape_alone_reads_nothing():
    assert bytes_of(lambda: torch.zeros_like(X), "aten::zeros_like") == (1, 0, F32 * 16 * 32)
    assert bytes_of(lambda: X.new_zeros(4), "aten::new_zeros") == (1, 0, F32 * 4)


def test_the_view_at_the_end_of_a_product_of_three_dimensions_is_free():
    assert bytes_of(lambda: torch.ones(2, 3, 4) @ torch.ones(4, 5), "aten::_unsafe_view") == (1, 0, 0)
