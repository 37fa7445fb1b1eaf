"""NeMo: a function per family; the vocabularies of some are constants of theirs."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import List, Optional, Tuple, Union  # noqa: UP035, their source names these

from scripts.comparisons.formula_parts.exact import exact
from scripts.comparisons.formula_parts.shape import Architecture
from scripts.comparisons.formula_parts.sources import load
from scripts.comparisons.formula_parts.teams.team import Team

FILE = "nemo/utils/flops_formulas.py"
VOCABULARIES = "nemo/collections/common/parts/perf_metrics_utils.py"
TYPING = {"dataclass": dataclass, "List": List, "Optional": Optional, "Tuple": Tuple, "Union": Union}  # noqa: UP006
HELPERS = {
    "gpt_oss": (
        "gpt_oss_flops_calculator",
        "attention_flops_calculator",
        "moe_mlp_flops_calculator",
        "loss_flops_calculator",
    )
}
# Their function for each; "transformer" is for whatever has none of its own, with a plain MLP.
FUNCTIONS = {
    "GPT-2 XL": "transformer",
    "GPT-3 175B": "gpt3",
    "Pythia 12B": "transformer",
    "Falcon 40B": "transformer",
    "Nemotron-4 15B": "nemotron",
    "Nemotron-4 340B": "nemotron",
    "Llama 2 7B": "llama2",
    "Llama 2 70B": "llama2",
    "Llama 3 8B": "llama3",
    "Llama 3 70B": "llama3",
    "Llama 3.1 405B": "llama3",
    "BERT large": "bert",
    "Mixtral 8x7B": "mixtral",
    "Mixtral 8x22B": "mixtral",
    "Qwen3 30B-A3B": "qwen3",
    "Qwen3 235B-A22B": "qwen3",
    "DeepSeek-V2": "deepseekv3",
    "DeepSeek-V3": "deepseekv3",
    "Kimi K2": "deepseekv3",
    "GPT-OSS 20B": "gpt_oss",
    "GPT-OSS 120B": "gpt_oss",
}


def count(checkout: Path, a: Architecture) -> Fraction | int:
    """Runs the function of the family."""
    name = FUNCTIONS[a.name]
    vocabularies = load(checkout, VOCABULARIES, ["LLM_VOCAB_SIZE_MAP"])["LLM_VOCAB_SIZE_MAP"]
    exact_sizes = {family: exact(size) for family, size in vocabularies.items()}
    stand_ins = {**TYPING, "LLM_VOCAB_SIZE_MAP": exact_sizes}
    theirs = load(checkout, FILE, ["FLOPSConfig", name, *HELPERS.get(name, ())], stand_ins)
    sizes = {option: exact(value) for option, value in _sizes(a).items()}
    flops: Fraction = theirs[name](theirs["FLOPSConfig"](**sizes))
    return flops


def _sizes(a: Architecture) -> dict[str, object]:
    sizes: dict[str, object] = {
        "gbs": 1,
        "enc_seq_len": a.length,
        "hs": a.width,
        "layers": a.layers,
        "ffn_hs": a.inner,
        "attention_heads": a.heads,
        "query_groups": a.kv,
        "kv_channels": a.dim,
        "vocab_size": a.vocab,
        "causal_self_attn": False,  # the full square, where the function asks
    }
    if a.window:
        sizes |= {"window_size": (exact(a.window), 0), "window_attn_skip_freq": 2}
    return sizes | _sparse(a) | _latent(a)


def _sparse(a: Architecture) -> dict[str, object]:
    if not a.experts:
        return {}
    dense = a.experts.dense_layers
    return {
        "moe_router_topk": a.experts.chosen,
        "moe_ffn_hidden_size": a.experts.inner,
        "moe_shared_expert_intermediate_size": a.experts.shared,
        "moe_layer_freq": [0] * dense + [1] * (a.layers - dense),
    }


def _latent(a: Architecture) -> dict[str, object]:
    if not a.latent:
        return {}
    return {
        "q_lora_rank": a.latent.query_rank,
        "kv_lora_rank": a.latent.kv_rank,
        "qk_head_dim": a.latent.nope,
        "qk_pos_emb_head_dim": a.latent.rope,
        "v_head_dim": a.latent.value,
    }


NEMO = Team(name="NeMo", repository="NVIDIA/NeMo", file=FILE, supports=tuple(FUNCTIONS), count=count)
