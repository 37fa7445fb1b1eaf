"""Collects the settings of a run that its advice takes into account, from its Trainer; starts and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import nn
from torch._dynamo import OptimizedModule
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from mfu_callback.meter.circumstances import Circumstances
from mfu_callback.peaks.this_machine import usable_cores

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

# The devices for which torch has fused optimizers
# (https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html).
_FUSED = ("cuda", "cpu", "xpu", "mps", "hpu", "mtia")
_NOT_OF_THE_USER = ("lightning.", "pytorch_lightning.", "mfu_callback.")


def circumstances_of(trainer: Trainer, pl_module: LightningModule, *, batch_size: int | None) -> Circumstances:
    """The settings of a run; what cannot be found out is None.

    Args:
        trainer: The Trainer, in fit.
        pl_module: The model.
        batch_size: Samples of a micro-batch.
    """
    known: dict[str, Callable[[], Any]] = {
        "device": lambda: trainer.strategy.root_device.type,
        "cores": lambda: max(int(usable_cores()) // trainer.num_devices, 1),
        "num_workers": lambda: min((loader.num_workers for loader in _loaders(trainer)), default=None),
        "pin_memory": lambda: all(loader.pin_memory for loader in _loaders(trainer)) if _loaders(trainer) else None,
        "unfused": lambda: _unfused(trainer),
        "is_compiled": lambda: _is_compiled(pl_module),
        "modules": lambda: sum(1 for _ in _leaves(pl_module)) or None,
        "log_every_n_steps": lambda: trainer.log_every_n_steps if trainer.loggers else None,  # type: ignore[attr-defined]
        "callbacks": lambda: _callbacks(trainer),
    }
    return Circumstances(batch_size=batch_size, **{name: _or_none(find) for name, find in known.items()})


def _or_none(find: Callable[[], Any]) -> Any:
    try:
        return find()
    except Exception:  # an object of the user's, a driver or a file of the system can raise anything
        return None


def _loaders(trainer: Trainer) -> list[DataLoader[Any]]:
    """The loaders in use; none if one is something else than torch's."""
    loaders = tree_leaves(trainer.train_dataloader)
    return loaders if all(isinstance(loader, DataLoader) for loader in loaders) else []


def _unfused(trainer: Trainer) -> tuple[str, ...]:
    """Optimizers that could be fused and are not. Fused ones cannot clip gradients that a scaler has scaled."""
    scales = getattr(trainer.precision_plugin, "scaler", None) is not None
    if scales and trainer.gradient_clip_val:
        return ()
    return tuple(dict.fromkeys(type(one).__name__ for one in trainer.optimizers if _could_be_fused(one)))


def _could_be_fused(optimizer: Optimizer) -> bool:
    groups = optimizer.param_groups
    if "fused" not in optimizer.defaults or any(group.get("fused") for group in groups):
        return False
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(one.is_floating_point() and one.device.type in _FUSED for one in parameters)


def _is_compiled(pl_module: LightningModule) -> bool:
    """Whether a module is compiled, in either way, or a function that one has as an attribute."""
    return any(
        isinstance(module, OptimizedModule)
        or module._compiled_call_impl is not None
        or any(hasattr(value, "_torchdynamo_orig_callable") for value in vars(module).values() if callable(value))
        for module in pl_module.modules()
    )


def _leaves(pl_module: LightningModule) -> Iterator[nn.Module]:
    """Modules without submodules."""
    return (module for module in pl_module.modules() if not any(True for _ in module.children()))


def _callbacks(trainer: Trainer) -> tuple[str, ...]:
    kinds = [type(one) for one in trainer.callbacks]  # type: ignore[attr-defined]
    return tuple(kind.__name__ for kind in kinds if not kind.__module__.startswith(_NOT_OF_THE_USER))
