"""How torch multiplies fp32 matrices on a device, by its settings."""

from __future__ import annotations

import torch


def fp32_precision(device: torch.device | str) -> str:
    """The precision inside of a matmul of fp32 matrices: "ieee", "tf32" (10 bits of mantissa) or "bf16" (7).

    ``torch.set_float32_matmul_precision``, ``allow_tf32``, ``torch.backends.fp32_precision`` and the same of each
    backend, old settings and new ones, end in the flag that is read here; asking for the old ones raises where new
    ones were used (https://docs.pytorch.org/docs/stable/notes/numerical_accuracy.html).

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
