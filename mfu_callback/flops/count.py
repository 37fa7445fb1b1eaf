"""`count_flops`: counts one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mfu_callback.flops.counter import FlopCounter
from mfu_callback.flops.flop_count import FlopCount


def count_flops(module: nn.Module, *args: Any, **kwargs: Any) -> FlopCount:
    """Count the model FLOPs of one forward pass of one batch.

    The forward runs once, on the module itself and without gradients; buffers and random states are restored. On
    the meta device it needs almost no memory or time. For the backward, or another convention for attention, use
    :class:`FlopCounter` around the calls themselves.

    Args:
        module: The module to call. It stays in train or eval mode; work that it skips in eval mode is not counted then.
        *args: Its positional arguments, on the module's device.
        **kwargs: Its keyword arguments, on the module's device.

    Returns:
        The count, in FLOPs (2 per multiply-accumulate; 8 where the numbers are complex).

    Raises:
        TypeError: If ``module`` is no module.
        Exception: Any exception of the module's forward. The module is restored in that case too.

    Example:
        >>> count_flops(nn.Linear(8, 4), torch.zeros(2, 8)).forward
        128
    """
    counter = FlopCounter(module)
    with _state_put_back(module), torch.no_grad(), counter:
        module(*args, **kwargs)
    return counter.result()


@contextmanager
def _state_put_back(module: nn.Module) -> Iterator[None]:
    parts = [(part, dict(part._buffers)) for part in module.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        with torch.random.fork_rng(_accelerator_indices(module), device_type=_accelerator_type(module)):
            yield
    finally:
        for part, own in parts:
            part._buffers = own
        for buffer, before in buffers:
            _put_back(buffer, before)


def _put_back(buffer: torch.Tensor, before: torch.Tensor) -> None:
    with torch.no_grad():
        if buffer.shape != before.shape:
            buffer.set_(before)  # type: ignore[call-overload]
        elif not buffer.is_meta and not torch.equal(buffer, before):
            buffer.copy_(before)


def _accelerator_type(module: nn.Module) -> str:
    accelerators = {parameter.device.type for parameter in module.parameters()} - {"cpu", "meta"}
    return min(accelerators, default="cuda")


def _accelerator_indices(module: nn.Module) -> list[int]:
    devices = {parameter.device for parameter in module.parameters()}
    return sorted(device.index or 0 for device in devices if device.type not in ("cpu", "meta"))
