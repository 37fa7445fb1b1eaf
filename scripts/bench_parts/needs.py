"""What a training step of a GPT size needs, by formula, before anything is built."""

from __future__ import annotations

from functools import cache

import torch

from gpt import SIZES, GPTModule
from mfu_callback import palm_flops_per_token

# Bytes of a parameter with its gradient and AdamW's two moments; under autocast also of its copy in half precision.
_STATE_BYTES = {"32-true": 16, "bf16-true": 8, "16-true": 8, "bf16-mixed": 18, "16-mixed": 18}
# Activations of a layer for one token and one channel with fused attention, in half precision: Korthikanti et al. 2022,
# https://arxiv.org/abs/2205.05198, equation 2 without the terms of the attention's square.
_ACTIVATION_BYTES = 34
_COPIES_OF_LOGITS = 2  # they and their gradient


def flops_of_step(size: str, batch_size: int, context_length: int) -> float:
    """Returns about the FLOPs of a training step; see `palm_flops_per_token`."""
    config = SIZES[size]
    per_token = palm_flops_per_token(
        parameters=parameters_of(size),
        layers=config.n_layer,
        heads=config.n_head,
        head_dim=config.n_embd // config.n_head,
        length=context_length,
    )
    return batch_size * context_length * per_token


def memory_of_step(size: str, precision: str, tokens: int) -> float:
    """Returns about the peak memory of a training step in bytes."""
    return state_bytes(size, precision) + tokens * bytes_per_token(size, precision)


def state_bytes(size: str, precision: str) -> float:
    """Returns the bytes of parameters, gradients and AdamW's moments."""
    return _STATE_BYTES[precision] * parameters_of(size)


def bytes_per_token(size: str, precision: str) -> float:
    """Returns about the bytes that each token of a batch adds; rather too many than too few."""
    config, width = SIZES[size], 4 if precision.startswith("32") or precision.endswith("mixed") else 2
    activations = _ACTIVATION_BYTES / 2 * width * config.n_layer * config.n_embd
    return activations + _COPIES_OF_LOGITS * width * config.vocab_size


@cache
def parameters_of(size: str) -> int:
    """Returns the number of parameters of a size."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in GPTModule(size).parameters())
