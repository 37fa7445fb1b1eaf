"""Image models against closed forms that are written from the models' configurations alone."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mfu_callback import count_flops
from tests.helpers.timm_alone import timm

IMAGES = 2


def conv(positions, inputs, outputs, kernel=1, groups=1):
    return 2 * positions * inputs // groups * outputs * kernel**2


def mlp(rows, width, hidden):
    return 4 * rows * width * hidden


def encoder_block(tokens, width, *, keys=None):
    """Four projections, attention of every token to `keys` others (all by default), an MLP of 4 times the width."""
    return 8 * tokens * width**2 + 4 * tokens * (keys or tokens) * width + mlp(tokens, width, 4 * width)


def latent_pool(tokens, width):
    """One learnt query: its projection and the output's, keys and values of all tokens, an MLP."""
    return 4 * width**2 + 4 * tokens * width**2 + 4 * tokens * width + mlp(1, width, 4 * width)


def patches(size, *, patch_size, embed_dim, num_classes, heads=1, **_):
    """Both ends of a patch model: its number of tokens, and the FLOPs of the embedding and of the classifier."""
    tokens = (size // patch_size) ** 2
    return tokens, conv(tokens, 3, embed_dim, patch_size) + heads * 2 * embed_dim * num_classes


def vit(size, *, embed_dim, depth, class_token=True, reg_tokens=0, global_pool="token", distilled=False, **config):
    tokens, ends = patches(size, embed_dim=embed_dim, heads=1 + distilled, **config)
    pool = latent_pool(tokens, embed_dim) if global_pool == "map" else 0
    return ends + depth * encoder_block(tokens + class_token + distilled + reg_tokens, embed_dim) + pool


def deit(size, **config):
    return vit(size, distilled=True, **config)


def cait(size, *, embed_dim, depth, num_heads, depth_token_only, **config):
    tokens, ends = patches(size, embed_dim=embed_dim, **config)
    talking_heads = 2 * 2 * tokens**2 * num_heads**2
    class_attention = latent_pool(tokens + 1, embed_dim)
    return ends + depth * (encoder_block(tokens, embed_dim) + talking_heads) + depth_token_only * class_attention


def swin(size, *, patch_size, embed_dim, depths, window_size, num_classes, **_):
    grid, width, flops = size // patch_size, embed_dim, 0
    for stage, depth in enumerate(depths):
        if stage:  # four neighbours of half the width become one
            grid, width = grid // 2, 2 * width
            flops += conv(grid**2, 2 * width, width)
        flops += depth * encoder_block(grid**2, width, keys=window_size**2)
    return conv((size // patch_size) ** 2, 3, embed_dim, patch_size) + flops + 2 * width * num_classes


def swin_v2(size, *, depths, num_heads, window_size, **config):
    # A block's bias comes from an MLP over the relative positions, once for all images.
    positions = 2 * (2 * window_size - 1) ** 2 // IMAGES
    bias = sum(depth * positions * (2 * 512 + 512 * heads) for depth, heads in zip(depths, num_heads, strict=True))
    return swin(size, depths=depths, window_size=window_size, **config) + bias


def convnext(size, *, depths, dims, num_classes, **_):
    grid, before, flops = size // 4, 3, 0
    for stage, (depth, width) in enumerate(zip(depths, dims, strict=True)):
        grid //= 2 if stage else 1
        block = conv(grid**2, width, width, 7, groups=width) + mlp(grid**2, width, 4 * width)
        flops += conv(grid**2, before, width, 2 if stage else 4) + depth * block
        before = width
    return flops + 2 * before * num_classes


def strides(layers, first):
    return [first] + [1] * (layers - 1)


def resnet(size, *, block, layers, channels, num_classes, cardinality=1, base_width=64):
    grid, inputs, narrow = size // 4, 64, block is timm.models.resnet.Bottleneck
    flops = conv(4 * grid**2, 3, inputs, 7)
    for stage, (depth, width) in enumerate(zip(layers, channels, strict=True)):
        inner, outputs = (width * base_width // 64 * cardinality, 4 * width) if narrow else (width, width)
        for stride in strides(depth, 2 if stage else 1):
            before, grid = grid, grid // stride
            if narrow:
                flops += conv(before**2, inputs, inner) + conv(grid**2, inner, outputs)
                flops += conv(grid**2, inner, inner, 3, groups=cardinality)
            else:
                flops += conv(grid**2, inputs, width, 3) + conv(grid**2, width, width, 3)
            flops += conv(grid**2, inputs, outputs) if inputs != outputs or stride != 1 else 0
            inputs = outputs
    return flops + 2 * inputs * num_classes


def regnet_y(size, *, widths=(24, 56, 152, 368), depths=(1, 1, 4, 7), group=8):
    grid, inputs = size // 2, 32
    flops = conv(grid**2, 3, inputs, 3)
    for depth, width in zip(depths, widths, strict=True):
        for stride in strides(depth, 2):
            before, grid = grid, grid // stride
            flops += conv(before**2, inputs, width) + conv(grid**2, width, width, 3, width // group)
            flops += mlp(1, width, inputs // 4) + conv(grid**2, width, width)  # squeeze and excite, then 1x1
            flops += conv(grid**2, inputs, width) if stride == 2 else 0
            inputs = width
    return flops + 2 * inputs * 1000


def inverted_residual(grid, inputs, expanded, outputs, kernel, stride, squeezed):
    flops = conv(grid**2, inputs, expanded) if expanded != inputs else 0
    grid //= stride
    flops += conv(grid**2, expanded, expanded, kernel, groups=expanded) + mlp(1, expanded, squeezed)
    return grid, flops + conv(grid**2, expanded, outputs)


def mobilenet_v3_small(size):
    grid, inputs = size // 2, 16
    flops = conv(grid**2, 3, inputs, 3)
    # Table 2 of https://arxiv.org/abs/1905.02244: kernel, expanded, out, squeeze and excite, stride.
    table = [(3, 16, 16, True, 2), (3, 72, 24, False, 2), (3, 88, 24, False, 1), (5, 96, 40, True, 2)]
    table += [(5, 240, 40, True, 1)] * 2 + [(5, 120, 48, True, 1), (5, 144, 48, True, 1)]
    table += [(5, 288, 96, True, 2)] + [(5, 576, 96, True, 1)] * 2
    for kernel, expanded, outputs, squeeze, stride in table:
        squeezed = max(8, (expanded // 4 + 4) // 8 * 8) if squeeze else 0  # a quarter, to a multiple of 8
        grid, block = inverted_residual(grid, inputs, expanded, outputs, kernel, stride, squeezed)
        flops, inputs = flops + block, outputs
    return flops + conv(grid**2, 96, 576) + conv(1, 576, 1024) + 2 * 1024 * 1000


def efficientnet_b0(size):
    grid, inputs = size // 2, 32
    flops = conv(grid**2, 3, inputs, 3)
    # Table 1 of https://arxiv.org/abs/1905.11946: expansion, channels, layers, kernel, stride.
    table = [(1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2)]
    table += [(6, 112, 3, 5, 1), (6, 192, 4, 5, 2), (6, 320, 1, 3, 1)]
    for expansion, outputs, layers, kernel, first in table:
        for stride in strides(layers, first):
            block = inverted_residual(grid, inputs, expansion * inputs, outputs, kernel, stride, inputs // 4)
            grid, flops, inputs = block[0], flops + block[1], outputs
    return flops + conv(grid**2, 320, 1280) + 2 * 1280 * 1000


def densenet(size, *, growth_rate, block_config, num_classes):
    grid, width = size // 4, 2 * growth_rate
    flops = conv(4 * grid**2, 3, width, 7)
    for block, depth in enumerate(block_config):
        if block:
            flops += conv(grid**2, width, width // 2)
            grid, width = grid // 2, width // 2
        for _ in range(depth):
            flops += conv(grid**2, width, 4 * growth_rate) + conv(grid**2, 4 * growth_rate, growth_rate, 3)
            width += growth_rate
    return flops + 2 * width * num_classes


def vgg(size, *, cfg, num_classes):
    inputs, flops = 3, 0
    for step in cfg:
        if step == "M":
            size //= 2
        else:
            flops, inputs = flops + conv(size**2, inputs, step, 3), step
    # Smaller feature maps are stretched to the 7x7 that the classifier takes.
    return flops + conv(1, inputs, 4096, 7) + 2 * 4096 * (4096 + num_classes)


def mixer(size, *, embed_dim, num_blocks, block_layer=None, **config):
    tokens, ends = patches(size, embed_dim=embed_dim, **config)
    if block_layer is timm.models.mlp_mixer.SpatialGatingBlock:  # half of the hidden channels gates the other half
        block = 2 * tokens * embed_dim * 6 * embed_dim + 2 * tokens**2 * 2 * embed_dim
    elif block_layer is timm.models.mlp_mixer.ResBlock:
        block = 2 * tokens**2 * embed_dim + mlp(tokens, embed_dim, 4 * embed_dim)
    else:
        block = mlp(embed_dim, tokens, embed_dim // 2) + mlp(tokens, embed_dim, 4 * embed_dim)
    return ends + num_blocks * block


def conv_mixer(size, *, dim, depth, kernel_size, patch_size, num_classes):
    tokens, ends = patches(size, patch_size=patch_size, embed_dim=dim, num_classes=num_classes)
    return ends + depth * (conv(tokens, dim, dim, kernel_size, groups=dim) + conv(tokens, dim, dim))


class UNet(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.down = nn.ModuleList(self.double(*pair) for pair in zip((3, *widths), widths, strict=False))
        ups = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, width, 4, stride=2, padding=1) for deep, width in ups)
        self.merge = nn.ModuleList(self.double(2 * width, width) for _, width in ups)
        self.head = nn.Conv2d(widths[0], 5, 1)

    @staticmethod
    def double(inputs, width):
        first, second = nn.Conv2d(inputs, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        return nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU(), second, nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, x):
        skips = [self.down[0](x)]
        for block in self.down[1:]:
            skips.append(block(F.max_pool2d(skips[-1], 2)))
        x = skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([up(x), skips.pop()], dim=1))
        return self.head(x)


def unet(size, *, widths):
    flops = conv(size**2, widths[0], 5)
    for level, (inputs, width) in enumerate(zip((3, *widths), widths, strict=False)):
        grid = size >> level
        flops += conv(grid**2, inputs, width, 3) + conv(grid**2, width, width, 3)
        if level:  # back up: every pixel meets every kernel element, also those whose result padding cuts off
            flops += conv(grid**2, width, inputs, 4)
            flops += conv(4 * grid**2, 2 * inputs, inputs, 3) + conv(4 * grid**2, inputs, inputs, 3)
    return flops


models, mixers, resnets = timm.models, timm.models.mlp_mixer, timm.models.resnet
VIT = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
AVERAGED = VIT | {"class_token": False, "global_pool": "avg", "reg_tokens": 3, "qk_norm": True}
WINDOWS = {"depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
SWIN = WINDOWS | {"img_size": 64, "patch_size": 4, "embed_dim": 16, "num_classes": 5}
CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "num_classes": 5}
NARROW = {"block": resnets.BasicBlock, "channels": (8, 16, 32, 64), "num_classes": 5}
RESNET = {"block": resnets.Bottleneck, "channels": (64, 128, 256, 512), "num_classes": 1000}
MIXER = {"img_size": 64, "patch_size": 16, "embed_dim": 24, "num_blocks": 2, "num_classes": 5}
GATED = {"mlp_ratio": 4, "block_layer": mixers.SpatialGatingBlock, "mlp_layer": timm.layers.GatedMlp}
CONVMIXER = {"dim": 24, "depth": 2, "kernel_size": 5, "patch_size": 8, "num_classes": 5}


MODELS = {
    "ViT": (models.VisionTransformer, VIT, vit),
    "ViT that averages": (models.VisionTransformer, AVERAGED, vit),
    "ViT with a learnt query": (models.VisionTransformer, VIT | {"global_pool": "map"}, vit),
    "DeiT": (models.VisionTransformerDistilled, VIT, deit),
    "CaiT": (models.Cait, VIT | {"depth_token_only": 1}, cait),
    "Swin": (models.SwinTransformer, SWIN, swin),
    "Swin V2": (models.SwinTransformerV2, SWIN, swin_v2),
    "ConvNeXt": (models.ConvNeXt, CONVNEXT, convnext),
    "ConvNeXt V2": (models.ConvNeXt, CONVNEXT | {"use_grn": True, "conv_mlp": True, "ls_init_value": None}, convnext),
    "ResNet-18": (models.ResNet, NARROW | {"layers": (2, 2, 2, 2)}, resnet),
    "ResNet-50": (models.ResNet, RESNET | {"layers": (3, 4, 6, 3)}, resnet),
    "ResNeXt": (models.ResNet, RESNET | {"layers": (1, 2, 1, 1), "cardinality": 4, "base_width": 16}, resnet),
    "RegNetY": (models.regnety_002, {}, regnet_y),
    "MobileNetV3": (models.mobilenetv3_small_100, {}, mobilenet_v3_small),
    "EfficientNet": (models.efficientnet_b0, {}, efficientnet_b0),
    "DenseNet": (models.DenseNet, {"growth_rate": 8, "block_config": (2, 3, 1), "num_classes": 5}, densenet),
    "VGG": (models.VGG, {"cfg": [8, "M", 16, 16, "M", 24, "M", 8, "M"], "num_classes": 5}, vgg),
    "MLP-Mixer": (models.MlpMixer, MIXER, mixer),
    "gMLP": (models.MlpMixer, MIXER | GATED, mixer),
    "ResMLP": (models.MlpMixer, MIXER | {"mlp_ratio": 4, "block_layer": mixers.ResBlock}, mixer),
    "ConvMixer": (models.ConvMixer, CONVMIXER, conv_mixer),
    "U-Net": (UNet, {"widths": (4, 8, 16)}, unet),
}


@pytest.mark.parametrize(("device", "training"), [("cpu", False), ("meta", True)])
@pytest.mark.parametrize(("build", "config", "closed_form"), MODELS.values(), ids=MODELS)
def test_an_image_model_counts_what_its_configuration_says(build, config, closed_form, device, training):
    with torch.device(device):
        model, images = build(**config), torch.zeros(IMAGES, 3, 64, 64)
    count = count_flops(model.train(training), images)
    assert (count.forward, count.uncounted) == (IMAGES * closed_form(64, **config), ())


def test_a_gan_generator_grows_an_image_from_noise():
    widths = (16, 8, 4, 3)
    layers = [nn.ConvTranspose2d(10, widths[0], 4)]
    for inputs, outputs in pairwise(widths):
        layers += [nn.BatchNorm2d(inputs), nn.ReLU(), nn.ConvTranspose2d(inputs, outputs, 4, 2, padding=1)]
    count = count_flops(nn.Sequential(*layers, nn.Tanh()), torch.zeros(IMAGES, 10, 1, 1))
    grown = conv(4**2, 16, 8, 4) + conv(8**2, 8, 4, 4) + conv(16**2, 4, 3, 4)
    assert (count.forward, count.uncounted) == (IMAGES * (conv(1, 10, 16, 4) + grown), ())
