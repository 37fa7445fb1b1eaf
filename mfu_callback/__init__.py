"""Tokens/sec and MFU of any Lightning training run, and where the rest of the machine went."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfu_callback.finder import BatchSizeFinder, predict_batch_size, predict_memory
    from mfu_callback.finder.find_batch_size import find_batch_size
    from mfu_callback.flops import (
        FlopCount,
        FlopCounter,
        count_flops,
        palm_flops_per_token,
        register_flop_formula,
    )
    from mfu_callback.lightning.callback import MFUCallback
    from mfu_callback.loops.meter import MFUMeter
    from mfu_callback.meter.metrics import model_flops_utilization
    from mfu_callback.meter.tokens import count_tokens
    from mfu_callback.peaks import Peak, find_peak, measure_peak

# Imported when they are asked for: TensorBoard's tab and the report read files, and need neither torch nor lightning.
_MODULES = {
    "finder": ("BatchSizeFinder", "find_batch_size", "predict_batch_size", "predict_memory"),
    "flops": ("FlopCount", "FlopCounter", "count_flops", "palm_flops_per_token", "register_flop_formula"),
    "lightning.callback": ("MFUCallback",),
    "loops.meter": ("MFUMeter",),
    "meter.metrics": ("model_flops_utilization",),
    "meter.tokens": ("count_tokens",),
    "peaks": ("Peak", "find_peak", "measure_peak"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "BatchSizeFinder",
    "FlopCount",
    "FlopCounter",
    "MFUCallback",
    "MFUMeter",
    "Peak",
    "count_flops",
    "count_tokens",
    "find_batch_size",
    "find_peak",
    "measure_peak",
    "model_flops_utilization",
    "palm_flops_per_token",
    "predict_batch_size",
    "predict_memory",
    "register_flop_formula",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
