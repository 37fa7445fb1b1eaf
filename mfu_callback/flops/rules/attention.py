"""FLOPs of fused attention: queries times keys and attention weights times values, for each pair that attends.

Under the convention "full", the pairs are the whole T x S square, as in PaLM's appendix B. Under "causal", they are
exactly the pairs that attend; for T = S without a window or mask they are half of the square, as the field counts them.

Where T and S differ, it matters where a causal kernel puts the first query. SDPA (is_causal), its CPU kernel, the
efficient kernel's mask type 1, cuDNN and MPS put it at the first key: query i sees min(i + 1, S) keys. The flash
kernels and mask type 2 put the last query at the last key: query i sees S - T + i + 1 keys
(https://docs.pytorch.org/docs/stable/generated/torch.nn.attention.bias.html).

A fused backward computes the four products of the gradients, and the scores a second time (2 D FLOPs per pair). The
four products count as the backward, twice the forward; the scores count as recomputed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from mfu_callback.flops.rules.call import Call, Rule, Work, is_readable
from mfu_callback.flops.rules.matmul import sizes

_UNREADABLE = "the values of an attention mask could not be read, so its attention is counted as the full square"
_AS_MATMULS = "attention that runs as separate matmuls is counted as the full square"
_PERHAPS_MASKED = f"{_AS_MATMULS}; whether it is masked could not be read"
_HIDES = -1e4  # models add this or less to a score to hide it; its exponential is 0 in every dtype
_LEAST_DIMENSIONS = 3  # of attention's scores: (B x H, T, S) or (B, H, T, S)
_LAST_AT_LAST = 2  # the efficient kernel's mask type that puts the last query at the last key


def _forward(pairs: int, query: Any, value: Any) -> int:
    return int(2 * pairs * (query.shape[-1] + value.shape[-1]))


def _backward(pairs: int, query: Any, value: Any) -> Work:
    return Work(2 * _forward(pairs, query, value), recomputed=2 * pairs * query.shape[-1])


def _batched_pairs(call: Call, *, at_end: bool) -> int:
    """(B, H, T, D) queries, (B, H_kv, S, D) keys; ``at_end``: the last query is at the last key."""
    query, key = call.get("query", "q"), call.get("key", "k")
    batch, heads, length = query.shape[:3]
    square = batch * heads * length * key.shape[2]
    mask = call.get("attn_mask", "attn_bias")
    if call.attention == "full":
        return int(square)
    if call.get("is_causal"):
        if length == key.shape[2]:
            return int(square // 2)
        return int(batch * heads * causal_pairs(length, key.shape[2], at_end=at_end))
    return int(square) if mask is None else _pairs_of_mask(call, mask, square)


def _pairs_of_mask(call: Call, mask: torch.Tensor, square: int) -> int:
    """The pairs that a mask lets through; its shape is broadcastable to (B, H, T, S)."""
    if not is_readable(mask):
        call.notes.add(_UNREADABLE)
        return square
    visible = mask if mask.dtype is torch.bool else mask > _HIDES
    return int(visible.sum()) * square // mask.numel()


def _attention(call: Call, *, at_end: bool = False) -> int:
    return _forward(_batched_pairs(call, at_end=at_end), call.get("query", "q"), call.get("value", "v"))


def _attention_backward(call: Call, *, at_end: bool = False) -> Work:
    return _backward(_batched_pairs(call, at_end=at_end), call["query"], call["value"])


def _kernel_pairs(call: Call, *, at_end: bool) -> int:
    """(B, T, H, D) queries, or (total T, H, D) for packed sequences with cumulative lengths."""
    query, key = call.get("query", "q"), call.get("key", "k")
    ends_q = call.get("cum_seq_q", "cu_seq_q", "cu_seqlens_q")
    ends_k = call.get("cum_seq_k", "cu_seq_k", "cu_seqlens_k")
    if ends_q is None:
        lengths = [(query.shape[-3], key.shape[-3])] * (query.shape[0] if query.dim() == 4 else 1)
    elif not is_readable(ends_q):
        call.notes.add("the lengths of packed sequences could not be read, so each is counted as the longest")
        longest = tuple(call.get(f"max_{x}", f"max_seqlen_{x}") for x in "qk")
        lengths = [longest] * (ends_q.numel() - 1)
    else:
        ends_k = ends_q if ends_k is None else ends_k
        lengths = list(zip(ends_q.diff().tolist(), ends_k.diff().tolist(), strict=True))
    return int(query.shape[-2] * sum(_pairs_of_lengths(call, q, k, at_end=at_end) for q, k in lengths))


def _pairs_of_lengths(call: Call, queries: int, keys: int, *, at_end: bool) -> int:
    if call.attention == "full":
        return queries * keys
    causal = call.get("is_causal", "causal") or call.get("custom_mask_type")
    at_end = call["custom_mask_type"] == _LAST_AT_LAST if call.get("custom_mask_type") else at_end
    left, right = _window(call)
    if left is None and right is None:
        if not causal:
            return queries * keys
        return queries * keys // 2 if queries == keys else causal_pairs(queries, keys, at_end=at_end)
    return windowed_pairs(queries, keys, left, 0 if causal else right, at_end=at_end)


def causal_pairs(queries: int, keys: int, *, at_end: bool) -> int:
    """The number of pairs of a causal mask.

    Args:
        queries: Number of queries.
        keys: Number of keys.
        at_end: Whether the last query is at the position of the last key, not the first query at that of the first.
    """
    return windowed_pairs(queries, keys, None, 0, at_end=at_end)


def _window(call: Call) -> tuple[int | None, int | None]:
    """Number of keys that a query sees before and after its own position; None means all."""
    both = call.get("window_size")
    if isinstance(both, int):  # the efficient kernel: a causal window of this many keys, its own included
        return (both - 1, 0) if both > 0 else (None, None)
    left, right = both if both is not None else (call.get("window_size_left"), call.get("window_size_right"))
    return (left if left is not None and left >= 0 else None, right if right is not None and right >= 0 else None)


def windowed_pairs(queries: int, keys: int, left: int | None, right: int | None, *, at_end: bool = True) -> int:
    """Return the number of pairs of a sliding window.

    Args:
        queries: Number of queries.
        keys: Number of keys.
        left: Number of keys that a query sees before its own position; None means all.
        right: Number of keys that a query sees after its own position; None means all.
        at_end: Whether the last query is at the position of the last key, not the first query at that of the first.
    """
    own = torch.arange(queries) + (keys - queries if at_end else 0)
    first = torch.zeros_like(own) if left is None else (own - left).clamp(min=0)
    last = torch.full_like(own, keys - 1) if right is None else (own + right).clamp(max=keys - 1)
    return int((last - first + 1).clamp(min=0).sum())


def _kernel(call: Call, *, at_end: bool = True) -> int:
    return _forward(_kernel_pairs(call, at_end=at_end), call.get("query", "q"), call.get("value", "v"))


def _kernel_backward(call: Call, *, at_end: bool = True) -> Work:
    return _backward(_kernel_pairs(call, at_end=at_end), call.get("query", "q"), call.get("value", "v"))


def _flex_pairs(call: Call) -> int:
    query, key = call["query"], call["key"]
    batch, heads, length = query.shape[:3]
    square = int(batch * heads * length * key.shape[2])
    block_mask = call.get("block_mask")
    if call.attention == "full" or not block_mask or not _is_masked(block_mask):
        return square
    try:
        return _pairs_of_blocks(query, block_mask, length, key.shape[2])
    except Exception:  # the mask function is the user's, and may read tensors that have no values here
        call.notes.add(_UNREADABLE)
        return square


def _is_masked(block_mask: Sequence[Any]) -> bool:
    return getattr(block_mask[-1], "__name__", "") != "noop_mask"


def _pairs_of_blocks(query: Any, block_mask: Sequence[Any], queries: int, keys: int) -> int:
    """Evaluate the mask function on every pair, 128 queries at a time; it may depend on batch and head."""
    batches, heads = block_mask[2].shape[:2]  # the tensor of block counts: (B or 1, H or 1, blocks of queries)
    each_pair = torch.vmap(torch.vmap(block_mask[-1], (None, None, None, 0)), (None, None, 0, None))
    visible = 0
    with unset_fake_temporarily():
        columns = torch.arange(keys, device="cpu" if query.device.type == "meta" else query.device)
        for batch, head in product(range(batches), range(heads)):
            place = columns.new_tensor(batch), columns.new_tensor(head)
            for rows in torch.split(torch.arange(queries, device=query.device), 128):
                visible += int(each_pair(*place, rows, columns).sum())
    return visible * int(query.shape[0] // batches) * int(query.shape[1] // heads)


def _flex(call: Call) -> int:
    return _forward(_flex_pairs(call), call["query"], call["value"])


def _flex_backward(call: Call) -> Work:
    return _backward(_flex_pairs(call), call["query"], call["value"])


def _softmax(call: Call) -> int:
    """No model FLOPs, but a softmax with exact zeros shows that the matmuls around it are masked attention."""
    scores, weights = call["self"], call.out
    if call.attention == "full" or scores.dim() < _LEAST_DIMENSIONS:
        return 0
    if not is_readable(scores):
        call.notes.add(_PERHAPS_MASKED)
    elif bool((weights == 0).any()):
        call.notes.add(_AS_MATMULS)
    return 0


def _multi_head(call: Call) -> int:
    """Self-attention over (B, T, E), nested or not: the input and output projections and the attention."""
    tokens = call.get("query", "src")
    lengths = [shape[0] for shape in sizes(tokens)]
    projections = sum(length * (call["qkv_weight"].numel() + call["proj_weight"].numel()) for length in lengths)
    return int(2 * projections + 4 * call["embed_dim"] * _pairs_of_sequences(call, lengths))


def _pairs_of_sequences(call: Call, lengths: list[int]) -> int:
    """Self-attention within sequences; a mask is (T, T), (B, T) or (B, H, T, T), and true where it hides a pair."""
    square, mask = sum(length**2 for length in lengths), call.get("mask")
    if call.attention == "full" or mask is None:
        return square
    return _pairs_of_mask(call, mask.logical_not() if mask.dtype is torch.bool else mask, square)


def _encoder_layer(call: Call) -> int:
    tokens = sum(shape[0] for shape in sizes(call["src"]))
    feed_forward = call["ffn_weight_1"].numel() + call["ffn_weight_2"].numel()
    return _multi_head(call) + int(2 * tokens * feed_forward)


# Kernels whose first query is at the position of the first key.
_FIRST_AT_FIRST = (
    *("_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention"),
    *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_fused_attention_overrideable"),
)
# The flash-attn package's operators, https://github.com/Dao-AILab/flash-attention.
_FLASH_ATTN = ("flash_attn::_flash_attn", "flash_attn::_flash_attn_varlen", "flash_attn_3::_flash_attn")

ATTENTION_RULES: dict[str, Rule] = {
    **{f"aten::{name}": _attention for name in _FIRST_AT_FIRST},
    **{f"aten::{name}_backward": _attention_backward for name in _FIRST_AT_FIRST},
    "aten::_scaled_dot_product_flash_attention": partial(_attention, at_end=True),
    "aten::_scaled_dot_product_flash_attention_backward": partial(_attention_backward, at_end=True),
    **dict.fromkeys(
        ("aten::_scaled_dot_product_attention_math_for_mps", "aten::_triton_scaled_dot_attention"), _attention
    ),
    **{f"{name}_forward": _kernel for name in ("aten::_flash_attention", *_FLASH_ATTN)},
    **{f"{name}_backward": _kernel_backward for name in ("aten::_flash_attention", *_FLASH_ATTN)},
    # The efficient kernel's mask type tells where its last query is.
    **{f"aten::_{name}_attention_forward": partial(_kernel, at_end=False) for name in ("efficient", "cudnn")},
    **{f"aten::_{name}_attention_backward": partial(_kernel_backward, at_end=False) for name in ("efficient", "cudnn")},
    "torch_attn::_varlen_attn": _kernel,
    "torch_attn::_varlen_attn_backward": _kernel_backward,
    "flex_attention": _flex,
    "flex_attention_backward": _flex_backward,
    **dict.fromkeys(("aten::_native_multi_head_attention", "aten::_triton_multi_head_attention"), _multi_head),
    "aten::_transformer_encoder_layer_fwd": _encoder_layer,
    **dict.fromkeys(("aten::_softmax", "aten::_safe_softmax"), _softmax),
}
