"""Closed forms of model FLOPs for the parts that architectures share: 2 for each multiply-accumulate."""

import pytest
import torch
import transformers

from mfu_callback import count_flops
from tests.helpers.torch_features import found

EAGER = "eager"
BOTH = (EAGER, "sdpa")

BATCH, LENGTH = 2, 24
TOKENS = BATCH * LENGTH
SIDE = 32  # pixels of an image's side
VOCABULARY = {"vocab_size": 97, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# Options that have the same name in many configurations; no two sizes are the same.
TRANSFORMER = {
    **VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "attention_dropout": 0.1,
}
DECODER = {**TRANSFORMER, "num_key_value_heads": 2}
VIT = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "image_size": SIDE,
    "patch_size": 8,
    "attention_dropout": 0.1,
}


def linear(tokens, d_in, d_out):
    return 2 * tokens * d_in * d_out


def mlp(tokens, width, inner):
    return linear(tokens, width, inner) + linear(tokens, inner, width)


def gated_mlp(tokens, width, inner):
    return mlp(tokens, width, inner) + linear(tokens, width, inner)


def convolution(outputs, c_in, c_out, kernel, groups=1):
    """``outputs`` is the number of positions of the kernel in all samples, including positions over padding."""
    return 2 * outputs * kernel * (c_in // groups) * c_out


def steps(length, kernel, stride, padding=0):
    """The number of positions of a convolution's kernel along one dimension."""
    return (length + 2 * padding - kernel) // stride + 1


def attention(batch, heads, queries, keys, head_dim, value_dim=None):
    """Q K^T and A V over every pair of a query and a key, masked or not."""
    return 2 * batch * heads * queries * keys * (head_dim + (value_dim or head_dim))


def attention_block(batch, length, width, heads, *, kv_heads=None, head_dim=None, keys=None):
    """The projections of queries, keys, values and the output, and the attention between them."""
    head_dim, keys = head_dim or width // heads, keys or length
    projections = 2 * linear(batch * length, width, heads * head_dim)
    projections += 2 * linear(batch * keys, width, (kv_heads or heads) * head_dim)
    return projections + attention(batch, heads, length, keys, head_dim)


def transformer_block(batch, length, width, heads, inner):
    return attention_block(batch, length, width, heads) + mlp(batch * length, width, inner)


def grouped_attention(c):
    """The attention block of a decoder whose heads may share keys and values, and may have their own width."""
    sizes = {"kv_heads": c.num_key_value_heads, "head_dim": getattr(c, "head_dim", None)}
    return attention_block(BATCH, LENGTH, c.hidden_size, c.num_attention_heads, **sizes)


def head(c):
    """Logits of every token."""
    return linear(TOKENS, c.hidden_size, c.vocab_size)


def patches(c, width):
    return convolution(BATCH * (SIDE // c.patch_size) ** 2, c.num_channels, width, c.patch_size**2)


def vision_tower(c):
    """The projection of the patches, and the blocks on the patches and a class token."""
    length = (SIDE // c.patch_size) ** 2 + 1
    block = transformer_block(BATCH, length, c.hidden_size, c.num_attention_heads, c.intermediate_size)
    return patches(c, c.hidden_size) + c.num_hidden_layers * block


def build(name, options, *, implementation=EAGER, training=False):
    """A model of transformers, by the name of its class.

    In training, a model with dropout chooses other kernels.
    """
    if found("transformers.integrations.moe") is None:
        pytest.skip("the closed forms are those of transformers 5")
    model_class = getattr(transformers, name)
    config = model_class.config_class(**{**options, "attn_implementation": implementation})
    return model_class(config).train(training)


def variants(rows):
    """A row for each architecture with each of its attention implementations, in evaluation and in training."""
    return [
        pytest.param(*row[1:-1], implementation, training, id=f"{row[0]}-{implementation}-{mode}")
        for row in rows
        for implementation in row[-1]
        for training, mode in ((False, "eval"), (True, "train"))
    ]


def tokens(length=LENGTH):
    """Random token ids without the special ones, which some models look for."""
    return torch.randint(3, VOCABULARY["vocab_size"], (BATCH, length))


def images():
    return torch.randn(BATCH, 3, SIDE, SIDE)


def check(model, inputs, expected):
    # In inference mode, operators such as matmul and einsum reach a counter without being decomposed.
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            count = count_flops(model, **inputs)
        assert (count.forward, count.uncounted, count.complete) == (expected, (), True)
