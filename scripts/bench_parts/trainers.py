"""Makes what a request asks for: the Trainer, its strategy, and the module."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy

from gpt import GPTModule
from scripts.bench_parts.row import Request


def make_trainer(
    request: Request,
    callbacks: list[Callback],
    *,
    max_steps: int,
    accumulate_grad_batches: int | None = None,
    logger: Any = False,
) -> Trainer:
    """Returns a Trainer that logs every step and has all other output off.

    Args:
        request: The request.
        callbacks: The Trainer's callbacks.
        max_steps: Optimizer steps.
        accumulate_grad_batches: Batches in each of them; None is the request's.
        logger: The Trainer's logger.
    """
    return Trainer(
        accelerator=request.accelerator,
        devices=request.devices,
        strategy=strategy_of(request),
        precision=request.precision,
        accumulate_grad_batches=accumulate_grad_batches or request.accumulate_grad_batches,
        max_steps=max_steps,
        callbacks=callbacks,
        logger=logger,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def strategy_of(request: Request) -> Any:
    """Returns the strategy of the Trainer: FSDP2 over all devices, or the name of one of Lightning's."""
    if request.strategy != "fsdp2":
        return request.strategy
    return ModelParallelStrategy(data_parallel_size=request.devices, tensor_parallel_size=1)


def make_module(request: Request) -> GPTModule:
    """Returns the module, on the device and in the dtype of the request, compiled if it asks for that."""
    with make_trainer(request, [], max_steps=1).init_module():
        module = GPTModule(request.size, checkpoint_activations=request.checkpoint_activations)
    if request.compile is not None:
        compile_model(module, request)
    return module


def compile_model(module: GPTModule, request: Request) -> None:
    """Compile the model with its loss, or on several devices each block.

    FSDP2 gathers the weights of each block before it runs. DDP reduces the gradients of one block while those of the
    next are computed, so that torch need not split graphs for that, which it does not do where they have checkpoints.
    """
    if request.devices > 1:
        torch._dynamo.config.optimize_ddp = False
    for part in [module.model] if request.devices == 1 else module.model.blocks:
        part.compile(mode=request.compile)


def set_precision_of_float32(request: Request) -> None:
    """Let CUDA multiply float32 matrices in TF32 if the request asks for that.

    https://docs.pytorch.org/docs/stable/generated/torch.set_float32_matmul_precision.html
    """
    if request.tf32:
        torch.set_float32_matmul_precision("high")
