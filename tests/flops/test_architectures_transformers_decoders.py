"""Language models of Hugging Face against closed forms that are written from their configurations alone."""

import pytest
import torch

from tests.helpers.closed_forms import (
    BATCH,
    BOTH,
    DECODER,
    EAGER,
    LENGTH,
    TOKENS,
    VOCABULARY,
    attention_block,
    build,
    check,
    gated_mlp,
    grouped_attention,
    head,
    linear,
    mlp,
    tokens,
    variants,
)


def plain_block(c, inner, kv_heads=None):
    """Attention and an MLP without a gate."""
    block = attention_block(BATCH, LENGTH, c.hidden_size, c.num_attention_heads, kv_heads=kv_heads)
    return block + mlp(TOKENS, c.hidden_size, inner)


def gpt2(c):
    return c.n_layer * plain_block(c, c.n_inner or 4 * c.n_embd) + head(c)


def gpt_bigcode(c):
    return c.n_layer * plain_block(c, c.n_inner or 4 * c.n_embd, kv_heads=1) + head(c)


def gpt_neox(c):
    return c.num_hidden_layers * plain_block(c, c.intermediate_size) + head(c)


def bloom(c):
    return c.n_layer * plain_block(c, 4 * c.hidden_size) + head(c)


def opt(c):
    width, embedding = c.hidden_size, c.word_embed_proj_dim
    into_and_out_of_the_embedding = linear(TOKENS, embedding, width) + linear(TOKENS, width, embedding)
    blocks = c.num_hidden_layers * plain_block(c, c.ffn_dim)
    return into_and_out_of_the_embedding + blocks + linear(TOKENS, embedding, c.vocab_size)


def falcon(c):
    return c.num_hidden_layers * plain_block(c, c.ffn_hidden_size, kv_heads=1) + head(c)


def phi(c):
    return c.num_hidden_layers * plain_block(c, c.intermediate_size, kv_heads=c.num_key_value_heads) + head(c)


def llama(c):
    """Also of its relatives: a sliding window masks pairs of the full square, which all are computed.

    Rotary embeddings add nothing: this version of transformers multiplies positions by frequencies elementwise.
    """
    block = grouped_attention(c) + gated_mlp(TOKENS, c.hidden_size, c.intermediate_size)
    return c.num_hidden_layers * block + head(c)


GPT2 = {**VOCABULARY, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64}
WINDOW = {**DECODER, "sliding_window": 8}

ARCHITECTURES = [
    ("GPT-2", "GPT2LMHeadModel", GPT2, gpt2, BOTH),
    ("GPT-BigCode", "GPTBigCodeForCausalLM", GPT2, gpt_bigcode, BOTH),
    ("GPT-NeoX", "GPTNeoXForCausalLM", DECODER, gpt_neox, BOTH),
    ("GPT-J", "GPTJForCausalLM", {**GPT2, "rotary_dim": 8}, gpt2, (EAGER,)),
    ("BLOOM", "BloomForCausalLM", {**VOCABULARY, "hidden_size": 48, "n_layer": 2, "n_head": 4}, bloom, (EAGER,)),
    ("OPT", "OPTForCausalLM", {**DECODER, "ffn_dim": 72, "word_embed_proj_dim": 32}, opt, BOTH),
    ("Falcon", "FalconForCausalLM", DECODER, falcon, BOTH),
    ("Falcon with ALiBi", "FalconForCausalLM", {**DECODER, "alibi": True}, falcon, BOTH),
    ("Phi", "PhiForCausalLM", DECODER, phi, BOTH),
    ("Llama", "LlamaForCausalLM", DECODER, llama, BOTH),
    ("Mistral", "MistralForCausalLM", WINDOW, llama, BOTH),
    ("Gemma", "GemmaForCausalLM", {**DECODER, "head_dim": 20}, llama, BOTH),
    ("Gemma-2", "Gemma2ForCausalLM", {**WINDOW, "head_dim": 20}, llama, (EAGER,)),
    ("Gemma-3", "Gemma3ForCausalLM", {**WINDOW, "head_dim": 20, "sliding_window_pattern": 2}, llama, BOTH),
    ("Qwen2", "Qwen2ForCausalLM", DECODER, llama, BOTH),
    ("Qwen3", "Qwen3ForCausalLM", {**DECODER, "head_dim": 20}, llama, BOTH),
]


@pytest.mark.parametrize(("name", "options", "closed_form", "implementation", "training"), variants(ARCHITECTURES))
def test_a_language_model_counts_to_its_closed_form(name, options, closed_form, implementation, training):
    model = build(name, options, implementation=implementation, training=training)
    check(model, {"input_ids": tokens()}, closed_form(model.config))


@pytest.mark.parametrize("implementation", BOTH)
def test_padding_is_computed_and_so_it_is_counted(implementation):
    model = build("LlamaForCausalLM", DECODER, implementation=implementation)
    mask = torch.ones(BATCH, LENGTH, dtype=torch.long)
    mask[0, : LENGTH // 2] = 0
    check(model, {"input_ids": tokens(), "attention_mask": mask}, llama(model.config))
