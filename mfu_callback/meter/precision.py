"""The dtype of the matmuls under a precision of Lightning's."""

from __future__ import annotations

import torch

# Names of Trainer(precision=) and Fabric(precision=).
_MATMUL_DTYPES = {
    "64-true": torch.float64,
    "32-true": torch.float32,
    "16-true": torch.float16,
    "16-mixed": torch.float16,
    "bf16-true": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
    # The layers compute in fp8, forward and backward. The names give the dtype of the weights.
    "transformer-engine": torch.float8_e4m3fn,
    "transformer-engine-float16": torch.float8_e4m3fn,
}


def matmul_dtype_of(precision: object) -> torch.dtype:
    """The dtype of the matmuls' inputs under a precision plugin of the Trainer or of Fabric; float32 if it is unknown.

    Args:
        precision: The plugin.
    """
    dtype = getattr(precision, "dtype", None)
    if isinstance(dtype, torch.dtype):  # bitsandbytes unpacks its weights to it, and its name lacks it
        return dtype
    return _MATMUL_DTYPES.get(str(getattr(precision, "precision", "")), torch.float32)
