"""Encoders and encoder-decoders for text against closed forms that are written from their configurations alone."""

import pytest
import torch

from tests.helpers.closed_forms import (
    BATCH,
    BOTH,
    EAGER,
    LENGTH,
    TOKENS,
    TRANSFORMER,
    VOCABULARY,
    attention,
    attention_block,
    build,
    check,
    convolution,
    gated_mlp,
    linear,
    mlp,
    tokens,
    transformer_block,
    variants,
)

TARGET = 10


def bert_encoder(c):
    block = transformer_block(BATCH, LENGTH, c.hidden_size, c.num_attention_heads, c.intermediate_size)
    return c.num_hidden_layers * block


def masked_head(c):
    """A square transformation, then the vocabulary."""
    return linear(TOKENS, c.hidden_size, c.hidden_size) + linear(TOKENS, c.hidden_size, c.vocab_size)


def factorized_head(c):
    """Down to the width of the embedding, then the vocabulary."""
    return linear(TOKENS, c.hidden_size, c.embedding_size) + linear(TOKENS, c.embedding_size, c.vocab_size)


def pooler(c):
    """A square transformation of the first token."""
    return linear(BATCH, c.hidden_size, c.hidden_size)


def roberta(c):
    return bert_encoder(c) + masked_head(c)


def bert_for_pretraining(c):
    return roberta(c) + pooler(c) + linear(BATCH, c.hidden_size, 2)


def distilbert(c):
    block = transformer_block(BATCH, LENGTH, c.dim, c.n_heads, c.hidden_dim)
    return c.n_layers * block + linear(TOKENS, c.dim, c.dim) + linear(TOKENS, c.dim, c.vocab_size)


def electra(c):
    """ALBERT too: that its layers are one layer, run again, changes nothing."""
    return linear(TOKENS, c.embedding_size, c.hidden_size) + bert_encoder(c) + factorized_head(c)


def modernbert(c):
    """The gate comes out of one matmul with what it gates; local layers compute the full square."""
    block = attention_block(BATCH, LENGTH, c.hidden_size, c.num_attention_heads)
    return c.num_hidden_layers * (block + gated_mlp(TOKENS, c.hidden_size, c.intermediate_size)) + masked_head(c)


def deberta(c):
    """Two more products of content with position, over the table of buckets, whose projections all samples share."""
    width, heads = c.hidden_size, c.num_attention_heads
    positions = 2 * c.position_buckets
    projected = 2 * linear(positions, width, width)
    content_to_position = linear(BATCH * heads * LENGTH, width // heads, positions)
    position_to_content = linear(BATCH * heads * LENGTH, width // heads, positions)
    disentangled = c.num_hidden_layers * (projected + content_to_position + position_to_content)
    convolution_beside_the_first_layer = convolution(TOKENS, width, width, c.conv_kernel_size)
    return bert_encoder(c) + disentangled + convolution_beside_the_first_layer + masked_head(c)


def squeezebert(c):
    """BERT of grouped convolutions of width 1."""
    width, inner, heads = c.hidden_size, c.intermediate_size, c.num_attention_heads
    block = sum(convolution(TOKENS, width, width, 1, groups) for groups in (c.q_groups, c.k_groups, c.v_groups))
    block += attention(BATCH, heads, LENGTH, LENGTH, width // heads)
    block += convolution(TOKENS, width, width, 1, c.post_attention_groups)
    block += convolution(TOKENS, width, inner, 1, c.intermediate_groups)
    block += convolution(TOKENS, inner, width, 1, c.output_groups)
    return c.num_hidden_layers * block + pooler(c) + masked_head(c)


def convbert(c):
    """Half the width attends; the other half is convolved with a kernel that every position makes for itself."""
    width, heads, kernel = c.hidden_size, c.num_attention_heads // c.head_ratio, c.conv_kernel_size
    half = width // 2
    block = 3 * linear(TOKENS, width, half) + attention(BATCH, heads, LENGTH, LENGTH, half // heads)
    separable = convolution(TOKENS, width, width, kernel, groups=width) + convolution(TOKENS, width, half, 1)
    kernels, values = linear(TOKENS, half, heads * kernel), linear(TOKENS, width, half)
    applied = linear(TOKENS, half, kernel)  # each of the half's channels against its head's kernel
    block += separable + kernels + values + applied
    block += linear(TOKENS, width, width) + mlp(TOKENS, width, c.intermediate_size) // c.num_groups
    return linear(TOKENS, c.embedding_size, width) + c.num_hidden_layers * block + factorized_head(c)


def xlnet(c):
    """Scores of content, of 2 x length relative positions and of 2 segments; all of it einsums."""
    inner = c.n_head * c.d_head
    block = transformer_block(BATCH, LENGTH, c.d_model, c.n_head, c.d_inner)
    positions = linear(BATCH * 2 * LENGTH, c.d_model, inner) + linear(TOKENS * c.n_head, c.d_head, 2 * LENGTH)
    segments = linear(TOKENS, inner, 2) + linear(TOKENS * LENGTH, 2, c.n_head)
    return c.n_layer * (block + positions + segments) + linear(TOKENS, c.d_model, c.vocab_size)


def t5(c):
    """Heads of a width of their own; positions are looked up and added."""
    sizes = {"heads": c.num_heads, "head_dim": c.d_kv}
    feed_forward = gated_mlp if c.is_gated_act else mlp
    encoder = attention_block(BATCH, LENGTH, c.d_model, **sizes) + feed_forward(TOKENS, c.d_model, c.d_ff)
    decoder = attention_block(BATCH, TARGET, c.d_model, **sizes) + feed_forward(BATCH * TARGET, c.d_model, c.d_ff)
    cross = attention_block(BATCH, TARGET, c.d_model, keys=LENGTH, **sizes)
    head = linear(BATCH * TARGET, c.d_model, c.vocab_size)
    return c.num_layers * encoder + c.num_decoder_layers * (decoder + cross) + head


def bart(c):
    encoder = transformer_block(BATCH, LENGTH, c.d_model, c.encoder_attention_heads, c.encoder_ffn_dim)
    decoder = transformer_block(BATCH, TARGET, c.d_model, c.decoder_attention_heads, c.decoder_ffn_dim)
    cross = attention_block(BATCH, TARGET, c.d_model, c.decoder_attention_heads, keys=LENGTH)
    head = linear(BATCH * TARGET, c.d_model, c.vocab_size)
    return c.encoder_layers * encoder + c.decoder_layers * (decoder + cross) + head


FACTORIZED = {**TRANSFORMER, "embedding_size": 20}
T5 = {**VOCABULARY, "d_model": 48, "d_kv": 20, "d_ff": 72, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 4}
BART = {
    **VOCABULARY,
    "d_model": 48,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 72,
    "decoder_ffn_dim": 56,
    "attention_dropout": 0.1,
    "max_position_embeddings": 64,
}
DEBERTA = {
    **TRANSFORMER,
    "relative_attention": True,
    "position_buckets": 16,
    "pos_att_type": ["c2p", "p2c"],
    "conv_kernel_size": 3,
}
GROUPED = {**FACTORIZED, "conv_kernel_size": 5, "head_ratio": 2, "num_groups": 2}
XLNET = {**VOCABULARY, "d_model": 48, "n_layer": 2, "n_head": 4, "d_inner": 80}
DISTILBERT = {**VOCABULARY, "dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 80}

ENCODERS = [
    ("BERT", "BertForPreTraining", TRANSFORMER, bert_for_pretraining, BOTH),
    ("RoBERTa", "RobertaForMaskedLM", TRANSFORMER, roberta, BOTH),
    ("DistilBERT", "DistilBertForMaskedLM", DISTILBERT, distilbert, BOTH),
    ("ALBERT", "AlbertForMaskedLM", {**FACTORIZED, "num_hidden_layers": 3}, electra, BOTH),
    ("ELECTRA", "ElectraForMaskedLM", FACTORIZED, electra, BOTH),
    ("ModernBERT", "ModernBertForMaskedLM", {**TRANSFORMER, "local_attention": 8}, modernbert, BOTH),
    ("DeBERTa-v2", "DebertaV2ForMaskedLM", DEBERTA, deberta, (EAGER,)),
    ("SqueezeBERT", "SqueezeBertForMaskedLM", {**TRANSFORMER, "embedding_size": 48}, squeezebert, (EAGER,)),
    ("ConvBERT", "ConvBertForMaskedLM", GROUPED, convbert, (EAGER,)),
]
ENCODER_DECODERS = [
    ("T5", "T5ForConditionalGeneration", T5, t5, BOTH),
    ("T5 1.1", "T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}, t5, BOTH),
    ("BART", "BartForConditionalGeneration", BART, bart, BOTH),
]


@pytest.mark.parametrize(("name", "options", "closed_form", "implementation", "training"), variants(ENCODERS))
def test_an_encoder_counts_to_its_closed_form(name, options, closed_form, implementation, training):
    model = build(name, options, implementation=implementation, training=training)
    check(model, {"input_ids": tokens()}, closed_form(model.config))


@pytest.mark.parametrize("training", [False, True])
def test_xlnet_counts_to_its_closed_form_with_two_segments(training):
    model = build("XLNetLMHeadModel", XLNET, training=training)
    segments = (torch.arange(LENGTH) // (LENGTH // 2)).expand(BATCH, -1)
    check(model, {"input_ids": tokens(), "token_type_ids": segments}, xlnet(model.config))


@pytest.mark.parametrize(("name", "options", "closed_form", "implementation", "training"), variants(ENCODER_DECODERS))
def test_an_encoder_decoder_counts_to_its_closed_form(name, options, closed_form, implementation, training):
    model = build(name, options, implementation=implementation, training=training)
    check(model, {"input_ids": tokens(), "decoder_input_ids": tokens(TARGET)}, closed_form(model.config))
