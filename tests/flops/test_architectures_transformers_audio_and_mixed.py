"""Models of sound and of several kinds of input against closed forms written from their configurations alone."""

import pytest
import torch

from tests.helpers.closed_forms import (
    BATCH,
    BOTH,
    EAGER,
    LENGTH,
    SIDE,
    VIT,
    VOCABULARY,
    attention,
    attention_block,
    build,
    check,
    convolution,
    gated_mlp,
    images,
    linear,
    mlp,
    steps,
    tokens,
    transformer_block,
    variants,
    vision_tower,
)

SAMPLES = 240  # of sound


def clip(c):
    """Two towers, their projections, and the product of every text with every image."""
    text, width = c.text_config, c.projection_dim
    block = transformer_block(BATCH, LENGTH, text.hidden_size, text.num_attention_heads, text.intermediate_size)
    towers = vision_tower(c.vision_config) + text.num_hidden_layers * block
    projections = linear(BATCH, c.vision_config.hidden_size, width) + linear(BATCH, text.hidden_size, width)
    return towers + projections + linear(BATCH, width, BATCH)


def llava(c):
    """CLIP's tower, whose last layer runs though nothing uses it; its patches, projected, stand among the text."""
    text, vision = c.text_config, c.vision_config
    patches = BATCH * (SIDE // vision.patch_size) ** 2
    projector = linear(patches, vision.hidden_size, text.hidden_size)
    projector += linear(patches, text.hidden_size, text.hidden_size)
    block = attention_block(
        BATCH, LENGTH, text.hidden_size, text.num_attention_heads, kv_heads=text.num_key_value_heads
    )
    block += gated_mlp(BATCH * LENGTH, text.hidden_size, text.intermediate_size)
    head = linear(BATCH * LENGTH, text.hidden_size, text.vocab_size)
    return vision_tower(vision) + projector + text.num_hidden_layers * block + head


def perceiver(c):
    """Latents attend to the text, then to themselves in blocks that are repeated; one query reads them."""

    def layer(queries, q_width, keys, kv_width, heads, qk, v, widening):
        tokens = BATCH * queries
        projections = linear(tokens, q_width, qk) + linear(BATCH * keys, kv_width, qk + v) + linear(tokens, v, q_width)
        scores = attention(BATCH, heads, queries, keys, qk // heads, v // heads)
        return projections + scores + mlp(tokens, q_width, widening * q_width)

    latents, width, qk, v = c.num_latents, c.d_latents, c.qk_channels, c.v_channels
    heads, widening = c.num_self_attention_heads, c.self_attention_widening_factor
    read = layer(
        latents, width, LENGTH, c.d_model, c.num_cross_attention_heads, qk, v, c.cross_attention_widening_factor
    )
    think = layer(latents, width, latents, width, heads, qk, v, widening)
    answer = layer(1, width, latents, width, 1, width, width, 1) + linear(BATCH, width, c.num_labels)
    return read + c.num_blocks * c.num_self_attends_per_block * think + answer


def whisper(c):
    """Two convolutions, the second of stride 2, then an encoder-decoder."""
    frames, width = c.max_source_positions, c.d_model
    stem = convolution(BATCH * 2 * frames, c.num_mel_bins, width, 3) + convolution(BATCH * frames, width, width, 3)
    encoder = transformer_block(BATCH, frames, width, c.encoder_attention_heads, c.encoder_ffn_dim)
    decoder = transformer_block(BATCH, LENGTH, width, c.decoder_attention_heads, c.decoder_ffn_dim)
    decoder += attention_block(BATCH, LENGTH, width, c.decoder_attention_heads, keys=frames)
    layers = c.encoder_layers * encoder + c.decoder_layers * decoder
    return stem + layers + linear(BATCH * LENGTH, width, c.vocab_size)


def wav2vec2(c):
    """Strided convolutions over samples; positions come from a grouped convolution with an even kernel."""
    length, c_in, total = SAMPLES, 1, 0
    for width, kernel, stride in zip(c.conv_dim, c.conv_kernel, c.conv_stride, strict=True):
        length = steps(length, kernel, stride)
        total += convolution(BATCH * length, c_in, width, kernel)
        c_in = width
    total += linear(BATCH * length, c_in, c.hidden_size)
    kernel, one_too_many = c.num_conv_pos_embeddings, 1  # computed, then cut off
    positions, groups = BATCH * (length + one_too_many), c.num_conv_pos_embedding_groups
    total += convolution(positions, c.hidden_size, c.hidden_size, kernel, groups)
    block = transformer_block(BATCH, length, c.hidden_size, c.num_attention_heads, c.intermediate_size)
    return total + c.num_hidden_layers * block + linear(BATCH * length, c.hidden_size, c.vocab_size)


def encodec(c):
    """Convolutions down to frames and transposed ones back up, an LSTM on either side of the codebooks."""

    def residual(length, width):
        narrow = width // c.compress
        block = convolution(BATCH * length, width, narrow, c.residual_kernel_size)
        block += convolution(BATCH * length, narrow, width, 1) + convolution(BATCH * length, width, width, 1)
        return c.num_residual_layers * block

    length, width = SAMPLES, c.num_filters
    total = convolution(BATCH * length, c.audio_channels, width, c.kernel_size)  # into the encoder
    total += convolution(BATCH * length, width, c.audio_channels, c.last_kernel_size)  # out of the decoder
    for ratio in reversed(c.upsampling_ratios):
        total += 2 * residual(length, width)
        length //= ratio
        down = convolution(BATCH * length, width, 2 * width, 2 * ratio)
        up = down  # each frame meets every element of the kernel
        total += down + up
        width *= 2
    lstm = c.num_lstm_layers * linear(BATCH * length, width + width, 4 * width)
    total += 2 * lstm + convolution(BATCH * length, width, c.hidden_size, c.last_kernel_size)
    total += convolution(BATCH * length, c.hidden_size, width, c.kernel_size)
    codebooks = int(1000 * c.target_bandwidths[0] // (c.frame_rate * c.codebook_nbits))
    return total + codebooks * linear(BATCH * length, c.hidden_size, c.codebook_size)


TEXT = {**VOCABULARY, "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 72}
CLIP = {"vision_config": VIT, "text_config": {**TEXT, "max_position_embeddings": LENGTH}, "projection_dim": 28}
IMAGE_TOKEN = 1  # one that does not occur in text by chance
LLAVA = {
    "vision_config": {**VIT, "model_type": "clip_vision_model"},
    "text_config": {**TEXT, "num_key_value_heads": 2, "model_type": "llama"},
    "image_token_index": IMAGE_TOKEN,
}
PERCEIVER = {
    "vocab_size": 97,
    "num_latents": 10,
    "d_latents": 40,
    "d_model": 24,
    "num_blocks": 3,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4,
    "num_cross_attention_heads": 2,
    "qk_channels": 16,
    "v_channels": 40,
    "self_attention_widening_factor": 2,
    "cross_attention_widening_factor": 3,
    "max_position_embeddings": LENGTH,
}
WHISPER = {
    **VOCABULARY,
    "num_mel_bins": 20,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 72,
    "decoder_ffn_dim": 56,
    "max_source_positions": 30,
    "max_target_positions": LENGTH,
    "decoder_start_token_id": 1,
}
WAV2VEC2 = {
    **VOCABULARY,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "conv_dim": [16, 24],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    # In training, either would leave out a random part.
    "layerdrop": 0.0,
    "apply_spec_augment": False,
}
ENCODEC = {
    "target_bandwidths": [24.0, 48.0],
    "hidden_size": 20,
    "num_filters": 8,
    "upsampling_ratios": [4, 2],
    "num_lstm_layers": 2,
    "codebook_size": 16,
}


def text(c):
    return {"input_ids": tokens()}


def text_and_images(c):
    return {"input_ids": tokens(), "pixel_values": images()}


def images_among_text(c):
    inputs = text_and_images(c)
    inputs["input_ids"][:, : (SIDE // c.vision_config.patch_size) ** 2] = IMAGE_TOKEN
    return inputs


def spectrum_and_text(c):
    features = torch.randn(BATCH, c.num_mel_bins, 2 * c.max_source_positions)
    return {"input_features": features, "decoder_input_ids": tokens()}


def sound(c):
    return {"input_values": torch.randn(BATCH, SAMPLES)}


def sound_of_channels(c):
    return {"input_values": torch.randn(BATCH, c.audio_channels, SAMPLES)}


ARCHITECTURES = [
    ("CLIP", "CLIPModel", CLIP, text_and_images, clip, BOTH),
    ("LLaVA", "LlavaForConditionalGeneration", LLAVA, images_among_text, llava, BOTH),
    ("Perceiver", "PerceiverForSequenceClassification", PERCEIVER, text, perceiver, (EAGER,)),
    ("Whisper", "WhisperForConditionalGeneration", WHISPER, spectrum_and_text, whisper, BOTH),
    ("Wav2Vec2", "Wav2Vec2ForCTC", WAV2VEC2, sound, wav2vec2, BOTH),
    ("EnCodec", "EncodecModel", ENCODEC, sound_of_channels, encodec, (EAGER,)),
]


@pytest.mark.parametrize(
    ("name", "options", "inputs", "closed_form", "implementation", "training"), variants(ARCHITECTURES)
)
def test_an_architecture_counts_to_its_closed_form(name, options, inputs, closed_form, implementation, training):
    model = build(name, options, implementation=implementation, training=training)
    check(model, inputs(model.config), closed_form(model.config))
