"""The precision in which torch multiplies fp32 matrices on a device, read from its settings."""

from __future__ import annotations

import torch


def fp32_precision(device: torch.device | str) -> str:
    """The precision inside a matmul of fp32 matrices: "ieee", "tf32" (10 bits of mantissa) or "bf16" (7).

    Torch has old settings (``torch.set_float32_matmul_precision``, ``allow_tf32``) and new ones
    (``torch.backends.fp32_precision`` and the ``fp32_precision`` of each backend). All of them set the flag that is
    read here. Reading an old setting raises an error once a new one was used
    (https://docs.pytorch.org/docs/stable/notes/numerical_accuracy.html).

    Args:
        device: The device of the matrices.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        flag = str(torch.backends.cuda.matmul.fp32_precision)
    elif kind in ("cpu", "xpu"):
        flag = str(torch.backends.mkldnn.matmul.fp32_precision)  # type: ignore[attr-defined]
    else:
        flag = "ieee"
    return "ieee" if flag == "none" else flag
