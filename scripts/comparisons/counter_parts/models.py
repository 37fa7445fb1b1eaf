"""The models that FLOP counters are compared on, each with the closed form of its forward FLOPs.

A closed form is computed from a configuration alone, never from the model. Attention counts as the full square, as in
PaLM's appendix B. Norms, activations and other elementwise work are not model FLOPs. A library of models is imported
only where one of its models is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from scripts.comparisons.counter_parts.nets import Recurrent, RecurrentConfig, ResNetConfig, resnet

BATCH, LENGTH = 2, 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model.

    Attributes:
        config: Makes its configuration.
        model: Makes the model of a configuration, with random weights.
        inputs: Makes the inputs of one forward pass from a configuration.
        flops: Returns the forward FLOPs of a configuration on these inputs, in closed form.
    """

    config: Callable[[], Any]
    model: Callable[[Any], nn.Module]
    inputs: Callable[[Any], tuple[Tensor, ...]]
    flops: Callable[[Any], int]


def tokens(config: Any) -> tuple[Tensor, ...]:
    """A batch of random token ids."""
    return (torch.randint(config.vocab_size, (BATCH, LENGTH)),)


def transformer_flops(*, tokens: int, weights: int, layers: int, width: int, length: int) -> int:
    """Returns the forward FLOPs of a transformer's matrices and of its attention.

    Args:
        tokens: Number of tokens in the batch.
        weights: Number of weights of the matrices that are applied to every token.
        layers: Number of layers with attention.
        width: Joint width of the attention heads.
        length: Number of tokens in a sequence.
    """
    return 2 * tokens * weights + 4 * tokens * layers * width * length


def gpt2_flops(config: Any) -> int:
    """GPT-2, ours or Hugging Face's: blocks of 12 C^2 weights, and the head."""
    width, layers = config.n_embd, config.n_layer
    weights = layers * 12 * width**2 + width * config.vocab_size
    return transformer_flops(tokens=BATCH * LENGTH, weights=weights, layers=layers, width=width, length=LENGTH)


def our_gpt_config() -> Any:
    """GPT-2 small."""
    from gpt import get_config

    return get_config("gpt-small")


def our_gpt(config: Any) -> nn.Module:
    """The GPT of this repository."""
    from gpt import GPT

    return GPT(config)


def hugging_face_gpt2_config() -> Any:
    """GPT-2 small."""
    from transformers import GPT2Config

    return GPT2Config(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, use_cache=False)


def hugging_face_gpt2(config: Any) -> nn.Module:
    """Hugging Face's GPT-2."""
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel(config)


LLAMA_SHAPE = {
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "use_cache": False,
}


def llama_config() -> Any:
    """A small Llama in which four query heads share a key and value head."""
    from transformers import LlamaConfig

    return LlamaConfig(**LLAMA_SHAPE)


def llama(config: Any) -> nn.Module:
    """Hugging Face's Llama."""
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM(config)


def mixtral_config() -> Any:
    """A small Mixtral of four experts, two for each token."""
    from transformers import MixtralConfig

    return MixtralConfig(**LLAMA_SHAPE, num_local_experts=4, num_experts_per_tok=2)


def mixtral(config: Any) -> nn.Module:
    """Hugging Face's Mixtral, with its default implementation of the experts (a grouped matmul)."""
    from transformers import MixtralForCausalLM

    return MixtralForCausalLM(config)


def llama_flops(config: Any, *, feed_forwards: int = 1, router: int = 0) -> int:
    """Llama: query and output, key and value, three matrices for each feed-forward of a token, the head."""
    width, layers, heads = config.hidden_size, config.num_hidden_layers, config.num_attention_heads
    head = width // heads
    attention = 2 * width * heads * head + 2 * width * config.num_key_value_heads * head
    block = attention + feed_forwards * 3 * width * config.intermediate_size + router
    weights = layers * block + width * config.vocab_size
    return transformer_flops(tokens=BATCH * LENGTH, weights=weights, layers=layers, width=heads * head, length=LENGTH)


def mixtral_flops(config: Any) -> int:
    """Mixtral: a Llama with the experts that a token is routed to, and the router."""
    router = config.hidden_size * config.num_local_experts
    return llama_flops(config, feed_forwards=config.num_experts_per_tok, router=router)


def recurrent_flops(config: RecurrentConfig) -> int:
    """LSTM: four gates multiply the input and the state, in each layer at each step; then the head."""
    hidden = config.hidden
    weights = 4 * hidden * (config.features + hidden) + (config.layers - 1) * 4 * hidden * (hidden + hidden)
    return 2 * BATCH * LENGTH * (weights + hidden * config.labels)


def resnet_flops(config: ResNetConfig) -> int:
    """ResNet: every output pixel of a convolution is a matmul with its kernel; then the head."""
    macs, pixels, before = 3 * 9 * config.widths[0] * config.image**2, config.image**2, config.widths[0]
    for stage, width in enumerate(config.widths):
        pixels = pixels // 4 if stage else pixels
        macs += pixels * 9 * width * (before + (2 * config.blocks - 1) * width)
        macs += pixels * before * width if stage else 0
        before = width
    return 2 * BATCH * (macs + before * config.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """The shape of an `nn.TransformerEncoder`."""

    width: int = 256
    heads: int = 4
    feed_forward: int = 1024
    layers: int = 4


def encoder(config: EncoderConfig) -> nn.Module:
    """Torch's own transformer, (B, T, width) -> (B, T, width)."""
    layer = nn.TransformerEncoderLayer(config.width, config.heads, config.feed_forward, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, config.layers)


def encoder_flops(config: EncoderConfig) -> int:
    """Encoder: query, key, value and output, and the two matrices of the feed-forward."""
    width, layers = config.width, config.layers
    weights = layers * (4 * width**2 + 2 * width * config.feed_forward)
    return transformer_flops(tokens=BATCH * LENGTH, weights=weights, layers=layers, width=width, length=LENGTH)


def vit_config() -> Any:
    """A small vision transformer."""
    from transformers import ViTConfig

    shape = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 3}
    return ViTConfig(**shape, image_size=64, patch_size=8, num_labels=10)


def vit(config: Any) -> nn.Module:
    """Hugging Face's ViT."""
    from transformers import ViTForImageClassification

    return ViTForImageClassification(config)


def vit_flops(config: Any) -> int:
    """ViT: the projection of the patches, the blocks on patches and class token, the head on the class token."""
    width, layers = config.hidden_size, config.num_hidden_layers
    patches = (config.image_size // config.patch_size) ** 2
    patch_weights = config.num_channels * config.patch_size**2 * width
    weights, length = layers * (4 * width**2 + 2 * width * config.intermediate_size), patches + 1
    blocks = transformer_flops(tokens=BATCH * length, weights=weights, layers=layers, width=width, length=length)
    return blocks + 2 * BATCH * (patches * patch_weights + width * config.num_labels)


def images(side: int) -> tuple[Tensor, ...]:
    """A batch of random images."""
    return (torch.randn(BATCH, 3, side, side),)


SUBJECTS: Mapping[str, Subject] = MappingProxyType(
    {
        "gpt-small": Subject(config=our_gpt_config, model=our_gpt, inputs=tokens, flops=gpt2_flops),
        "hf-gpt2": Subject(config=hugging_face_gpt2_config, model=hugging_face_gpt2, inputs=tokens, flops=gpt2_flops),
        "hf-llama-gqa": Subject(config=llama_config, model=llama, inputs=tokens, flops=llama_flops),
        "hf-mixtral": Subject(config=mixtral_config, model=mixtral, inputs=tokens, flops=mixtral_flops),
        "lstm": Subject(
            config=RecurrentConfig,
            model=Recurrent,
            inputs=lambda config: (torch.randn(BATCH, LENGTH, config.features),),
            flops=recurrent_flops,
        ),
        "resnet": Subject(
            config=ResNetConfig,
            model=resnet,
            inputs=lambda config: images(config.image),
            flops=resnet_flops,
        ),
        "torch-encoder": Subject(
            config=EncoderConfig,
            model=encoder,
            inputs=lambda config: (torch.randn(BATCH, LENGTH, config.width),),
            flops=encoder_flops,
        ),
        "hf-vit": Subject(
            config=vit_config,
            model=vit,
            inputs=lambda config: images(config.image_size),
            flops=vit_flops,
        ),
    }
)
