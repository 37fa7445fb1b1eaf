"""The precision in which torch multiplies fp32 matrices on a device, read from its settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def fp32_precision(device: torch.device | str) -> str:
    """The precision inside a matmul of fp32 matrices: "ieee", "tf32" (10 bits of mantissa) or "bf16" (7).

    Torch has old settings (``torch.set_float32_matmul_precision``, ``allow_tf32``) and, since 2.9, new ones
    (``torch.backends.fp32_precision`` and the ``fp32_precision`` of each backend). All of them set the flag that is
    read here. Reading an old setting raises an error once a new one was used
    (https://docs.pytorch.org/docs/stable/notes/numerical_accuracy.html).

    Args:
        device: The device of the matrices.
    """
    kind = torch.device(device).type
    if kind not in ("cuda", "cpu", "xpu"):
        return "ieee"
    flag = getattr(_setting_of(kind), "fp32_precision", None) or _old_flag(kind)
    return "ieee" if flag == "none" else str(flag)


@contextmanager
def fp32_precision_set(precision: str) -> Iterator[None]:
    """A context in which fp32 matrices are multiplied in one precision, on every device that knows it.

    Args:
        precision: "ieee" or "tf32".
    """
    settings = [setting for kind in ("cuda", "cpu") if hasattr(setting := _setting_of(kind), "fp32_precision")]
    before = [setting.fp32_precision for setting in settings]
    old = None if settings else torch.get_float32_matmul_precision()
    try:
        for setting in settings:
            setting.fp32_precision = precision
        if old is not None:
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value
        if old is not None:
            torch.set_float32_matmul_precision(old)


def _setting_of(kind: str) -> Any:
    """What holds the flag of a kind of device; None where this torch has nothing for it."""
    backend = torch.backends.cuda if kind == "cuda" else torch.backends.mkldnn
    return getattr(backend, "matmul", None)


def _old_flag(kind: str) -> str:
    if kind == "cuda":
        return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
    return "bf16" if torch.get_float32_matmul_precision() == "medium" else "ieee"  # "high" changes nothing there
