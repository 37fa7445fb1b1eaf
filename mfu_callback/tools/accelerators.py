"""Calls about the accelerator, by `torch.accelerator` or, where a torch lacks the call, by the module of its kind.

`torch.accelerator` came with torch 2.6 and has grown since; `torch.cuda` and its like have had most of it for longer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from mfu_callback.tools.torch_features import say_missing


def current_accelerator() -> torch.device | None:
    """The kind of accelerator that this process can use, without an index; None if there is none."""
    general = getattr(torch, "accelerator", None)
    if general is not None:
        return general.current_accelerator() if general.is_available() else None
    found = torch.device(torch._C._get_accelerator().type)
    if found.type == "mps":  # that of a build for Macs, also where the system is too old for it
        return found if torch.backends.mps.is_available() else None
    return found if found.type != "cpu" and torch.get_device_module(found).is_available() else None


def accelerators() -> list[torch.device]:
    """All accelerators that this process can use."""
    kind = current_accelerator()
    if kind is None:
        return []
    count = _of("device_count", kind)
    return [torch.device(kind.type, index) for index in range(count())]


def is_device(value: Any) -> bool:
    """Whether this names a device: a `torch.device`, its name, or the index of an accelerator."""
    if isinstance(value, bool) or not isinstance(value, str | int | torch.device):
        return False
    try:
        torch.device(value)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        return False
    return True


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has finished all queued work."""
    _call("synchronize", device)


def empty_cache(device: torch.device) -> None:
    """Give back the memory that the allocator of an accelerator caches."""
    (_general("empty_cache") or torch.get_device_module(device).empty_cache)()


def current(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which an accelerator, given with its index, is the current one of its kind."""
    general = _general("device_index")
    context: AbstractContextManager[Any] = (
        torch.get_device_module(device).device(device) if general is None else general(device.index)
    )
    return context


def event(device: torch.device) -> Any:
    """An event of an accelerator with ``record()``, ``query()`` and ``elapsed_time(end)`` in milliseconds."""
    if hasattr(torch, "accelerator"):
        return torch.Event(device, enable_timing=True)
    return torch.get_device_module(device).Event(enable_timing=True)  # torch.Event did not know every kind before


def side_stream(device: torch.device) -> AbstractContextManager[Any]:
    """A context whose work is queued on a stream of its own, beside the one that is current outside of it."""
    module = torch.get_device_module(device)
    context: AbstractContextManager[Any] = module.stream(module.Stream(device))
    return context


def beside_training(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which reading what a device has finished does not wait for what is queued on it meanwhile.

    Not yet run on hardware; written against the documentation of CUDA streams.
    """
    has_streams = device.type != "cpu" and hasattr(torch.get_device_module(device), "Stream")
    return side_stream(device) if has_streams else nullcontext()


def pinned(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """A tensor in pinned memory of the host, to which an accelerator copies while the host goes on."""
    return torch.empty(*shape, dtype=dtype, pin_memory=True)


def memory_stats(device: torch.device) -> Mapping[str, Any]:
    """The statistics of an accelerator's allocator.

    Raises:
        RuntimeError: If it keeps none.
    """
    statistics: Mapping[str, Any] = _call("memory_stats", device)
    return statistics


def max_memory_allocated(device: torch.device) -> int:
    """The most bytes that tensors took on an accelerator.

    Raises:
        RuntimeError: If its allocator keeps no statistics.
    """
    return int(_call("max_memory_allocated", device))


def reset_peak_memory_stats(device: torch.device) -> None:
    """Let the peaks of an accelerator's memory begin anew.

    Raises:
        RuntimeError: If its allocator keeps no statistics.
    """
    _call("reset_peak_memory_stats", device)


def total_memory(device: torch.device) -> int:
    """Memory of an accelerator, in bytes.

    Raises:
        RuntimeError: If it does not tell.
    """
    properties = getattr(torch.get_device_module(device), "get_device_properties", None)
    total = getattr(properties(device) if properties else None, "total_memory", None)
    if total:
        return int(total)
    general = _general("get_memory_info")
    return int((_of("mem_get_info", device) if general is None else general)(device)[1])


def random_state(device: torch.device) -> torch.Tensor:
    """The state of an accelerator's random numbers."""
    state: torch.Tensor = _call("get_rng_state", device)
    return state


def set_random_state(device: torch.device, state: torch.Tensor) -> None:
    """Set the state of an accelerator's random numbers.

    Args:
        device: The accelerator.
        state: What `random_state` has returned.
    """
    torch.get_device_module(device).set_rng_state(*((state,) if device.type == "mps" else (state, device)))


def _call(name: str, device: torch.device) -> Any:
    function = _of(name, device)
    return function() if function is getattr(torch.mps, name, None) else function(device)  # a Mac has one GPU


def _of(name: str, device: torch.device) -> Callable[..., Any]:
    own = getattr(torch.get_device_module(device), name, None)
    found: Callable[..., Any] | None = _general(name) or own
    if found is None:
        if name == "memory_stats":
            say_missing("torch.accelerator.memory_stats")
        raise RuntimeError(f"torch {torch.__version__} has no {name} for {device.type} devices.")
    return found


def _general(name: str) -> Any:
    """A function of `torch.accelerator`; None if this torch does not have it."""
    return getattr(getattr(torch, "accelerator", None), name, None)
