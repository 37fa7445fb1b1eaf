"""What each call of an operator computes and moves: FLOPs, bytes, and which kind of work it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from mfu_callback.flops.rules.attention import ATTENTION_RULES
from mfu_callback.flops.rules.call import Work, multiplied_dtype, tensors_of
from mfu_callback.flops.rules.operators import RULES, has_rule, may_compute, operator_name
from mfu_callback.flops.rules.traffic import is_view, traffic_of

MATMUL, ATTENTION, MEMORY, TRANSFER, OTHER = "matmul", "attention", "memory", "transfer", "other"
# The position of the left one of the two matrices among the arguments.
_PRODUCTS = {"aten::mm": 0, "aten::bmm": 0, "aten::_scaled_mm": 0, "aten::addmm": 1, "aten::baddbmm": 1}
# Their rules tell of attention in the matmuls around them; they multiply nothing.
_NO_PRODUCT = frozenset({"aten::_softmax", "aten::_safe_softmax"})
Shapes = tuple[tuple[int, ...], ...]


def shapes_in(sizes: Any) -> Shapes:
    """The sizes of all tensors that have dimensions, in order. Lists of tensors are left out, as by torch's profiler.

    Args:
        sizes: Lists of sizes, such as the ``input_shapes`` of an event of torch's profiler.
    """
    return tuple(tuple(size) for size in sizes if size and all(isinstance(number, int) for number in size))


@dataclass(slots=True)
class Calls:
    """Calls of one operator on tensors of the same shapes; sums over them.

    Attributes:
        kind: "matmul", "attention", "memory", "transfer", or "other" for what moves no bytes.
        dtype: The name of the dtype that it multiplies, or of its first tensor.
        product: The sizes (m, k, n) of a matmul; None for everything else.
        calls: Number of calls.
        flops: FLOPs that really run, with gradients made in the forward and with what is recomputed; None if unknown.
        bytes: Bytes of the tensors that it reads and writes, each once.
    """

    kind: str
    dtype: str
    product: tuple[int, int, int] | None
    calls: int = 0
    flops: float | None = 0.0
    bytes: float = 0.0


class OperatorCalls:
    """Records the operators of some steps.

    Attributes:
        known: The calls by the operator's name and the shapes of its tensors, as torch's profiler reports them.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[str, Shapes], Calls] = {}

    def add(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, work: Work | None) -> None:
        """Add a call.

        Args:
            func: The operator's overload.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            out: What it returned.
            work: Its FLOPs; None if it has no rule.
        """
        if is_view(func):
            return
        direct = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
        name, shapes = operator_name(func), shapes_in([list(one.shape) for one in direct])
        moved = sum(traffic_of(func, args, kwargs, out))
        calls = self.known.get((name, shapes))
        if calls is None:
            kind = _kind(func, tensors_of((args, kwargs, out)), moved)
            calls = self.known[name, shapes] = Calls(kind, multiplied_dtype(args), _product(name, args))
        calls.calls += 1
        calls.bytes += moved
        if calls.flops is not None:
            is_known = work is not None or not (has_rule(func) or may_compute(func))
            calls.flops = calls.flops + sum(work or ()) if is_known else None


@cache
def kind_of_name(name: str) -> str:
    """The kind of an operator of which no call was recorded.

    Args:
        name: Its name with its library, or the name of a kernel, which has none.
    """
    library, _, short = name.partition("::")
    if name in RULES and name not in _NO_PRODUCT:
        return ATTENTION if name in ATTENTION_RULES else MATMUL
    if not short:
        return MEMORY
    packet = getattr(getattr(torch.ops, library, None), short, None)
    overloads = [getattr(packet, one) for one in packet.overloads()] if packet is not None else []
    return MEMORY if any(not is_view(one) and not _is_composite(one) for one in overloads) else OTHER


def _is_composite(func: Any) -> bool:
    """Whether an operator computes nothing itself and only calls others."""
    try:
        return bool(func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd))
    except RuntimeError:  # of TorchScript alone
        return True


def _kind(func: Any, used: list[torch.Tensor], moved: int) -> str:
    name = operator_name(func)
    if has_rule(func) and name.removesuffix("_") not in _NO_PRODUCT:
        return ATTENTION if name in ATTENTION_RULES else MATMUL
    if len({one.device.type for one in used if one.dim()}) > 1:
        return TRANSFER
    return MEMORY if moved else OTHER


def _product(name: str, args: tuple[Any, ...]) -> tuple[int, int, int] | None:
    at = _PRODUCTS.get(name)
    if at is None or len(args) < at + 2:
        return None
    left, right = args[at : at + 2]
    return int(left.shape[-2]), int(left.shape[-1]), int(right.shape[-1])
