"""What a Hugging Face Trainer tells of a run; starts and changes nothing."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from mfu_callback.board.facts import RunFacts
from mfu_callback.board.run_facts import facts_of
from mfu_callback.loops.unwrapped import dtype_of
from mfu_callback.meter.circumstances import Circumstances
from mfu_callback.meter.known_circumstances import known_circumstances
from mfu_callback.meter.meter import RunMeter

_MIXED = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NOT_OF_THE_USER = ("transformers.", "mfu_callback.")


def matmul_dtype(trainer: Any, module: nn.Module) -> torch.dtype:
    """The dtype of the matmuls' inputs, as far as the arguments and the parameters tell it.

    Args:
        trainer: The Trainer.
        module: The model.
    """
    return _MIXED.get(str(trainer.accelerator.mixed_precision)) or dtype_of(module)


def ranks_per_batch(trainer: Any, tensor_parallel: int) -> int:
    """Number of ranks that are handed the same batch: those of tensor, context and sequence parallelism.

    Args:
        trainer: The Trainer.
        tensor_parallel: Number of ranks that share the model's tensors, as its parameters tell it.
    """
    with suppress(Exception):  # a Trainer of the user's, another version of transformers
        return int(trainer.get_tp_size() * trainer.get_cp_size() * trainer.get_sp_size())
    return tensor_parallel


def facts_of_run(trainer: Any, module: nn.Module, meter: RunMeter) -> RunFacts:
    """The facts of a run that has begun.

    Args:
        trainer: The Trainer.
        module: The model.
        meter: The meter, after the first step.
    """
    mixed = str(trainer.accelerator.mixed_precision)
    facts = facts_of(
        module,
        meter,
        device=trainer.args.device,
        devices=trainer.args.world_size,
        precision=f"{mixed}-mixed" if mixed != "no" else str(dtype_of(module)).removeprefix("torch."),
        strategy=trainer.accelerator.distributed_type.value,
        accumulate_grad_batches=trainer.args.gradient_accumulation_steps,
    )
    facts.versions.update({name: version(name) for name in ("transformers", "accelerate")})
    return facts


def circumstances_of(
    trainer: Any, module: nn.Module, *, batch_size: int | None, processes: int, loader: Any
) -> Circumstances:
    """The settings of a run that its advice takes into account; what cannot be found out is None.

    Args:
        trainer: The Trainer.
        module: The model as it is called: compiled, in DDP.
        batch_size: Samples of a micro-batch.
        processes: Number of processes of the run on this machine.
        loader: The loader of the training data.
    """
    return known_circumstances(
        module,
        loop="hugging face",
        batch_size=batch_size,
        device=lambda: str(trainer.args.device.type),
        processes=lambda: processes,
        loaders=lambda: [loader],
        # A scaler of gradients and clipping: fused optimizers cannot have both.
        optimizers=lambda: [] if trainer.accelerator.scaler is not None else [trainer.optimizer.optimizer],
        log_every_n_steps=lambda: trainer.state.logging_steps,
        callbacks=lambda: _callbacks(trainer),
    )


def _callbacks(trainer: Any) -> tuple[str, ...]:
    kinds = [type(one) for one in trainer.callback_handler.callbacks]
    return tuple(kind.__name__ for kind in kinds if not kind.__module__.startswith(_NOT_OF_THE_USER))
