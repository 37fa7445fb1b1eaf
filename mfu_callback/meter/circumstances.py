"""Settings of a run that its advice takes into account."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Settings of a run, of this process; None if unknown.

    Attributes:
        loop: The kind of the loop: a key of `mfu_callback.meter.loop_settings.LOOP_SETTINGS`.
        device: The type of the device: "cpu", "cuda", ...
        cores: Cores that each process of this run is given on this machine.
        num_workers: Processes that load the training data; of several loaders, the fewest.
        pin_memory: Whether the training data is loaded into pinned memory; of several loaders, whether all do.
        batch_size: Samples of a micro-batch.
        unfused: The class names of the optimizers that have a fused variant and do not use it.
        is_compiled: Whether the model or a part of it is compiled.
        modules: Number of modules without submodules.
        log_every_n_steps: Steps from one logging to the next; None without a logger.
        callbacks: The class names of callbacks that come neither with Lightning nor with this package.
    """

    loop: str = "trainer"
    device: str | None = None
    cores: int | None = None
    num_workers: int | None = None
    pin_memory: bool | None = None
    batch_size: int | None = None
    unfused: tuple[str, ...] | None = None
    is_compiled: bool | None = None
    modules: int | None = None
    log_every_n_steps: int | None = None
    callbacks: tuple[str, ...] | None = None
