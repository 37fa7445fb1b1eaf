"""Collects the settings of a run that its advice takes into account, from its Trainer; starts and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.utils._pytree import tree_leaves

from mfu_callback.meter.circumstances import Circumstances
from mfu_callback.meter.known_circumstances import known_circumstances

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_NOT_OF_THE_USER = ("lightning.", "pytorch_lightning.", "mfu_callback.")


def circumstances_of(trainer: Trainer, pl_module: LightningModule, *, batch_size: int | None) -> Circumstances:
    """The settings of a run; what cannot be found out is None.

    Args:
        trainer: The Trainer, in fit.
        pl_module: The model.
        batch_size: Samples of a micro-batch.
    """
    return known_circumstances(
        pl_module,
        loop="trainer",
        batch_size=batch_size,
        device=lambda: trainer.strategy.root_device.type,
        processes=lambda: trainer.num_devices,
        loaders=lambda: tree_leaves(trainer.train_dataloader),
        optimizers=lambda: () if _scales_and_clips(trainer) else trainer.optimizers,
        log_every_n_steps=lambda: trainer.log_every_n_steps if trainer.loggers else None,  # type: ignore[attr-defined]
        callbacks=lambda: _callbacks(trainer),
    )


def _scales_and_clips(trainer: Trainer) -> bool:
    """Whether optimizers cannot be fused: fused ones cannot clip gradients that a scaler has scaled."""
    return getattr(trainer.precision_plugin, "scaler", None) is not None and bool(trainer.gradient_clip_val)


def _callbacks(trainer: Trainer) -> tuple[str, ...]:
    kinds = [type(one) for one in trainer.callbacks]  # type: ignore[attr-defined]
    return tuple(kind.__name__ for kind in kinds if not kind.__module__.startswith(_NOT_OF_THE_USER))
