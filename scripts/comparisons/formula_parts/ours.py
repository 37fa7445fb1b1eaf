"""Our count: the model of transformers at its published size, on the meta device.

On the meta device, experts cannot be computed one by one (``experts_implementation="eager"`` looks at which tokens
each one got, and there are no values). ``"grouped_mm"`` and ``"batched_mm"`` can; both count to the same integer. The
first is used; it wants bfloat16.
"""

from __future__ import annotations

import torch
import transformers

from mfu_callback import FlopCount, count_flops
from scripts.comparisons.formula_parts.hand_counts import FORWARD_AND_BACKWARD
from scripts.comparisons.formula_parts.shape import Architecture

# Where a configuration has other names than most.
NAMES: dict[str, dict[str, str]] = {
    "GPT2LMHeadModel": {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
    },
    "BloomForCausalLM": {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
    "FalconForCausalLM": {"intermediate_size": "ffn_hidden_size", "num_key_value_heads": "num_kv_heads"},
    "T5ForConditionalGeneration": {
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "head_dim": "d_kv",
        "intermediate_size": "d_ff",
    },
    "GptOssForCausalLM": {"number": "num_local_experts", "expert_inner": "intermediate_size"},
    "MixtralForCausalLM": {"number": "num_local_experts", "expert_inner": "intermediate_size"},
    "DeepseekV2ForCausalLM": {"number": "n_routed_experts"},
    "DeepseekV3ForCausalLM": {"number": "n_routed_experts"},
}


def our_count(a: Architecture) -> int:
    """Returns our model FLOPs of forward and backward: 3 times the counted forward.

    Raises:
        RuntimeError: If our counter says that its count is not complete.
    """
    count = _forward_count(a)
    if not count.complete:
        raise RuntimeError(f"our count of {a.name} is not complete: {', '.join(count.uncounted)}")
    return FORWARD_AND_BACKWARD * count.forward


def _forward_count(a: Architecture) -> FlopCount:
    model = build(a)
    tokens = torch.zeros(1, a.length, dtype=torch.long, device="meta")
    if a.model == "T5ForConditionalGeneration":
        return count_flops(model, input_ids=tokens, decoder_input_ids=tokens)
    return count_flops(model, input_ids=tokens)


def build(a: Architecture) -> transformers.PreTrainedModel:
    """Returns the model on the meta device, in bfloat16: it takes no memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model: transformers.PreTrainedModel = getattr(transformers, a.model)(config(a))
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def config(a: Architecture) -> transformers.PretrainedConfig:
    """Returns the configuration of transformers."""
    names = NAMES.get(a.model, {})
    options = {names.get(name, name): value for name, value in _sizes(a).items()}
    made: transformers.PretrainedConfig = getattr(transformers, a.model).config_class(**options, **a.options)
    return made


def _sizes(a: Architecture) -> dict[str, object]:
    sizes: dict[str, object] = {
        "hidden_size": a.width,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "intermediate_size": a.inner,
        "vocab_size": a.vocab,
        "max_position_embeddings": max(a.length, 512),
        "tie_word_embeddings": a.tied,
        "attn_implementation": "eager" if a.eager else "sdpa",
    }
    optional = {"num_key_value_heads": a.kv_heads, "head_dim": a.head_dim, "sliding_window": a.window}
    sizes |= {name: value for name, value in optional.items() if value is not None}
    return sizes | _latent(a) | _experts(a) | _delta(a)


def _latent(a: Architecture) -> dict[str, object]:
    if not a.latent:
        return {}
    return {
        "q_lora_rank": a.latent.query_rank,
        "kv_lora_rank": a.latent.kv_rank,
        "qk_nope_head_dim": a.latent.nope,
        "qk_rope_head_dim": a.latent.rope,
        "v_head_dim": a.latent.value,
    }


def _experts(a: Architecture) -> dict[str, object]:
    if not a.experts:
        return {}
    names = NAMES.get(a.model, {})
    return {
        names.get("number", "num_experts"): a.experts.number,
        "num_experts_per_tok": a.experts.chosen,
        names.get("expert_inner", "moe_intermediate_size"): a.experts.inner,
        "experts_implementation": "grouped_mm",
    }


def _delta(a: Architecture) -> dict[str, object]:
    if not a.delta:
        return {}
    return {
        "linear_num_key_heads": a.delta.key_heads,
        "linear_num_value_heads": a.delta.value_heads,
        "linear_key_head_dim": a.delta.key_dim,
        "linear_value_head_dim": a.delta.value_dim,
        "linear_conv_kernel_dim": a.delta.kernel,
        "full_attention_interval": a.delta.every,
    }
