"""What an architecture is made of, in one notation for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The mixture of experts in a layer; ``shared`` is the inner width of all shared experts together."""

    number: int
    chosen: int
    inner: int
    shared: int = 0
    shared_gate: bool = False
    dense_layers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """DeepSeek's latent attention: queries, keys and values are expanded from low ranks; no query rank is None."""

    query_rank: int | None
    kv_rank: int
    nope: int
    rope: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Layers of the gated delta rule; every ``every``-th layer attends instead."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    every: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """Weights that multiply no matrix: norms and biases.

    Attributes:
        norms: Norms of the model's width in a layer.
        per_norm: Vectors in a norm: 1 is a scale, 2 a scale and a bias.
        query_key_norm: The width of the norms of queries and keys: of a "head", of "all" heads, or none.
        biases: Linear layers with a bias: "qkv", "output", "mlp".
        sinks: Whether each head has a learned sink.
    """

    norms: int = 2
    per_norm: int = 1
    query_key_norm: str = ""
    biases: tuple[str, ...] = ()
    sinks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A published model.

    Attributes:
        name: As its makers call it.
        model: The class of transformers.
        source: Where its sizes are published.
        layers: Number of layers; of a model with an encoder and a decoder, of each.
        width: Width of the residual stream.
        heads: Heads of queries in a layer.
        inner: Inner width of a dense MLP.
        vocab: Rows of the embedding.
        length: Tokens in the sequence that is counted.
        kv_heads: Heads of keys and values; None is as many as ``heads``.
        head_dim: Width of a head; None is ``width // heads``.
        gated: Whether the MLP has a gate, a third matrix.
        tied: Whether the head is the embedding.
        window: Keys that a token in a windowed layer attends to, itself among them.
        windowed: Number of windowed layers.
        experts: The mixture of experts, if any.
        latent: The latent attention, if any.
        delta: The layers of the delta rule, if any.
        vectors: Norms and biases.
        eager: Whether only transformers' eager attention can compute it (soft caps, sinks, biases of positions).
        options: What the configuration class wants beyond the sizes.
    """

    name: str
    model: str
    source: str
    layers: int
    width: int
    heads: int
    inner: int
    vocab: int
    length: int = 4096
    kv_heads: int | None = None
    head_dim: int | None = None
    gated: bool = True
    tied: bool = False
    window: int | None = None
    windowed: int = 0
    experts: Experts | None = None
    latent: Latent | None = None
    delta: Delta | None = None
    vectors: Vectors = Vectors()
    eager: bool = False
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def kv(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def dim(self) -> int:
        """Width of a head."""
        return self.width // self.heads if self.head_dim is None else self.head_dim

    @property
    def score_dims(self) -> int:
        """Width of a key plus width of a value: the multiplications for a pair of tokens in a head."""
        if self.latent:
            return self.latent.nope + self.latent.rope + self.latent.value
        return 2 * self.dim

    @property
    def attending(self) -> int:
        """Layers with attention over the whole sequence."""
        return self.layers // self.delta.every if self.delta else self.layers

    @property
    def sparse_layers(self) -> int:
        """Layers with a mixture of experts."""
        return self.layers - self.experts.dense_layers if self.experts else 0
