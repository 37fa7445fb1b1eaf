"""Finds out the settings of a run that its advice takes into account; starts and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn
from torch._dynamo import OptimizedModule
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from mfu_callback.meter.circumstances import Circumstances
from mfu_callback.peaks.this_machine import usable_cores

# The devices for which torch has fused optimizers
# (https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html).
_FUSED = ("cuda", "cpu", "xpu", "mps", "hpu", "mtia")


def known_circumstances(
    module: nn.Module,
    *,
    loop: str,
    batch_size: int | None,
    device: Callable[[], str],
    processes: Callable[[], int],
    loaders: Callable[[], Iterable[Any]],
    optimizers: Callable[[], Sequence[Optimizer]],
    log_every_n_steps: Callable[[], int | None] = lambda: None,
    callbacks: Callable[[], tuple[str, ...] | None] = lambda: None,
) -> Circumstances:
    """The settings of a run from functions that find them; what one cannot find out is None.

    Args:
        module: The model.
        loop: As in `Circumstances`.
        batch_size: Samples of a micro-batch.
        device: The type of the device.
        processes: Number of processes of the run on this machine.
        loaders: The loaders of the training data.
        optimizers: The optimizers, as far as they could be fused.
        log_every_n_steps: As in `Circumstances`.
        callbacks: As in `Circumstances`.
    """
    known: dict[str, Callable[[], Any]] = {
        "device": device,
        "cores": lambda: max(int(usable_cores()) // processes(), 1),
        "num_workers": lambda: min((loader.num_workers for loader in _of_torch(loaders())), default=None),
        "pin_memory": lambda: _all_pinned(_of_torch(loaders())),
        "unfused": lambda: _unfused(optimizers()),
        "is_compiled": lambda: is_compiled(module),
        "modules": lambda: sum(1 for one in module.modules() if not any(True for _ in one.children())) or None,
        "log_every_n_steps": log_every_n_steps,
        "callbacks": callbacks,
    }
    return Circumstances(loop=loop, batch_size=batch_size, **{name: _or_none(find) for name, find in known.items()})


def is_compiled(root: nn.Module) -> bool:
    """Whether a module of a model is compiled, in either way, or a function that one has as an attribute.

    Args:
        root: The model.
    """
    return any(
        isinstance(module, OptimizedModule)
        or module._compiled_call_impl is not None
        or any(hasattr(value, "_torchdynamo_orig_callable") for value in vars(module).values() if callable(value))
        for module in root.modules()
    )


def _or_none(find: Callable[[], Any]) -> Any:
    try:
        return find()
    except Exception:  # an object of the user's, a driver or a file of the system can raise anything
        return None


def _of_torch(loaders: Iterable[Any]) -> list[DataLoader[Any]]:
    """The loaders; none if one is something else than torch's."""
    known = list(loaders)
    return known if all(isinstance(loader, DataLoader) for loader in known) else []


def _all_pinned(loaders: Sequence[DataLoader[Any]]) -> bool | None:
    return all(loader.pin_memory for loader in loaders) if loaders else None


def _unfused(optimizers: Sequence[Optimizer]) -> tuple[str, ...]:
    """Optimizers that could be fused and are not."""
    return tuple(dict.fromkeys(type(one).__name__ for one in optimizers if _could_be_fused(one)))


def _could_be_fused(optimizer: Optimizer) -> bool:
    groups = optimizer.param_groups
    if "fused" not in optimizer.defaults or any(group.get("fused") for group in groups):
        return False
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(one.is_floating_point() and one.device.type in _FUSED for one in parameters)
