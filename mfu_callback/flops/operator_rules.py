"""How many FLOPs an operator takes, for everything that runs outside the modules with a rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

OperatorRule = Callable[[tuple[Any, ...], dict[str, Any], Any], int]

aten = torch.ops.aten


def _attention(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    query, key, value = args[:3]  # (B, H, T, D), (B, H_kv, S, D), (B, H_kv, S, D_v)
    scores = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    return int(2 * scores * (query.shape[3] + value.shape[3]))


def _linear(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    return int(2 * args[0].numel() * args[1].shape[0])  # (..., C) x (O, C)


def _matrix_vector(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    return int(2 * args[-2].numel())  # mv(matrix, vector), addmv(input, matrix, vector)


def _dot(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    return int(2 * args[0].numel())


def _sum_of_matmuls(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    left, right = args[1], args[2]  # (B, M, K), (B, K, N)
    return int(2 * left.numel() * right.shape[-1])


def _grouped_matmul(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    rows, weights = args[0], args[1]  # (M, K), (G, K, N): each row meets one of the G matrices
    return int(2 * rows.numel() * weights.shape[-1])


def _trilinear(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    # nn.Bilinear: x1 (N, in1), W (out, in1, in2), x2 (N, in2); first x1 W, then its product with x2.
    left, weight, right = args[:3]
    batch = left.numel() // left.shape[-1] if left.dim() else 1
    return int(2 * batch * (weight.numel() + weight.shape[0] * right.shape[-1]))


_OWN_RULES: dict[Any, OperatorRule] = {
    aten.linear: _linear,
    aten.mv: _matrix_vector,
    aten.addmv: _matrix_vector,
    aten.dot: _dot,
    aten.vdot: _dot,
    aten.addbmm: _sum_of_matmuls,
    aten._trilinear: _trilinear,
    # torch's own attention formula refuses grouped queries and does not know the CPU's kernel.
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_efficient_attention: _attention,
    aten._scaled_dot_product_cudnn_attention: _attention,
    aten._scaled_dot_product_fused_attention_overrideable: _attention,
}
if hasattr(aten, "_grouped_mm"):
    _OWN_RULES[aten._grouped_mm] = _grouped_matmul

# Operators that do compute what a model FLOP is, for which there is no formula yet.
_KNOWN_WITHOUT_RULE = frozenset(
    "aten::" + name
    for name in (
        "_cdist_forward",
        "_cudnn_rnn",
        "_int_mm",
        "_native_multi_head_attention",
        "_sparse_addmm",
        "_transformer_encoder_layer_fwd",
        "_weight_int4pack_mm",
        "_weight_int8pack_mm",
        "miopen_rnn",
        "mkldnn_rnn_layer",
    )
)
# Libraries of operators whose kernels are known to hold no matmul. Any other library's operators are named.
_QUIET_LIBRARIES = frozenset(
    {"aten", "prim", "prims", "inductor", "profiler", "c10d", "_c10d_functional", "c10d_functional", "fsdp", "rngprims"}
)


def operator_flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int | None:
    """FLOPs of one call of an operator, or None where it has no rule.

    Args:
        func: The operator's overload, as a dispatch mode receives it.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        out: What it returned.
    """
    packet = getattr(func, "_overloadpacket", func)  # a higher-order operator has no overloads
    if (own := _OWN_RULES.get(packet)) is not None:
        flops = own(args, kwargs, out)
    elif (torchs := flop_registry.get(packet)) is not None:
        flops = int(torchs(*args, **kwargs, out_val=out))
    else:
        return None
    is_complex = isinstance(out, torch.Tensor) and out.is_complex()
    return flops * 4 if is_complex else flops


def has_operator_rule(func: Any) -> bool:
    """Whether this operator is counted as it is."""
    packet = getattr(func, "_overloadpacket", func)
    return packet in _OWN_RULES or packet in flop_registry


def computes_without_rule(func: Any) -> bool:
    """Whether an operator without a rule may hide model FLOPs."""
    name: str = func.name().split(".")[0]
    return name in _KNOWN_WITHOUT_RULE or name.split("::")[0] not in _QUIET_LIBRARIES
