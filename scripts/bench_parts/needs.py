"""What a training step of a GPT size needs, by formula, before anything is built."""

from __future__ import annotations

from functools import cache
from typing import Protocol

import torch

from gpt import SIZES, GPTModule
from mfu_callback import palm_flops_per_token

# Bytes of a parameter with its gradient and AdamW's two moments; under autocast also of its copy in half precision.
_STATE_BYTES = {"32-true": 16, "bf16-true": 8, "16-true": 8, "bf16-mixed": 18, "16-mixed": 18}
# Activations of a layer for one token and one channel with fused attention, in half precision: Korthikanti et al. 2022,
# https://arxiv.org/abs/2205.05198, equation 2 without the terms of the attention's square.
_ACTIVATION_BYTES = 34
_INPUT_BYTES = 2  # of which a checkpoint keeps the block's input alone
_COPIES_OF_LOGITS = 2  # they and their gradient
_RECOMPUTED = 4 / 3  # a second forward pass beside a forward and a backward pass of twice that


class Options(Protocol):
    """What of the command line changes the work and the memory of a step."""

    @property
    def accumulate_grad_batches(self) -> int:
        """Batches in an optimizer step."""

    @property
    def checkpoint_activations(self) -> bool:
        """Whether each block is computed a second time in the backward pass."""

    @property
    def strategy(self) -> str:
        """The strategy."""

    @property
    def devices(self) -> int:
        """The number of devices."""


def flops_of_step(size: str, batch_size: int, context_length: int) -> float:
    """Returns about the model FLOPs of a training step of one batch; see `palm_flops_per_token`."""
    config = SIZES[size]
    per_token = palm_flops_per_token(
        parameters=parameters_of(size),
        layers=config.n_layer,
        heads=config.n_head,
        head_dim=config.n_embd // config.n_head,
        length=context_length,
    )
    return batch_size * context_length * per_token


def work_of_step(size: str, batch_size: int, context_length: int, options: Options) -> float:
    """Returns about the FLOPs that run in an optimizer step: those of all its batches, with what is recomputed."""
    recomputed = _RECOMPUTED if options.checkpoint_activations else 1.0
    return options.accumulate_grad_batches * recomputed * flops_of_step(size, batch_size, context_length)


def memory_of_step(size: str, precision: str, tokens: int, options: Options) -> float:
    """Returns about the peak memory of a training step on one device, in bytes."""
    return state_bytes(size, precision, options) + tokens * bytes_per_token(size, precision, options)


def state_bytes(size: str, precision: str, options: Options) -> float:
    """Returns the bytes of parameters, gradients and AdamW's moments on one device.

    FSDP2 divides them among the devices; before that each process makes all of the weights.
    """
    whole = _STATE_BYTES[precision] * parameters_of(size)
    if options.strategy != "fsdp2":
        return whole
    return max(whole / options.devices, _width(precision) * parameters_of(size))


def bytes_per_token(size: str, precision: str, options: Options) -> float:
    """Returns about the bytes that each token of a batch adds; rather too many than too few."""
    config, width = SIZES[size], _width(precision)
    of_block, blocks = _ACTIVATION_BYTES / 2 * width * config.n_embd, config.n_layer
    activations = blocks * of_block
    if options.checkpoint_activations:  # one block at a time is there as a whole
        activations = blocks * of_block * _INPUT_BYTES / _ACTIVATION_BYTES + of_block
    return activations + _COPIES_OF_LOGITS * width * config.vocab_size


@cache
def parameters_of(size: str) -> int:
    """Returns the number of parameters of a size."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in GPTModule(size).parameters())


def _width(precision: str) -> int:
    """Bytes of a weight, and rather too many of an activation: autocast keeps some in float32."""
    return 4 if precision.startswith("32") or precision.endswith("mixed") else 2
