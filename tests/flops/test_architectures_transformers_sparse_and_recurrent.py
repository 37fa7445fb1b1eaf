"""Mixtures of experts and models with a state against closed forms written from their configurations alone."""

import math

import pytest

from tests.helpers.closed_forms import (
    BATCH,
    BOTH,
    DECODER,
    EAGER,
    LENGTH,
    TOKENS,
    VOCABULARY,
    attention,
    build,
    check,
    convolution,
    gated_mlp,
    grouped_attention,
    head,
    linear,
    mlp,
    tokens,
    variants,
)


def experts(c, inner, number):
    """The router over all experts, and a gated MLP in each of those chosen: no token is dropped."""
    return linear(TOKENS, c.hidden_size, number) + gated_mlp(TOKENS * c.num_experts_per_tok, c.hidden_size, inner)


def mixtral(c):
    block = grouped_attention(c) + experts(c, c.intermediate_size, c.num_local_experts)
    return c.num_hidden_layers * block + head(c)


def qwen2_moe(c):
    gate_of_the_shared_expert = linear(TOKENS, c.hidden_size, 1)
    shared = gated_mlp(TOKENS, c.hidden_size, c.shared_expert_intermediate_size) + gate_of_the_shared_expert
    block = grouped_attention(c) + experts(c, c.moe_intermediate_size, c.num_experts) + shared
    return c.num_hidden_layers * block + head(c)


def latent_attention(c):
    """DeepSeek's: queries, keys and values are expanded from low ranks; keys are wider than values."""
    heads, width, key_dim = c.num_attention_heads, c.hidden_size, c.qk_nope_head_dim + c.qk_rope_head_dim
    queries = linear(TOKENS, width, c.q_lora_rank) + linear(TOKENS, c.q_lora_rank, heads * key_dim)
    compressed = linear(TOKENS, width, c.kv_lora_rank + c.qk_rope_head_dim)
    expanded = linear(TOKENS, c.kv_lora_rank, heads * (c.qk_nope_head_dim + c.v_head_dim))
    scores = attention(BATCH, heads, LENGTH, LENGTH, key_dim, c.v_head_dim)
    return queries + compressed + expanded + scores + linear(TOKENS, heads * c.v_head_dim, width)


def deepseek(c):
    dense = gated_mlp(TOKENS, c.hidden_size, c.intermediate_size)
    sparse = experts(c, c.moe_intermediate_size, c.n_routed_experts)
    sparse += gated_mlp(TOKENS, c.hidden_size, c.n_shared_experts * c.moe_intermediate_size)
    layers = c.num_hidden_layers * latent_attention(c) + c.first_k_dense_replace * dense
    return layers + (c.num_hidden_layers - c.first_k_dense_replace) * sparse + head(c)


def causal_convolution(channels, kernel):
    """Depthwise over a sequence padded at both ends; the last ``kernel - 1`` outputs are computed and cut off."""
    return convolution(BATCH * (LENGTH + kernel - 1), channels, channels, kernel, groups=channels)


def selective_scan(width, inner, state, kernel, rank):
    """A Mamba mixer. Its states are updated elementwise, which is no matmul; reading them with C is one."""
    projections = linear(TOKENS, width, 2 * inner) + linear(TOKENS, inner, rank + 2 * state)
    time_steps, read, out = linear(TOKENS, rank, inner), linear(TOKENS * inner, state, 1), linear(TOKENS, inner, width)
    return projections + causal_convolution(inner, kernel) + time_steps + read + out


def mamba(c):
    mixer = selective_scan(c.hidden_size, c.expand * c.hidden_size, c.state_size, c.conv_kernel, c.time_step_rank)
    return c.num_hidden_layers * mixer + head(c)


def mamba2(c):
    """State space duality: attention without softmax inside chunks, states of heads x head_dim x state between them."""
    inner, state = c.num_heads * c.head_dim, c.state_size
    mixed = inner + 2 * c.n_groups * state
    projections = linear(TOKENS, c.hidden_size, inner + mixed + c.num_heads) + linear(TOKENS, inner, c.hidden_size)
    chunks = math.ceil(LENGTH / c.chunk_size)  # the last one is padded
    inside = attention(BATCH * chunks, c.num_heads, c.chunk_size, c.chunk_size, state, c.head_dim)
    to_state_and_back = 2 * linear(BATCH * chunks * c.chunk_size, inner, state)
    # A mixture, for the start of each chunk and the end of the last, of the initial state and that of every chunk.
    between = linear(BATCH * c.num_heads * (chunks + 1), chunks + 1, c.head_dim * state)
    mixer = projections + causal_convolution(mixed, c.conv_kernel) + inside + to_state_and_back + between
    return c.num_hidden_layers * mixer + head(c)


def jamba(c):
    """Every other layer attends, the others are Mamba's; every other MLP is one of experts."""
    inner = c.mamba_expand * c.hidden_size
    mixer = selective_scan(c.hidden_size, inner, c.mamba_d_state, c.mamba_d_conv, c.mamba_dt_rank)
    mlps = gated_mlp(TOKENS, c.hidden_size, c.intermediate_size) + experts(c, c.intermediate_size, c.num_experts)
    return c.num_hidden_layers // 2 * (mixer + grouped_attention(c) + mlps) + head(c)


def lfm2(c):
    """Layers of a gated short convolution and layers of attention."""
    short = linear(TOKENS, c.hidden_size, 3 * c.hidden_size) + linear(TOKENS, c.hidden_size, c.hidden_size)
    short += causal_convolution(c.hidden_size, c.conv_L_cache)
    mixers = c.layer_types.count("conv") * short + c.layer_types.count("full_attention") * grouped_attention(c)
    return mixers + c.num_hidden_layers * gated_mlp(TOKENS, c.hidden_size, c.intermediate_size) + head(c)


def rwkv(c):
    """Its linear attention is elementwise in every channel: the projections are all there is."""
    time_mixing = 4 * linear(TOKENS, c.hidden_size, c.attention_hidden_size)
    channel_mixing = mlp(TOKENS, c.hidden_size, c.intermediate_size) + linear(TOKENS, c.hidden_size, c.hidden_size)
    return c.num_hidden_layers * (time_mixing + channel_mixing) + head(c)


EXPERTS = {**DECODER, "num_local_experts": 6, "num_experts_per_tok": 2}
MLA = {
    **DECODER,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "n_shared_experts": 2,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "q_lora_rank": 20,
    "kv_lora_rank": 28,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 16,
}
SCAN = {**VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 12, "use_cache": False}
HEADS = {**SCAN, "num_heads": 8, "head_dim": 8, "n_groups": 2}
JAMBA = {
    **DECODER,
    "num_hidden_layers": 4,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "num_experts": 4,
    "mamba_d_state": 12,
    "mamba_dt_rank": 5,
    "use_mamba_kernels": False,
    "use_cache": False,
}

WITH_A_STATE = [
    (
        "LFM2",
        "Lfm2ForCausalLM",
        {**DECODER, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False, "use_cache": False},
        lfm2,
        BOTH,
    ),
    ("Mamba", "MambaForCausalLM", {**SCAN, "time_step_rank": 5}, mamba, (EAGER,)),
    ("Mamba-2", "Mamba2ForCausalLM", {**HEADS, "chunk_size": 8}, mamba2, (EAGER,)),
    ("Mamba-2, padded", "Mamba2ForCausalLM", {**HEADS, "chunk_size": 10}, mamba2, (EAGER,)),
    ("RWKV", "RwkvForCausalLM", {**DECODER, "attention_hidden_size": 40, "use_cache": False}, rwkv, (EAGER,)),
]
MIXTURES = [
    ("Mixtral", "MixtralForCausalLM", EXPERTS, mixtral, BOTH),
    ("GPT-OSS", "GptOssForCausalLM", {**EXPERTS, "head_dim": 20, "sliding_window": 8}, mixtral, (EAGER,)),
    (
        "Qwen2-MoE",
        "Qwen2MoeForCausalLM",
        {**DECODER, "num_experts": 6, "moe_intermediate_size": 20, "shared_expert_intermediate_size": 36},
        qwen2_moe,
        BOTH,
    ),
    ("DeepSeek-V2", "DeepseekV2ForCausalLM", {**MLA, "topk_method": "group_limited_greedy"}, deepseek, BOTH),
    ("DeepSeek-V3", "DeepseekV3ForCausalLM", MLA, deepseek, BOTH),
    ("Jamba", "JambaForCausalLM", JAMBA, jamba, BOTH),
]


@pytest.mark.parametrize(("name", "options", "closed_form", "implementation", "training"), variants(WITH_A_STATE))
def test_a_model_with_a_state_counts_to_its_closed_form(name, options, closed_form, implementation, training):
    model = build(name, options, implementation=implementation, training=training)
    check(model, {"input_ids": tokens()}, closed_form(model.config))


@pytest.mark.parametrize("experts_implementation", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.parametrize(("name", "options", "closed_form", "implementation", "training"), variants(MIXTURES))
def test_a_mixture_counts_the_chosen_experts_however_they_are_computed(
    name, options, closed_form, implementation, training, experts_implementation
):
    options = {**options, "experts_implementation": experts_implementation}
    model = build(name, options, implementation=implementation, training=training)
    check(model, {"input_ids": tokens()}, closed_form(model.config))
