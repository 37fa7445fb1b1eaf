"""Matmuls, attention and their relatives, called outside of any module, against the number of their MACs."""

from contextlib import suppress

import pytest
import torch
import torch.backends.opt_einsum
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mfu_callback import count_flops
from tests.helpers.contexts import Functional, Within, in_every_context, skip_what_torch_lacks, without_autocast
from tests.helpers.torch_features import needs

zeros = torch.zeros


def einsum(equation):
    return lambda *tensors: torch.einsum(equation, *tensors)


MATMULS = {
    "matmul": (lambda a, b: a @ b, [(3, 4), (4, 5)], 3 * 4 * 5),
    "matmul of batches": (lambda a, b: a @ b, [(2, 1, 3, 4), (6, 4, 5)], 2 * 6 * 3 * 4 * 5),
    "vector times batch": (lambda a, b: a @ b, [(4,), (6, 4, 5)], 6 * 4 * 5),
    "batch times vector": (lambda a, b: a @ b, [(6, 3, 4), (4,)], 6 * 3 * 4),
    "bmm": (torch.bmm, [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
    "baddbmm": (torch.baddbmm, [(2, 3, 5), (2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
    "addmm": (torch.addmm, [(5,), (3, 4), (4, 5)], 3 * 4 * 5),
    "addbmm": (torch.addbmm, [(3, 5), (2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
    "mv": (torch.mv, [(3, 4), (4,)], 3 * 4),
    "addmv": (torch.addmv, [(3,), (3, 4), (4,)], 3 * 4),
    "dot": (torch.dot, [(4,), (4,)], 4),
    "vdot": (torch.vdot, [(4,), (4,)], 4),
    "inner": (torch.inner, [(2, 3), (4, 3)], 2 * 3 * 4),
    "inner of vectors": (torch.inner, [(3,), (3,)], 3),
    "tensordot": (lambda a, b: torch.tensordot(a, b, 2), [(2, 3, 4), (3, 4, 5)], 2 * 12 * 5),
    # The same, into memory that is there already.
    "mm to": (lambda a, b: torch.mm(a, b, out=a.new_empty(3, 5)), [(3, 4), (4, 5)], 3 * 4 * 5),
    "bmm to": (lambda a, b: torch.bmm(a, b, out=a.new_empty(2, 3, 5)), [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
    "matmul to": (lambda a, b: torch.matmul(a, b, out=a.new_empty(2, 3, 5)), [(2, 3, 4), (4, 5)], 2 * 3 * 4 * 5),
    "addmm_": (lambda a, b: a.new_zeros(3, 5).addmm_(a, b), [(3, 4), (4, 5)], 3 * 4 * 5),
    "baddbmm_": (lambda a, b: a.new_zeros(2, 3, 5).baddbmm_(a, b), [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
    "addbmm_": (lambda a, b: a.new_zeros(3, 5).addbmm_(a, b), [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
    "addmv_": (lambda a, b: a.new_zeros(3).addmv_(a, b), [(3, 4), (4,)], 3 * 4),
    # Contractions in Einstein's notation, from left to right.
    "einsum": (einsum("ij,jk->ik"), [(3, 4), (4, 5)], 3 * 4 * 5),
    "einsum of scores": (einsum("bhid,bhjd->bhij"), [(2, 3, 4, 5), (2, 3, 6, 5)], 2 * 3 * 4 * 6 * 5),
    "einsum of the rest": (einsum("...ij,...jk->...ik"), [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
    "einsum of positions": (einsum("bhwc,hkc->bhwk"), [(2, 4, 6, 3), (4, 7, 3)], 2 * 4 * 6 * 7 * 3),
    "einsum of dots": (einsum("bi,bi->b"), [(2, 3), (2, 3)], 2 * 3),
    "einsum over two": (einsum("abc,bcd->ad"), [(2, 3, 4), (3, 4, 5)], 2 * 12 * 5),
    "einsum of three": (einsum("bi,oij,bj->bo"), [(2, 3), (4, 3, 5), (2, 5)], 2 * 4 * (3 * 5 + 5)),
    # Several products, in the cheapest order where torch looks for it.
    "multi_dot": (lambda *t: torch.linalg.multi_dot(t), [(4, 6), (6, 8), (8, 3)], 6 * 8 * 3 + 4 * 6 * 3),
    "chain_matmul": (torch.chain_matmul, [(4, 6), (6, 8), (8, 3)], 6 * 8 * 3 + 4 * 6 * 3),
    "fifth power": (lambda a: torch.linalg.matrix_power(a, 5), [(4, 4)], 3 * 4**3),  # squared twice, times itself
    "third powers": (lambda a: torch.linalg.matrix_power(a, 3), [(2, 4, 4)], 2 * 2 * 4**3),
    "linear": (F.linear, [(2, 3, 4), (5, 4), (5,)], 2 * 3 * 4 * 5),
    "linear of a vector": (F.linear, [(4,), (5, 4)], 4 * 5),
    "linear to a number": (F.linear, [(3, 4), (4,)], 3 * 4),
    "bilinear": (F.bilinear, [(6, 3), (6, 4), (5, 3, 4)], 6 * 5 * (3 * 4 + 4)),
    "vmap of linear": (torch.func.vmap(F.linear), [(4, 3, 8), (4, 5, 8)], 4 * 3 * 8 * 5),
    "vmap of mv": (torch.func.vmap(torch.mv, (None, 0)), [(3, 8), (4, 8)], 4 * 3 * 8),
    "vmap of dot": (torch.func.vmap(torch.dot), [(4, 8), (4, 8)], 4 * 8),
    # Elementwise: nothing is summed, or not by a matmul.
    "outer": (torch.outer, [(3,), (4,)], 0),
    "kron": (torch.kron, [(2, 3), (4, 5)], 0),
    "einsum of outer": (einsum("bi,bj->bij"), [(2, 3), (2, 4)], 0),
    "sum of products": (lambda a, b: (a * b).sum(-1), [(3, 4), (3, 4)], 0),
}


@pytest.mark.filterwarnings("ignore:torch.chain_matmul is deprecated:UserWarning")
@without_autocast
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize(("function", "shapes", "macs"), MATMULS.values(), ids=MATMULS)
def test_a_matmul_by_any_name_counts_its_macs(function, shapes, macs, dtype, context):
    with torch.backends.opt_einsum.flags(enabled=False):
        count = count_flops(Within(context, Functional(function)), *[zeros(shape, dtype=dtype) for shape in shapes])
    assert (count.forward, count.uncounted) == ((8 if dtype.is_complex else 2) * macs, ())


def test_a_matmul_of_whole_numbers_counts_its_macs():
    small, large = torch.ones(32, 16, dtype=torch.int8), torch.ones(16, 8, dtype=torch.int8)
    for matmul in (torch._int_mm, lambda a, b: a.long() @ b.long()):
        count = count_flops(Functional(matmul), small, large)
        assert (count.forward, count.uncounted) == (2 * 32 * 16 * 8, ())


@in_every_context
@pytest.mark.parametrize("mode", ["", "use_mm_for_euclid_dist", "donot_use_mm_for_euclid_dist"])
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("rows", [10, 40])
def test_euclidean_distances_are_a_matmul_whichever_kernel_runs(rows, batch, mode, context):
    settings = {"compute_mode": mode} if mode else {}
    module = Within(context, Functional(lambda a, b: torch.cdist(a, b, **settings)))
    count = count_flops(module, zeros(*batch, rows, 8), zeros(*batch, 20, 8))
    assert (count.forward, count.uncounted) == (2 * (3 if batch else 1) * rows * 20 * 8, ())


def test_other_distances_multiply_nothing():
    count = count_flops(Functional(lambda a: torch.cdist(a, a, p=1)), zeros(40, 8))
    assert (count.forward, count.uncounted) == (0, ())


BATCH, HEADS, QUERIES, KEYS, WIDTH = 2, 4, 6, 9, 8
Q, K, V = zeros(BATCH, HEADS, QUERIES, WIDTH), zeros(BATCH, HEADS, KEYS, WIDTH), zeros(BATCH, HEADS, KEYS, 5)
MASK = torch.ones(QUERIES, KEYS, dtype=torch.bool)
BOTH, MATH = (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION), (SDPBackend.MATH,)


def square(queries, keys, value_width=WIDTH, *, batch=BATCH):
    return 2 * batch * HEADS * queries * keys * (WIDTH + value_width)


@in_every_context
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("backends", "inputs", "settings", "flops"),
    [
        (BOTH, (Q, K, K), {}, square(QUERIES, KEYS)),
        (BOTH, (Q, K, K), {"attn_mask": MASK, "scale": 0.5}, square(QUERIES, KEYS)),
        (BOTH, (Q, Q, Q), {"is_causal": True}, square(QUERIES, QUERIES)),
        (BOTH, (Q, K[:, :2], K[:, :2]), {"enable_gqa": True}, square(QUERIES, KEYS)),
        (MATH, (Q, K, V), {}, square(QUERIES, KEYS, 5)),
        (MATH, (Q, K[:, :2], V[:, :2]), {"enable_gqa": True}, square(QUERIES, KEYS, 5)),
        (MATH, (Q, K, K), {"dropout_p": 0.5}, square(QUERIES, KEYS)),
        (MATH, (Q[0], K[0], K[0]), {}, square(QUERIES, KEYS, batch=1)),
    ],
)
def test_attention_counts_its_full_square_in_every_backend(backends, inputs, settings, flops, dtype, context):
    module = Within(context, Functional(F.scaled_dot_product_attention))
    inputs = [tensor.to(dtype) for tensor in inputs]
    for backend in backends:
        with sdpa_kernel(backend):
            skip_what_torch_lacks(module, *inputs, **settings)
            count = count_flops(module, *inputs, **settings)
        assert (count.forward, count.uncounted) == (flops, ())


def causal(batch, head, query, key):
    return query >= key


def nearer_is_higher(score, batch, head, query, key):
    return score - (query - key)


@needs("torch.nn.attention.flex_attention", "2.5")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize(
    "settings", [{}, {"score_mod": nearer_is_higher}, {"block_mask": causal}, {"enable_gqa": True}]
)
def test_flex_attention_counts_its_full_square(settings):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch._dynamo.reset()
    q, k = zeros(BATCH, HEADS, 16, WIDTH), zeros(BATCH, 2 if "enable_gqa" in settings else HEADS, 16, WIDTH)
    if "block_mask" in settings:
        settings = {"block_mask": create_block_mask(causal, BATCH, HEADS, 16, 16, device="cpu", BLOCK_SIZE=8)}
    count = count_flops(Functional(flex_attention), q, k, k, **settings)
    assert (count.forward, count.uncounted) == (square(16, 16), ())


ROWS, CLASSES = 12, 20
make_options = getattr(nn, "LinearCrossEntropyOptions", dict)
CHUNKED = {"whole": None, "chunks": make_options()}
for policy in ("accurate", "balanced", "compact"):
    with suppress(ValueError):  # torch 2.14 has no "balanced"
        CHUNKED[policy] = make_options(batch_chunk_size=5, acc_policy=policy)


@needs("torch.nn.LinearCrossEntropyOptions", "2.13")
@without_autocast
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", CHUNKED.values(), ids=CHUNKED)
def test_a_fused_linear_cross_entropy_counts_its_logits_once(options, reduction, context):
    # In chunks and with gradients, the forward pass computes the gradients, too; they are not the forward's FLOPs.
    loss = nn.LinearCrossEntropyLoss(WIDTH, CLASSES, reduction=reduction, options=options)
    x = zeros(ROWS, WIDTH, requires_grad=True)
    for module in (loss, Functional(lambda *inputs: F.linear_cross_entropy(*inputs, options=options))):
        inputs = (x,) if module is loss else (x, zeros(CLASSES, WIDTH, requires_grad=True))
        count = count_flops(Within(context, module), *inputs, torch.zeros(ROWS, dtype=torch.long))
        assert (count.forward, count.uncounted) == (2 * ROWS * WIDTH * CLASSES, ())


LENGTHS = (3, 5, 2)


class NestedAttention(nn.Module):
    """Self-attention of sequences of different lengths, whose padding no one stores."""

    def __init__(self):
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        *qkv, out = self.projections
        heads = [project(x).unflatten(-1, (2, 8)).transpose(1, 2) for project in qkv]
        return out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


SQUARE = sum(length**2 for length in LENGTHS)
WEIGHT = zeros(16, 6)
NESTED = {
    "jagged linear": (torch.jagged, nn.Linear(16, 6), sum(LENGTHS) * 16 * 6),
    "jagged functional linear": (torch.jagged, Functional(lambda x: F.linear(x, WEIGHT.T)), sum(LENGTHS) * 16 * 6),
    "jagged matmul": (torch.jagged, Functional(lambda x: x @ WEIGHT), sum(LENGTHS) * 16 * 6),
    "jagged attention": (torch.jagged, NestedAttention(), 4 * sum(LENGTHS) * 16 * 16 + 2 * SQUARE * 16),
    "strided linear": (torch.strided, nn.Linear(16, 6), sum(LENGTHS) * 16 * 6),
    "strided functional linear": (torch.strided, Functional(lambda x: F.linear(x, WEIGHT.T)), sum(LENGTHS) * 16 * 6),
    "strided bmm": (torch.strided, Functional(lambda x: torch.bmm(x, x.transpose(1, 2))), SQUARE * 16),
    "strided matmul": (torch.strided, Functional(lambda x: x @ x.transpose(1, 2)), SQUARE * 16),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
@without_autocast
@pytest.mark.parametrize(("layout", "module", "macs"), NESTED.values(), ids=NESTED)
def test_nested_tensors_count_their_real_tokens(layout, module, macs, context):
    sequences = torch.nested.nested_tensor([zeros(length, 16) for length in LENGTHS], layout=layout)
    skip_what_torch_lacks(Within(context, module), sequences)
    count = count_flops(Within(context, module), sequences)
    assert (count.forward, count.uncounted) == (2 * macs, ())


OFFSETS = torch.tensor([8, 16, 20, 32], dtype=torch.int32)  # four groups of 32 rows in all


def grouped(*shape):
    return zeros(shape, dtype=torch.bfloat16)


@needs("torch.nn.functional.grouped_mm", "2.10")
@pytest.mark.parametrize("grouped_mm", [getattr(F, "grouped_mm", None), getattr(torch, "_grouped_mm", None)])
@pytest.mark.parametrize(
    ("left", "right", "offsets", "macs"),
    [
        (grouped(32, 16), grouped(4, 24, 16).transpose(1, 2), OFFSETS, 32 * 16 * 24),  # experts of their own rows
        (grouped(4, 8, 16), grouped(4, 24, 16).transpose(1, 2), None, 4 * 8 * 16 * 24),
        (grouped(32, 16).t(), grouped(32, 24), OFFSETS, 32 * 16 * 24),  # the sum over rows, in groups
        (grouped(4, 8, 16), grouped(32, 16).t(), OFFSETS, 8 * 16 * 32),  # every group makes its own columns
    ],
)
def test_a_grouped_matmul_counts_every_row_once(left, right, offsets, macs, grouped_mm):
    count = count_flops(Functional(lambda a, b: grouped_mm(a, b, offs=offsets)), left, right)
    assert (count.forward, count.uncounted) == (2 * macs, ())
