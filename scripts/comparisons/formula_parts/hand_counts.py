"""Model FLOPs by hand: closed forms written from an architecture's definition, in integers.

The convention: a multiply-accumulate is 2 FLOPs; attention is the full square of tokens, masked or not; forward and
backward are 3 times the forward. Batch size 1. Norms, activations, rotary embeddings, softmax, look-ups: nothing.
"""

from __future__ import annotations

from scripts.comparisons.formula_parts.shape import Architecture, Delta, Experts, Latent

FORWARD_AND_BACKWARD = 3
CHUNK = 64  # tokens; the delta rule is computed in chunks, of which each waits for the one before


def hand_count(a: Architecture) -> int:
    """Returns the model FLOPs of forward and backward of one sequence."""
    return FORWARD_AND_BACKWARD * sum(forward_parts(a).values())


def forward_parts(a: Architecture) -> dict[str, int]:
    """Returns the forward FLOPs by what they are spent on."""
    special = {"BertForMaskedLM": _bert, "T5ForConditionalGeneration": _t5}
    return special[a.model](a) if a.model in special else _decoder(a)


def linear(tokens: int, d_in: int, d_out: int) -> int:
    """A matmul of ``(tokens, d_in)`` and ``(d_in, d_out)``."""
    return 2 * tokens * d_in * d_out


def mlp(a: Architecture, inner: int) -> int:
    """Two matrices, or three with a gate."""
    return (3 if a.gated else 2) * linear(a.length, a.width, inner)


def _decoder(a: Architecture) -> dict[str, int]:
    parts = {
        "projections": a.attending * (latent_projections(a, a.latent) if a.latent else projections(a)),
        "scores": a.attending * linear(a.length * a.length, a.heads, a.score_dims),
        "dense MLPs": (a.layers - a.sparse_layers) * mlp(a, a.inner),
        "head": linear(a.length, a.width, a.vocab),
    }
    if a.experts:
        parts |= {name: a.sparse_layers * flops for name, flops in mixture(a, a.experts).items()}
    if a.delta:
        layers = a.layers - a.attending
        parts |= {name: layers * flops for name, flops in delta_rule(a, a.delta).items()}
    return parts


def projections(a: Architecture) -> int:
    """Queries, keys, values and the output; with the delta rule's attention, a gate as wide as the queries."""
    queries, keys = a.heads * a.dim, a.kv * a.dim
    gate = queries if a.delta else 0
    return linear(a.length, a.width, queries + gate + 2 * keys) + linear(a.length, queries, a.width)


def latent_projections(a: Architecture, latent: Latent) -> int:
    """Down to the ranks and up again; the rotary part of the keys is shared by all heads and does not go through."""
    key_dim = latent.nope + latent.rope
    if latent.query_rank is None:
        queries = linear(a.length, a.width, a.heads * key_dim)
    else:
        queries = linear(a.length, latent.query_rank, a.width + a.heads * key_dim)
    down = linear(a.length, a.width, latent.kv_rank + latent.rope)
    up = linear(a.length, latent.kv_rank, a.heads * (latent.nope + latent.value))
    return queries + down + up + linear(a.length, a.heads * latent.value, a.width)


def mixture(a: Architecture, experts: Experts) -> dict[str, int]:
    """A router over all experts, the chosen ones for every token, and the shared ones with their gate."""
    return {
        "router": linear(a.length, a.width, experts.number),
        "experts": experts.chosen * mlp(a, experts.inner),
        "shared experts": mlp(a, experts.shared),
        "shared gate": linear(a.length, a.width, 1) if experts.shared_gate else 0,
    }


def delta_rule(a: Architecture, delta: Delta) -> dict[str, int]:
    """A layer of the gated delta rule in chunks, without its two triangular solves, which are no matmuls.

    The convolution is padded at both ends: its last ``kernel - 1`` outputs are computed and cut off.
    """
    keys, values = delta.key_heads * delta.key_dim, delta.value_heads * delta.value_dim
    widths = linear(a.length, a.width, 2 * keys + 2 * values + 2 * delta.value_heads) + linear(
        a.length, values, a.width
    )
    return {
        "delta projections": widths,
        "delta convolution": linear(a.length + delta.kernel - 1, delta.kernel, 2 * keys + values),
        "delta rule": delta.value_heads * chunked_rule(a.length, delta),
    }


def chunked_rule(length: int, delta: Delta) -> int:
    """One head of the delta rule over a whole number of chunks.

    In each: keys by keys, queries by keys and their product with the new values, (chunk, chunk); old state by keys and
    by queries, and the update of the state, (key_dim, value_dim).
    """
    inside = linear(length, CHUNK, 2 * delta.key_dim + delta.value_dim)
    return inside + 3 * linear(length, delta.key_dim, delta.value_dim)


def _bert(a: Architecture) -> dict[str, int]:
    """An encoder, and a head with a transform of its own in front of it."""
    return {**_decoder(a), "transform": linear(a.length, a.width, a.width)}


def _t5(a: Architecture) -> dict[str, int]:
    """An encoder and a decoder on sequences of the same length; the decoder attends to both."""
    attention = projections(a) + linear(a.length * a.length, a.heads, a.score_dims)
    return {
        "attention": 3 * a.layers * attention,
        "dense MLPs": 2 * a.layers * mlp(a, a.inner),
        "head": linear(a.length, a.width, a.vocab),
    }
