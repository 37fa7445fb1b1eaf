"""torchtitan: one function for dense models and one for mixtures of experts, on the parameters of the model.

Its own models need libraries beyond torch, so the parameters are those of transformers' model, under torchtitan's
names; the two have the same. A second formula is that of its backend for transformers' models as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from scripts.comparisons.formula_parts.ours import build
from scripts.comparisons.formula_parts.shape import Architecture
from scripts.comparisons.formula_parts.sources import load
from scripts.comparisons.formula_parts.teams.team import Team

REPOSITORY = "pytorch/torchtitan"
FILE = "torchtitan/models/utils.py"
BACKEND = "torchtitan/experiments/transformers_modeling_backend/model.py"
METHOD = "get_nparams_and_flops"
DENSE, SPARSE = "get_dense_model_nparams_and_flops", "get_moe_model_nparams_and_flops"
MODELS = {
    "Llama 3 8B": "llama3",
    "Llama 3 70B": "llama3",
    "Llama 3.1 405B": "llama3",
    "Qwen3 0.6B": "qwen3",
    "Qwen3 8B": "qwen3",
    "Qwen3 32B": "qwen3",
    "Qwen3 30B-A3B": "qwen3",
    "Qwen3 235B-A22B": "qwen3",
    "DeepSeek-V3": "deepseek_v3",
    "GPT-OSS 20B": "gpt_oss",
    "GPT-OSS 120B": "gpt_oss",
}
WITH_BACKEND = (
    *("Llama 3 8B", "Llama 3.1 405B", "Qwen2 7B", "Qwen3 0.6B", "Qwen3 8B", "Mixtral 8x7B", "Mixtral 8x22B"),
    *("Qwen3 30B-A3B", "Qwen3 235B-A22B"),
)
THEIR_NAMES = (
    ("embed_tokens", "tok_embeddings"),
    (".mlp.gate.", ".moe.router.gate."),
    (".mlp.router.", ".moe.router.gate."),
    (".mlp.experts.", ".moe.routed_experts."),
    (".mlp.shared_experts.", ".moe.shared_experts."),
)


class _Attention(SimpleNamespace):
    """Stands in for the configuration of their attention."""


class _Model:
    """The parameters of a model of transformers, under torchtitan's names."""

    def __init__(self, model: nn.Module, a: Architecture) -> None:
        self._parameters = {_their_name(name): p for name, p in model.named_parameters()}
        with torch.device("meta"):
            self._embedding = nn.Embedding(a.vocab, a.width)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """As of a module."""
        yield from self._parameters.items()

    def parameters(self) -> Iterator[nn.Parameter]:
        """As of a module."""
        yield from self._parameters.values()

    def children(self) -> Iterator[nn.Module]:
        """Yields the embedding, which is a child of their dense model."""
        yield self._embedding


def _their_name(name: str) -> str:
    for ours, theirs in THEIR_NAMES:
        name = name.replace(ours, theirs)
    return name


def count(checkout: Path, a: Architecture) -> int:
    """Runs the method of their model's configuration, which calls one of the two functions."""
    kind = SimpleNamespace(Config=_Attention)
    stand_ins = {**_functions(checkout), "GQAttention": kind, "Attention": kind}
    method = load(checkout, f"torchtitan/models/{MODELS[a.name]}/model.py", [METHOD], stand_ins)[METHOD]
    per_token: int = method(_config(a), _Model(build(a), a), a.length)[1]
    return per_token * a.length


def backend_count(checkout: Path, a: Architecture) -> int:
    """Runs the backend's method on the model of transformers, which is the one child of theirs."""
    method = load(checkout, BACKEND, [METHOD], _functions(checkout))[METHOD]
    sizes = SimpleNamespace(n_layers=a.layers, n_heads=a.heads, head_dim=a.dim)
    per_token: int = method(sizes, nn.ModuleDict({"model": build(a)}), a.length)[1]
    return per_token * a.length


def _functions(checkout: Path) -> dict[str, object]:
    return load(checkout, FILE, [DENSE, SPARSE], {"nn": nn, "logger": logging.getLogger(__name__)})


def _config(a: Architecture) -> SimpleNamespace:
    attention = _Attention(n_heads=a.heads, head_dim=a.dim)
    if a.latent:
        sizes = {"qk_nope_head_dim": a.latent.nope, "qk_rope_head_dim": a.latent.rope, "v_head_dim": a.latent.value}
        attention = _Attention(n_heads=a.heads, **sizes)
    moe = None
    if a.experts:
        moe = SimpleNamespace(num_experts=a.experts.number, router=SimpleNamespace(top_k=a.experts.chosen))
    layers = [SimpleNamespace(attention=attention, moe=moe)] * a.layers
    return SimpleNamespace(layers=layers, dim=a.width, enable_weight_tying=a.tied)


TORCHTITAN = Team(name="torchtitan", repository=REPOSITORY, file=FILE, supports=tuple(MODELS), count=count)
TORCHTITAN_BACKEND = Team(
    name="torchtitan-transformers",
    repository=REPOSITORY,
    file=BACKEND,
    supports=WITH_BACKEND,
    count=backend_count,
)
