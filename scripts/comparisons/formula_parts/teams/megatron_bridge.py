"""Megatron-Bridge: one function for all models, which reads Megatron's configuration."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

from scripts.comparisons.formula_parts.exact import Exact, exact, exact_values
from scripts.comparisons.formula_parts.shape import Architecture
from scripts.comparisons.formula_parts.sources import load
from scripts.comparisons.formula_parts.teams.team import Team

FILE = "src/megatron/bridge/training/utils/flop_utils.py"
FUNCTION = "num_floating_point_operations"
SUPPORTS = (
    *("GPT-3 175B", "Nemotron-4 15B", "Nemotron-4 340B"),
    *("Llama 2 7B", "Llama 2 70B", "Llama 3 8B", "Llama 3 70B", "Llama 3.1 405B", "Mistral 7B"),
    *("Qwen2 0.5B", "Qwen2 7B", "Qwen2.5 72B", "Qwen3 0.6B", "Qwen3 8B", "Qwen3 32B", "Gemma 2 9B", "Gemma 3 27B"),
    *("Qwen3 30B-A3B", "Qwen3 235B-A22B", "Qwen3-Next 80B-A3B"),
    *("DeepSeek-V2", "DeepSeek-V2-Lite", "DeepSeek-V3", "Kimi K2", "GPT-OSS 20B", "GPT-OSS 120B"),
)
# Which layers have no window, as their bridges set it: for GPT-OSS every second one; for Gemma nothing is set.
SKIP_FREQUENCY = {"GptOssForCausalLM": 2}


class _LoRA:
    """Stands in for their adapter, which is not used."""


def count(checkout: Path, a: Architecture) -> Fraction | int:
    """Runs the function. The vocabulary is not padded, by an argument of theirs, which the stand-in heeds."""
    stand_ins = {
        "LoRA": _LoRA,
        "is_gated_delta_net_variant": lambda variant: variant in ("gated_delta_net", "gdn", "gdn2"),
        "calculate_padded_vocab_size": lambda size, divisible_by, parallel, logging_enabled: size,
    }
    function = load(checkout, FILE, [FUNCTION], stand_ins)[FUNCTION]
    flops: Fraction = function(SimpleNamespace(model=_model(a)), Exact(1))
    return flops


def _model(a: Architecture) -> SimpleNamespace:
    sizes: dict[str, object] = {
        "seq_length": a.length,
        "hidden_size": a.width,
        "num_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_query_groups": a.kv,
        "kv_channels": a.dim,
        "ffn_hidden_size": a.inner,
        "gated_linear_unit": a.gated,
        "vocab_size": a.vocab,
        "make_vocab_size_divisible_by": 1,
        "tensor_model_parallel_size": 1,
        "mtp_num_layers": None,
    }
    model = exact_values(**sizes, **_window(a), **_experts(a), **_latent(a), **_delta(a))
    model.window_attn_skip_freq = SKIP_FREQUENCY.get(a.model)
    return model


def _window(a: Architecture) -> dict[str, object]:
    if not a.window:
        return {}
    # A token attends to itself and to window - 1 before it; Gemma 3's provider has a number instead of a pair.
    window = exact(a.window) if a.model == "Gemma3ForCausalLM" else (exact(a.window - 1), 0)
    return {"window_size": window}


def _experts(a: Architecture) -> dict[str, object]:
    if not a.experts:
        absent = ("num_moe_experts", "moe_ffn_hidden_size", "moe_shared_expert_intermediate_size")
        return dict.fromkeys(absent)
    dense = a.experts.dense_layers
    return {
        "num_moe_experts": a.experts.number,
        "moe_router_topk": a.experts.chosen,
        "moe_ffn_hidden_size": a.experts.inner,
        "moe_shared_expert_intermediate_size": a.experts.shared or None,
        "moe_layer_freq": [0] * dense + [1] * (a.layers - dense),
    }


def _latent(a: Architecture) -> dict[str, object]:
    if not a.latent:
        return {"multi_latent_attention": False}
    return {
        "multi_latent_attention": True,
        "q_lora_rank": a.latent.query_rank,
        "kv_lora_rank": a.latent.kv_rank,
        "qk_head_dim": a.latent.nope,
        "qk_pos_emb_head_dim": a.latent.rope,
        "v_head_dim": a.latent.value,
    }


def _delta(a: Architecture) -> dict[str, object]:
    if not a.delta:
        return {}
    return {
        "experimental_attention_variant": "gated_delta_net",
        "attention_output_gate": True,
        "linear_attention_freq": [0 if (i + 1) % a.delta.every == 0 else 1 for i in range(a.layers)],
        "linear_key_head_dim": a.delta.key_dim,
        "linear_value_head_dim": a.delta.value_dim,
        "linear_num_key_heads": a.delta.key_heads,
        "linear_num_value_heads": a.delta.value_heads,
        "linear_conv_kernel_dim": a.delta.kernel,
    }


MEGATRON_BRIDGE = Team(
    name="Megatron-Bridge", repository="NVIDIA-NeMo/Megatron-Bridge", file=FILE, supports=SUPPORTS, count=count
)
