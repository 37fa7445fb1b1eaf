"""Attention under both conventions; the kernels that only a GPU has are given their arguments on the meta device."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mfu_callback import FlopCounter
from mfu_callback.flops.rules.attention import causal_pairs, windowed_pairs
from mfu_callback.flops.rules.operators import RULES, work_of
from tests.helpers.contexts import Functional
from tests.helpers.torch_features import aten, found, needs

found("torch.nn.attention.varlen")  # registers its operators

B, H, T, D = 2, 4, 32, 8
PAIR = 2 * 2 * D  # FLOPs of one query with one key and its value
SQUARE = B * H * T * T
QKV = tuple(torch.randn(B, H, T, D) for _ in range(3))
CAUSAL_PAIRS = T * (T + 1) // 2


def count(function, *tensors, attention):
    with FlopCounter(nn.Identity(), attention=attention) as counter:
        function(*tensors)
    return counter.result()


def window(size):
    """A dense mask in which each query sees itself and the size - 1 keys before it."""
    distance = torch.arange(T)[:, None] - torch.arange(T)
    return (distance >= 0) & (distance < size)


@pytest.mark.parametrize(
    ("arguments", "pairs"),
    [
        ({}, SQUARE),
        ({"is_causal": True}, SQUARE // 2),
        ({"attn_mask": window(T)}, B * H * CAUSAL_PAIRS),
        ({"attn_mask": window(5)}, B * H * sum(min(i + 1, 5) for i in range(T))),
        ({"attn_mask": torch.zeros(T, T).masked_fill(~window(5), float("-inf"))}, B * H * (5 * T - 10)),
        ({"attn_mask": torch.zeros(T, T).masked_fill(~window(5), torch.finfo().min)}, B * H * (5 * T - 10)),
        ({"attn_mask": torch.randn(B, 1, T, T)}, SQUARE),  # a bias hides nothing
    ],
)
def test_the_pairs_that_attend(arguments, pairs):
    def attend(q, k, v):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v, **arguments)

    assert count(attend, *QKV, attention="causal").forward == PAIR * pairs
    assert count(attend, *QKV, attention="full").forward == PAIR * SQUARE


@needs("torch.nn.attention.flex_attention", "2.5")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_counts_the_pairs_of_its_mask_also_where_it_depends_on_the_head():
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def mask(b, h, i, j):
        return (i >= j) & (i - j < 5 + h)

    torch._dynamo.reset()
    block_mask = create_block_mask(mask, None, H, T, T, device="cpu")
    pairs = B * sum(sum(min(i + 1, 5 + h) for i in range(T)) for h in range(H))
    for attention, expected in (("causal", pairs), ("full", SQUARE)):
        found = count(lambda *x: flex_attention(*x, block_mask=block_mask), *QKV, attention=attention)
        assert (found.forward, found.notes, found.complete) == (PAIR * expected, (), True)


def test_attention_by_separate_matmuls_is_the_full_square_and_the_count_says_so():
    def attend(q, k, v):
        scores = (q @ k.transpose(-2, -1)).masked_fill(~window(T), float("-inf"))
        return scores.softmax(-1) @ v

    found = count(attend, *QKV, attention="causal")
    assert found.forward == PAIR * SQUARE
    assert found.notes == ("attention that runs as separate matmuls is counted as the full square",)
    assert count(attend, *QKV, attention="full").notes == ()


def test_a_mask_that_cannot_be_read_is_counted_in_full_and_the_count_says_so():
    q, k, v = (tensor.to("meta") for tensor in QKV)
    operator = aten("_scaled_dot_product_efficient_attention")
    notes = set()
    work = work_of(operator, (q, k, v, window(5).to("meta"), True), {}, None, attention="causal", notes=notes)
    assert work.flops == PAIR * SQUARE
    assert len(notes) == 1


def meta(*shape):
    return torch.empty(*shape, device="meta")


q4, s4 = meta(B, H, T, D), meta(B, H, T)
# Operators of CUDA and other devices, with the arguments that come before their defaults; (B, H, T, D) queries.
BATCHED = {
    aten("_scaled_dot_product_flash_attention"): ((q4, q4, q4), {"is_causal": True}),
    aten("_scaled_dot_product_efficient_attention"): ((q4, q4, q4, None, True), {"is_causal": True}),
    aten("_scaled_dot_product_cudnn_attention", "attn_bias"): ((q4, q4, q4, None, True), {"is_causal": True}),
    aten("_scaled_dot_product_fused_attention_overrideable"): ((q4, q4, q4), {"is_causal": True}),
    aten("_scaled_dot_product_attention_math_for_mps"): ((q4, q4, q4), {"is_causal": True}),
}
BACKWARD = {
    aten("_scaled_dot_product_flash_attention_backward"): (
        *(q4, q4, q4, q4, q4, s4, None, None, T, T, 0.0, True, None, None),
    ),
    aten("_scaled_dot_product_efficient_attention_backward"): (
        *(q4, q4, q4, q4, None, q4, s4, None, None, 0.0, [True] * 4, True),
    ),
    aten("_scaled_dot_product_cudnn_attention_backward", "attn_bias"): (
        *(q4, q4, q4, q4, q4, s4, None, None, None, None, None, T, T, 0.0, True),
    ),
}
for calls in (BATCHED, BACKWARD):
    calls.pop(None, None)  # an operator that this torch lacks


@pytest.mark.parametrize("operator", BATCHED, ids=str)
def test_kernels_of_other_devices(operator):
    args, kwargs = BATCHED[operator]
    for attention, pairs in (("full", SQUARE), ("causal", SQUARE // 2)):
        assert work_of(operator, args, kwargs, (q4, s4), attention=attention, notes=set()) == (PAIR * pairs, 0, 0)


@pytest.mark.parametrize("operator", BACKWARD, ids=str)
def test_their_backward_is_twice_the_forward_and_the_scores_are_made_again(operator):
    for attention, pairs in (("full", SQUARE), ("causal", SQUARE // 2)):
        work = work_of(operator, BACKWARD[operator], {}, (q4, q4, q4), attention=attention, notes=set())
        assert work == (2 * PAIR * pairs, 0, PAIR * pairs // 2)


# Sequences of 3, 5 and 8 tokens in a row, as (tokens, heads, head size).
ENDS = torch.tensor([0, 3, 8, 16], dtype=torch.int32)
packed = meta(16, H, D)
PACKED_SQUARE = H * (9 + 25 + 64)


@pytest.mark.parametrize(
    ("arguments", "full", "causal"),
    [
        ((ENDS, ENDS, 8, 8, 0.0, False, False), PACKED_SQUARE, PACKED_SQUARE),
        ((ENDS, ENDS, 8, 8, 0.0, True, False), PACKED_SQUARE, H * (9 // 2 + 25 // 2 + 64 // 2)),
    ],
)
def test_packed_sequences_attend_each_to_itself(arguments, full, causal):
    operator = aten("_flash_attention_forward")
    for attention, pairs in (("full", full), ("causal", causal)):
        work = work_of(operator, (packed, packed, packed, *arguments), {}, None, attention=attention, notes=set())
        assert work.flops == PAIR * pairs


def test_a_sliding_window_of_the_flash_kernel_is_exact():
    arguments = (packed, packed, packed, ENDS, ENDS, 8, 8, 0.0, True, False)
    work = work_of(
        aten("_flash_attention_forward"),
        arguments,
        {"window_size_left": 1, "window_size_right": 0},
        None,
        attention="causal",
        notes=set(),
    )
    assert work.flops == PAIR * H * sum(min(i + 1, 2) for length in (3, 5, 8) for i in range(length))


@needs("torch.nn.attention.varlen", "2.10")
def test_variable_lengths():
    operator = torch.ops.torch_attn._varlen_attn.default
    work = work_of(operator, (packed, packed, packed, ENDS, ENDS, 8, 8), {}, None, attention="full", notes=set())
    assert work.flops == PAIR * PACKED_SQUARE


def test_the_flash_attn_packages_operators_are_read_by_their_schema():
    with torch.library._scoped_library("flash_attn", "FRAGMENT") as library:
        library.define(
            "_flash_attn_forward(Tensor q, Tensor k, Tensor v, float dropout_p, float softmax_scale, bool causal,"
            " int window_size_left, int window_size_right, float softcap) -> (Tensor, Tensor)"
        )
        operator = torch.ops.flash_attn._flash_attn_forward.default
        rows = meta(B, T, H, D)
        for causal, left, pairs in (
            (False, -1, SQUARE),
            (True, -1, SQUARE // 2),
            (True, 4, B * H * sum(min(i + 1, 5) for i in range(T))),
        ):
            arguments = (rows, rows, rows, 0.0, 1.0, causal, left, -1, 0.0)
            assert work_of(operator, arguments, {}, None, attention="causal", notes=set()).flops == PAIR * pairs


@pytest.mark.parametrize(
    ("queries", "keys", "left", "right"),
    [(6, 6, None, 0), (6, 6, 2, 0), (6, 6, 1, 1), (3, 7, None, 0), (3, 7, 2, 0), (7, 3, None, 0), (5, 5, None, None)],
)
def test_windowed_pairs_are_those_of_a_loop(queries, keys, left, right):
    pairs = 0
    for query in range(queries):
        own = query + keys - queries
        for key in range(keys):
            pairs += (left is None or key >= own - left) and (right is None or key <= own + right)
    assert windowed_pairs(queries, keys, left, right) == pairs


def test_every_fused_attention_operator_of_torch_has_a_rule():
    names = {name.split(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    kernels = {name for name in names if name.startswith("aten::_scaled_dot_product") and "math" not in name}
    assert kernels <= set(RULES)


def test_attention_in_a_module_belongs_to_it():
    module = nn.ModuleDict({"attend": Functional(F.scaled_dot_product_attention)})
    with FlopCounter(module) as counter:
        module["attend"](*QKV)
    assert counter.result().per_module == {"attend": PAIR * SQUARE}


UNEQUAL = [(1, 1000), (16, 64), (64, 16)]


@pytest.mark.parametrize(("queries", "keys"), UNEQUAL)
def test_where_lengths_differ_sdpa_counts_from_the_first_key_as_its_kernel_does(queries, keys):
    q, k = torch.zeros(1, 1, queries, D), torch.zeros(1, 1, keys, D)
    v = torch.ones(1, 1, keys, D).cumsum(2)

    def attend(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    pairs = sum(min(i + 1, keys) for i in range(queries))
    assert count(attend, q, k, v, attention="causal").forward == PAIR * pairs
    assert count(attend, q, k, v, attention="full").forward == PAIR * queries * keys
    # With equal scores a query returns the mean of the values that it sees: 1, 2, ..., n have the mean (n + 1) / 2.
    seen = 2 * attend(q, k, v)[0, 0, :, 0] - 1
    assert seen.tolist() == pytest.approx([min(i + 1, keys) for i in range(queries)], rel=1e-4)


@pytest.mark.parametrize(("queries", "keys"), UNEQUAL)
def test_each_kernel_has_its_own_alignment_where_lengths_differ(queries, keys):
    from_the_first = sum(min(i + 1, keys) for i in range(queries))
    to_the_last = sum(max(0, min(keys, keys - queries + i + 1)) for i in range(queries))
    assert causal_pairs(queries, keys, at_end=False) == from_the_first
    assert causal_pairs(queries, keys, at_end=True) == to_the_last
    meta = {"device": "meta"}
    q4, k4 = torch.empty(1, 1, queries, D, **meta), torch.empty(1, 1, keys, D, **meta)
    q, k = q4.transpose(1, 2), k4.transpose(1, 2)
    calls = [
        (aten("_scaled_dot_product_flash_attention"), (q4, k4, k4, 0.0, True), to_the_last),
        (aten("_scaled_dot_product_efficient_attention"), (q4, k4, k4, None, False, 0.0, True), from_the_first),
        (
            aten("_scaled_dot_product_cudnn_attention", "attn_bias"),
            (q4, k4, k4, None, False, 0.0, True),
            from_the_first,
        ),
        (aten("_scaled_dot_product_flash_attention_for_cpu"), (q4, k4, k4, 0.0, True), from_the_first),
        (aten("_scaled_dot_product_attention_math_for_mps"), (q4, k4, k4, None, 0.0, True), from_the_first),
        (aten("_flash_attention_forward"), (q, k, k, None, None, queries, keys, 0.0, True, False), to_the_last),
        (aten("_efficient_attention_forward"), (q, k, k, None, None, None, 0, 0, 0.0, 1), from_the_first),
        (aten("_efficient_attention_forward"), (q, k, k, None, None, None, 0, 0, 0.0, 2), to_the_last),
        (
            aten("_cudnn_attention_forward"),
            (q, k, k, None, None, None, queries, keys, False, 0.0, True),
            from_the_first,
        ),
    ]
    for operator, arguments, pairs in calls:
        if operator is None:  # this torch lacks it
            continue
        work = work_of(operator, arguments, {}, None, attention="causal", notes=set())
        assert work.flops == PAIR * pairs, operator


def test_attention_by_separate_matmuls_says_where_its_mask_could_not_be_read():
    def attend(q, k, v):
        return (q @ k.transpose(-2, -1)).softmax(-1) @ v

    note = (
        "attention that runs as separate matmuls is counted as the full square; whether it is masked could not be read",
    )
    on_meta = tuple(tensor.to("meta") for tensor in QKV)
    assert count(attend, *on_meta, attention="causal").notes == note
    torch._dynamo.reset()
    assert count(torch.compile(attend, backend="aot_eager"), *QKV, attention="causal").notes == note
    assert count(attend, *on_meta, attention="full").notes == ()
    assert count(attend, *QKV, attention="causal").notes == ()  # nothing is masked
    assert count(lambda x: x.softmax(-1), torch.zeros(4, 4, device="meta"), attention="causal").notes == ()


@pytest.mark.parametrize("hidden", [float("-inf"), -1e9, -10_000.0])
def test_any_value_that_hides_a_score_shows_a_mask(hidden):
    def attend(q, k, v):
        return ((q @ k.transpose(-2, -1)) + (~window(T)) * hidden).nan_to_num(neginf=hidden).softmax(-1) @ v

    assert count(attend, *QKV, attention="causal").notes == (
        "attention that runs as separate matmuls is counted as the full square",
    )


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("kind", ["causal", "padding", "none"])
def test_the_fast_path_of_a_transformer_layer_counts_the_pairs_of_its_mask(kind):
    width = 16
    layer = nn.TransformerEncoderLayer(width, 4, 32, dropout=0.0, batch_first=True).eval()
    x = torch.randn(2, T, width)
    masks = {
        "causal": {"src_mask": nn.Transformer.generate_square_subsequent_mask(T)},
        "padding": {"src_key_padding_mask": torch.arange(T).expand(2, T) >= torch.tensor([[T], [T // 4]])},
        "none": {},
    }
    pairs = {"causal": 2 * CAUSAL_PAIRS, "padding": T * T + T * T // 4, "none": 2 * T * T}[kind]
    dense = 2 * 2 * T * (4 * width * width + 2 * width * 32)

    def run(attention, device="cpu"):
        arguments = {name: mask.to(device) for name, mask in masks[kind].items()}
        with torch.no_grad():
            return count(lambda x: layer.to(device)(x, **arguments), x.to(device), attention=attention)

    assert run("causal").forward == dense + 4 * width * pairs
    assert run("full").forward == dense + 4 * width * 2 * T * T
