"""Weights of norms and biases by hand: parameters that multiply no matrix."""

from __future__ import annotations

from scripts.comparisons.formula_parts.shape import Architecture


def vector_weights(a: Architecture) -> int:
    """Returns the weights of norms, biases and sinks that a token passes."""
    layers = a.layers * _in_attention(a) + (a.layers - a.sparse_layers) * _in_dense_mlp(a)
    return layers + a.sparse_layers * _in_mixture(a) + a.vectors.per_norm * a.width


def _in_attention(a: Architecture) -> int:
    """Of the norms around attention and MLP, too."""
    vectors = a.vectors
    query_key = {"": 0, "head": 2 * a.dim, "all": (a.heads + a.kv) * a.dim}[vectors.query_key_norm]
    ranks = (a.latent.query_rank or 0) + a.latent.kv_rank if a.latent else 0
    biases = (a.heads + 2 * a.kv) * a.dim if "qkv" in vectors.biases else 0
    biases += a.width if "output" in vectors.biases else 0
    sinks = a.heads if vectors.sinks else 0
    return vectors.norms * vectors.per_norm * a.width + query_key + ranks + biases + sinks


def _in_dense_mlp(a: Architecture) -> int:
    return _mlp_biases(a, a.inner) if "mlp" in a.vectors.biases else 0


def _in_mixture(a: Architecture) -> int:
    """The router has a bias where its experts have."""
    if a.experts is None or "mlp" not in a.vectors.biases:
        return 0
    return a.experts.number + a.experts.chosen * _mlp_biases(a, a.experts.inner)


def _mlp_biases(a: Architecture, inner: int) -> int:
    return (2 if a.gated else 1) * inner + a.width
