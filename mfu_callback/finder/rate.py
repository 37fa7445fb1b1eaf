"""The throughput and MFU of a timed batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mfu_callback.finder.sweep import SweepPoint
from mfu_callback.flops import FlopCounter
from mfu_callback.lightning import private_names
from mfu_callback.lightning.namespaces import rank_zero_info, rank_zero_warn
from mfu_callback.meter.metrics import model_flops_utilization
from mfu_callback.meter.precision import matmul_dtype_of
from mfu_callback.meter.samples import count_samples
from mfu_callback.meter.tokens import count_tokens
from mfu_callback.peaks import resolve_peak

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_FORWARD_AND_BACKWARD = 3  # a step's FLOPs are this many times the forward pass's


class Rates:
    """Makes the points of a sweep from measured step times.

    Args:
        trainer: The Trainer.
        pl_module: The model.
        is_training: Whether the steps have a backward pass.
    """

    def __init__(self, trainer: Trainer, pl_module: LightningModule, *, is_training: bool) -> None:
        self._pl_module = pl_module
        self._processes = trainer.world_size
        self._share = private_names.tensor_parallel_size(trainer)
        self._factor = _FORWARD_AND_BACKWARD if is_training else 1
        self._micro_batches = trainer.accumulate_grad_batches if is_training else 1
        resolution = resolve_peak(None, trainer.strategy.root_device, matmul_dtype_of(trainer.precision_plugin))
        (rank_zero_warn if resolution.unexpected else rank_zero_info)(f"BatchSizeFinder: {resolution.message}")
        self._peak = resolution.peak

    def counter(self) -> FlopCounter:
        """A new counter of the FLOPs of the forward pass that runs inside it."""
        return FlopCounter(self._pl_module, tensor_parallel=self._share)

    def point(
        self,
        size: int,
        *,
        batch: Any,
        step_time_sec: float,
        forward_flops: int | None,
        peak_bytes: int | None,
        micro_batches: int | None = None,
    ) -> SweepPoint:
        """The point of one size.

        Args:
            size: Samples in the batch.
            batch: A batch of that size.
            step_time_sec: Seconds of an optimizer step, with all of its micro-batches.
            forward_flops: Model FLOPs of the forward pass of one micro-batch.
            peak_bytes: The peak memory of its steps; None if unknown.
            micro_batches: The micro-batches of an optimizer step; None for those of the Trainer.
        """
        batches_per_sec = (micro_batches or self._micro_batches) * self._processes / self._share / step_time_sec
        tokens, samples = count_tokens(batch), count_samples(batch)
        mfu = None
        if forward_flops and self._peak is not None:
            flops = self._factor * forward_flops
            mfu = model_flops_utilization(batches_per_sec, flops, self._peak.flops_per_sec, self._processes)
        return SweepPoint(
            size=size,
            step_time_sec=step_time_sec,
            samples_per_sec=(samples or size) * batches_per_sec,
            tokens_per_sec=None if tokens is None else tokens * batches_per_sec,
            mfu=mfu,
            peak_bytes=peak_bytes,
        )
