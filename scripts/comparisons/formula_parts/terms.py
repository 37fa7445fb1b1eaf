"""Terms that explain why a formula gives another number than a count by hand, in FLOPs of forward and backward.

A term is what the formula has more (or, if negative, less) than the hand count. All are written from the
architecture's definition, none is fitted: a verdict holds only if hand count and terms add up to their integer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

from scripts.comparisons.formula_parts.hand_counts import FORWARD_AND_BACKWARD, chunked_rule, linear
from scripts.comparisons.formula_parts.shape import Architecture
from scripts.comparisons.formula_parts.vectors import vector_weights

TRAINING = 2 * FORWARD_AND_BACKWARD  # FLOPs of a multiply-accumulate, forward and backward

Flops = Callable[[Architecture], Fraction | int]
Pairs = Callable[[Architecture], Fraction | int]


class Right(Enum):
    """Who is right where the term is."""

    CONVENTION = "a convention"
    OURS = "ours"
    BOTH = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One reason for a difference.

    Attributes:
        name: A word or two, for the table.
        right: Who is right, or that it is a matter of convention.
        why: What the formula does, and what the model does.
        flops: Their FLOPs less the hand count's.
    """

    name: str
    right: Right
    why: str
    flops: Flops


# Pairs of a query and a key in a layer.


def half(a: Architecture) -> Fraction:
    """Half of the square."""
    return Fraction(a.length**2, 2)


def triangle(a: Architecture) -> int:
    """The square on and below its diagonal."""
    return a.length * (a.length + 1) // 2


def band(a: Architecture) -> Fraction:
    """The window's part of half the square, without the diagonal's half."""
    window = _window(a)
    return a.length * window - Fraction(window**2, 2)


def band_and_diagonal(a: Architecture) -> int:
    """The window's part of the triangle."""
    window = _window(a)
    return a.length * window - window * (window - 1) // 2


def half_a_band(a: Architecture) -> Fraction:
    """Half of the tokens times the window."""
    return Fraction(a.length * _window(a), 2)


def _window(a: Architecture) -> int:
    if a.window is None:
        raise ValueError(f"{a.name} has no window")
    return min(a.window, a.length)


def pair_flops(a: Architecture) -> int:
    """What one pair costs in a layer, in all heads."""
    return TRAINING * a.heads * a.score_dims


def masked(full: Pairs, windowed: Pairs) -> Term:
    """Only pairs that the mask lets through, counted in one way or another, instead of the full square."""

    def flops(a: Architecture) -> Fraction | int:
        fewer = (a.attending - a.windowed) * (full(a) - a.length**2)
        if a.windowed:
            fewer += a.windowed * (windowed(a) - a.length**2)
        return pair_flops(a) * fewer

    return Term(
        name="masked pairs",
        right=Right.CONVENTION,
        why="Attention is counted over the pairs that the causal mask (and the window) lets through. Ours counts the "
        'full square as PaLM does; `attention="causal"` counts half.',
        flops=flops,
    )


def instead(name: str, why: str, layers: Callable[[Architecture], int], theirs: Pairs, right: Pairs) -> Term:
    """In these layers, other pairs than those that the mask lets through."""

    def flops(a: Architecture) -> Fraction | int:
        return pair_flops(a) * layers(a) * (theirs(a) - right(a))

    return Term(name=name, right=Right.OURS, why=why, flops=flops)


def windowed(a: Architecture) -> int:
    """Layers with a window."""
    return a.windowed


def full(a: Architecture) -> int:
    """Layers that attend to the whole sequence."""
    return a.attending - a.windowed


HALVED_BANDS = instead(
    "bands halved",
    "Windowed layers are counted as half of length x window. The window's band is not symmetric: nearly all of "
    "it, length x window - window^2 / 2, lies below the diagonal.",
    windowed,
    half_a_band,
    band,
)
WINDOW_IGNORED = instead(
    "window ignored", "The mask is counted (half of the square), but not the model's window.", windowed, half, band
)
ALL_WINDOWED = instead(
    "all windowed",
    "Every layer is counted with the window: the formula reads which layers have none from an option that Gemma's "
    "configuration leaves unset. They attend to the whole sequence.",
    full,
    band_and_diagonal,
    half,
)
HALF_THE_ATTENTION = Term(
    name="attention halved",
    right=Right.OURS,
    why="One head_dim is handed over where the function asks for the sum of keys' and values'; by its own comment it "
    "means the full square.",
    flops=lambda a: -pair_flops(a) * a.attending * half(a),
)
EMBEDDING = Term(
    name="embedding",
    right=Right.OURS,
    why="The embedding's 6 x vocabulary x width per token are counted as a matmul next to the head's; it is a look-up.",
    flops=lambda a: TRAINING * a.length * a.vocab * a.width,
)
NO_ROUTER = Term(
    name="no router",
    right=Right.OURS,
    why="The router's matmul over all experts is missing.",
    flops=lambda a: -TRAINING * a.length * a.width * _experts(a) * a.sparse_layers,
)
NO_SHARED_EXPERT = Term(
    name="no shared expert",
    right=Right.OURS,
    why="The shared expert, which every token passes, is missing.",
    flops=lambda a: -TRAINING * a.length * 3 * a.width * (a.experts.shared if a.experts else 0) * a.sparse_layers,
)
NO_SHARED_GATE = Term(
    name="no gate of the shared expert",
    right=Right.OURS,
    why="The projection of width 1 that weighs the shared expert is missing.",
    flops=lambda a: -TRAINING * a.length * a.width * a.sparse_layers,
)
ALL_EXPERTS = Term(
    name="all experts",
    right=Right.OURS,
    why="Every expert's parameters are counted for every token, as of a dense model; only the chosen ones multiply.",
    flops=lambda a: TRAINING * a.length * 3 * a.width * _idle(a) * a.sparse_layers,
)
VECTORS = Term(
    name="norms and biases",
    right=Right.OURS,
    why="Parameters of norms and biases are counted like those of matrices (6 per token), but multiply no matrix.",
    flops=lambda a: TRAINING * a.length * vector_weights(a),
)
LATENT_NORMS = Term(
    name="norms of the ranks",
    right=Right.OURS,
    why="The norms of the low ranks are counted like columns of a matrix.",
    flops=lambda a: (
        TRAINING * a.length * a.layers * sum((a.latent.query_rank or 0, a.latent.kv_rank) if a.latent else ())
    ),
)
QUERY_KEY_NORMS = Term(
    name="query and key norms",
    right=Right.OURS,
    why="The norms of queries and keys are counted like columns of a matrix, and with another width than the model's.",
    flops=lambda a: TRAINING * a.length * a.layers * (a.width + a.kv * a.dim),
)
ATTENTION_FIVE_TIMES = Term(
    name="attention 5 x",
    right=Right.OURS,
    why="Attention is added with the trainable parameters (3 times the forward) and again with the frozen ones (2 "
    "times), of which there are none: 5 times instead of 3.",
    flops=lambda a: 2 * a.layers * 4 * a.width * a.length**2,
)
WIDTH_FOR_HEADS = Term(
    name="width for heads",
    right=Right.OURS,
    why="Attention is counted with the model's width; the heads together are wider or narrower than it.",
    flops=lambda a: FORWARD_AND_BACKWARD * a.layers * 4 * (a.width - a.heads * a.dim) * a.length**2,
)
HEAD_DIM_IGNORED = Term(
    name="head_dim ignored",
    right=Right.OURS,
    why="Heads are taken as width / heads wide; the model's are wider.",
    flops=lambda a: _narrow_heads(a),
)
NO_TRANSFORM = Term(
    name="no transform",
    right=Right.OURS,
    why="The dense layer in front of the masked-token head is missing.",
    flops=lambda a: -TRAINING * a.length * a.width**2,
)
NO_OUTPUT_GATE = Term(
    name="no output gate",
    right=Right.OURS,
    why="The gate of the attention's output, as wide as the queries, is missing.",
    flops=lambda a: -TRAINING * a.length * a.width * a.heads * a.dim * a.attending,
)
DELTA_RECURRENT = Term(
    name="delta rule",
    right=Right.BOTH,
    why="The delta rule is counted token by token, 4 products with the state; ours counts what is computed, the "
    "matmuls of chunks of 64 tokens. Two algorithms for one result.",
    flops=lambda a: FORWARD_AND_BACKWARD * _recurrent_less_chunked(a),
)
CONVOLUTION_ENDS = Term(
    name="convolution's end",
    right=Right.BOTH,
    why="A convolution that is padded at both ends computes kernel - 1 outputs that are cut off; ours counts them.",
    flops=lambda a: -TRAINING * _past_the_end(a),
)


def constant_vocabulary(size: int) -> Term:
    """The head of a vocabulary that is a constant of the formula."""
    return Term(
        name="constant vocabulary",
        right=Right.OURS,
        why="The vocabulary is a constant of the family's formula, and not this model's.",
        flops=lambda a: TRAINING * a.length * a.width * (size - a.vocab),
    )


def own_vocabulary(size: int, matrices: int = 1) -> Term:
    """The head (and the embedding, where it is counted) of the vocabulary in the team's configuration of the model."""
    return Term(
        name="own vocabulary",
        right=Right.BOTH,
        why="The team's configuration of the model has another vocabulary than the published one: it is padded "
        "otherwise. Each is right for its model.",
        flops=lambda a: matrices * TRAINING * a.length * a.width * (size - a.vocab),
    )


def _experts(a: Architecture) -> int:
    return a.experts.number if a.experts else 0


def _idle(a: Architecture) -> int:
    return (a.experts.number - a.experts.chosen) * a.experts.inner if a.experts else 0


def _narrow_heads(a: Architecture) -> Fraction:
    """Projections, and scores over half of the square, of heads of ``width / heads``."""
    less = Fraction(a.width, a.heads) - a.dim
    projected = a.width * 2 * (a.heads + a.kv) * less * a.length
    return TRAINING * a.layers * (projected + a.heads * 2 * less * half(a))


def _recurrent_less_chunked(a: Architecture) -> int:
    if a.delta is None:
        return 0
    recurrent = 4 * linear(a.length, a.delta.key_dim, a.delta.value_dim)
    return (a.layers - a.attending) * a.delta.value_heads * (recurrent - chunked_rule(a.length, a.delta))


def _past_the_end(a: Architecture) -> int:
    if a.delta is None:
        return 0
    channels = 2 * a.delta.key_heads * a.delta.key_dim + a.delta.value_heads * a.delta.value_dim
    return (a.layers - a.attending) * (a.delta.kernel - 1) * a.delta.kernel * channels
