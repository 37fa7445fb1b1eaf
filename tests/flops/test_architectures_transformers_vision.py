"""Models of images against closed forms that are written from their configurations alone."""

import pytest

from tests.helpers.closed_forms import (
    BATCH,
    BOTH,
    EAGER,
    SIDE,
    VIT,
    attention_block,
    build,
    check,
    convolution,
    images,
    linear,
    mlp,
    patches,
    steps,
    transformer_block,
    variants,
    vision_tower,
)


def vit(c):
    return vision_tower(c) + linear(BATCH, c.hidden_size, c.num_labels)


def siglip(c):
    """No class token: one query, learned, attends to the patches through torch's own multi-head attention."""
    length, width, inner = (SIDE // c.patch_size) ** 2, c.hidden_size, c.intermediate_size
    block = transformer_block(BATCH, length, width, c.num_attention_heads, inner)
    pooling = attention_block(BATCH, 1, width, c.num_attention_heads, keys=length) + mlp(BATCH, width, inner)
    return patches(c, width) + c.num_hidden_layers * block + pooling


def vitdet(c):
    """Attention within windows or everywhere; queries meet positions of rows and of columns."""
    grid, width, heads = SIDE // c.patch_size, c.hidden_size, c.num_attention_heads
    total = patches(c, width)
    for layer in range(c.num_hidden_layers):
        side = c.window_size if layer in c.window_block_indices else grid
        windows = BATCH * (grid // side) ** 2
        rows_and_columns = 2 * linear(windows * heads * side**2, width // heads, side)
        total += attention_block(windows, side**2, width, heads) + rows_and_columns
        total += mlp(BATCH * grid**2, width, c.mlp_ratio * width)
    return total


def swin(c):
    """Each stage attends within windows, shifted or not; between stages, 4 patches of a square become one."""
    grid, width = SIDE // c.patch_size, c.embed_dim
    total = patches(c, width)
    for stage, (depth, heads) in enumerate(zip(c.depths, c.num_heads, strict=True)):
        if stage:
            grid //= 2
            total += linear(BATCH * grid**2, 4 * width, 2 * width)
            width *= 2
        windows = BATCH * (grid // c.window_size) ** 2
        total += depth * transformer_block(windows, c.window_size**2, width, heads, int(c.mlp_ratio * width))
    return total + linear(BATCH, width, c.num_labels)


def segformer(c):
    """Keys and values of a stage come from a strided convolution; an MLP holds a depthwise one."""
    side, c_in, total, decoder = SIDE, c.num_channels, 0, c.decoder_hidden_size
    for stage, width in enumerate(c.hidden_sizes):
        kernel, ratio, inner = c.patch_sizes[stage], c.sr_ratios[stage], c.mlp_ratios[stage] * width
        side = steps(side, kernel, c.strides[stage], kernel // 2)
        positions, reduced = BATCH * side**2, (side // ratio) ** 2
        total += convolution(positions, c_in, width, kernel**2)
        block = attention_block(BATCH, side**2, width, c.num_attention_heads[stage], keys=reduced)
        block += convolution(BATCH * reduced, width, width, ratio**2) if ratio > 1 else 0
        block += mlp(positions, width, inner) + convolution(positions, inner, inner, 9, groups=inner)
        total += c.depths[stage] * block + linear(positions, width, decoder)
        c_in = width
    pixels = BATCH * steps(SIDE, c.patch_sizes[0], c.strides[0], c.patch_sizes[0] // 2) ** 2
    fused = convolution(pixels, decoder * len(c.hidden_sizes), decoder, 1)
    return total + fused + convolution(pixels, decoder, c.num_labels, 1)


def convnext(c):
    """Depthwise 7 x 7, then an MLP in every position."""
    side, c_in, kernel, total = SIDE, c.num_channels, c.patch_size, 0
    for depth, width in zip(c.depths, c.hidden_sizes, strict=True):
        side //= kernel
        total += convolution(BATCH * side**2, c_in, width, kernel**2)
        block = convolution(BATCH * side**2, width, width, 49, groups=width) + mlp(BATCH * side**2, width, 4 * width)
        total += depth * block
        c_in, kernel = width, 2
    return total + linear(BATCH, c_in, c.num_labels)


def resnet(c):
    side = SIDE // 2
    total = convolution(BATCH * side**2, c.num_channels, c.embedding_size, 49)
    side, c_in = side // 2, c.embedding_size  # a pooling of stride 2
    for stage, (depth, width) in enumerate(zip(c.depths, c.hidden_sizes, strict=True)):
        for layer in range(depth):
            before, side = BATCH * side**2, side // 2 if stage and not layer else side
            after, narrow = BATCH * side**2, width // 4
            if c.layer_type == "bottleneck":
                total += convolution(before, c_in, narrow, 1)
                total += convolution(after, narrow, narrow, 9) + convolution(after, narrow, width, 1)
            else:
                total += convolution(after, c_in, width, 9) + convolution(after, width, width, 9)
            if c_in != width or before != after:
                total += convolution(after, c_in, width, 1)  # the shortcut
            c_in = width
    return total + linear(BATCH, c_in, c.num_labels)


VITDET = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "pretrain_image_size": SIDE,
    "patch_size": 4,
    "use_relative_position_embeddings": True,
    "window_block_indices": [0],
    "window_size": 4,
}
SWIN = {"image_size": SIDE, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
SEGFORMER = {
    "num_encoder_blocks": 2,
    "depths": [1, 2],
    "sr_ratios": [2, 1],
    "hidden_sizes": [16, 32],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [1, 4],
    "mlp_ratios": [3, 2],
    "decoder_hidden_size": 24,
}
CONVNEXT = {"num_stages": 2, "hidden_sizes": [16, 24], "depths": [2, 1]}
RESNET = {"embedding_size": 12, "hidden_sizes": [16, 32], "depths": [2, 2]}

ARCHITECTURES = [
    ("ViT", "ViTForImageClassification", VIT, vit, BOTH),
    ("SigLIP", "SiglipVisionModel", VIT, siglip, BOTH),
    ("ViTDet", "VitDetModel", VITDET, vitdet, (EAGER,)),
    ("Swin", "SwinForImageClassification", SWIN, swin, BOTH),
    ("SegFormer", "SegformerForSemanticSegmentation", SEGFORMER, segformer, BOTH),
    ("ConvNeXt", "ConvNextForImageClassification", CONVNEXT, convnext, (EAGER,)),
    ("ResNet of bottlenecks", "ResNetForImageClassification", RESNET, resnet, (EAGER,)),
    ("ResNet", "ResNetForImageClassification", {**RESNET, "layer_type": "basic"}, resnet, (EAGER,)),
]


@pytest.mark.parametrize(("name", "options", "closed_form", "implementation", "training"), variants(ARCHITECTURES))
def test_a_vision_model_counts_to_its_closed_form(name, options, closed_form, implementation, training):
    model = build(name, options, implementation=implementation, training=training)
    check(model, {"pixel_values": images()}, closed_form(model.config))
