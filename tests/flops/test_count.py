import pytest
import torch
from torch import nn

from gpt import GPT, SIZES
from mfu_callback import FlopCount, count_flops

A = torch.randn(3, 5, 7)


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


def test_a_module_called_twice_or_shared_is_counted_as_often_as_it_runs():
    shared = nn.Linear(7, 7)
    assert count_flops(nn.Sequential(shared, nn.Sequential(shared)), A).forward == 2 * 2 * 15 * 49


def test_what_a_users_hook_computes_is_counted_too():
    module = nn.Linear(7, 4)
    module.register_forward_hook(lambda module, args, out: out + args[0] @ torch.zeros(7, 4))
    assert count_flops(module, A) == FlopCount(forward=2 * 2 * 15 * 28, thop=2 * 15 * 28, functional=2 * 15 * 28)


def test_the_modules_are_a_table_with_like_ones_together():
    with torch.device("meta"):
        model, tokens = GPT(SIZES["gpt-small"]), torch.zeros(1, 128, dtype=torch.long)
    count = count_flops(model, tokens)
    assert sum(count.per_module.values()) == count.forward
    assert count.per_module["head"] == 2 * 128 * 768 * 50257
    assert count.per_module["blocks.3.attention"] == 4 * 128**2 * 768
    head, *rows, _, last = str(count).splitlines()
    assert head.startswith(f"{count.forward:.4e} model FLOPs in the forward pass")
    cells = [[cell.strip() for cell in row.strip("│").split("│")] for row in rows if row.startswith("│")]
    assert ["blocks.*.attention.qkv", "12", "5.4358e+09", "16.87%", "thop: Linear"] in cells
    assert sum(float(row[-2].rstrip("%")) for row in cells) == pytest.approx(100, abs=0.05)
    assert last == f"by thop's rules {count.thop:.4e}, outside of them {count.functional:.4e}; attention: full"


def test_a_count_says_what_it_left_out():
    count = FlopCount(forward=10, thop=0, functional=10, backward=25, recomputed=5, uncounted=("a::b",), notes=("c",))
    assert not count.complete
    assert count.backward_ratio == 2.5
    assert str(count).splitlines()[-4:] == [
        "backward 2.5000e+01, 2.500 x forward",
        "recomputed 5.0000e+00",
        "not counted: a::b",
        "note: c",
    ]


def test_nothing_counted_is_a_table_too():
    assert "0.0000e+00 model FLOPs" in str(count_flops(nn.ReLU(), A))


def test_the_count_of_one_call_is_that_of_several_over_their_number():
    count = FlopCount(forward=9, thop=6, functional=3, backward=18, recomputed=3, per_module={"a": 9})
    assert count.of_one(3) == FlopCount(forward=3, thop=2, functional=1, backward=6, recomputed=1)
    assert count.of_one(3).per_module == {"a": 3}


class Rebinds(nn.Module):
    """Keeps its state in buffers that it replaces, resizes and makes anew."""

    def __init__(self):
        super().__init__()
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("resized", torch.zeros(2))
        self.register_buffer("moved", torch.zeros(2))
        self.register_buffer("wide", torch.zeros(1).expand(4))

    def forward(self, x):
        self.replaced = torch.ones(3)
        self.resized.resize_(5).fill_(1)
        self.moved.add_(1)
        self.register_buffer("new", torch.ones(1))
        return x @ torch.ones(7, 7)


def test_buffers_are_put_back_also_if_they_were_replaced_or_resized():
    module = Rebinds()
    before = {name: (id(buffer), buffer.tolist()) for name, buffer in module.named_buffers()}
    count_flops(module, A)
    assert {name: (id(buffer), buffer.tolist()) for name, buffer in module.named_buffers()} == before
