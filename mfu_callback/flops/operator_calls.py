"""What each call of an operator computes and moves: FLOPs, bytes, and which kind of work it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from mfu_callback.flops.rules.attention import ATTENTION_RULES
from mfu_callback.flops.rules.call import Work, multiplied_dtype
from mfu_callback.flops.rules.operators import has_rule, operator_name

MATMUL, ATTENTION, MEMORY, TRANSFER = "matmul", "attention", "memory", "transfer"
_PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_scaled_mm"})
# Their rules tell of attention in the matmuls around them; they multiply nothing.
_NO_PRODUCT = frozenset({"aten::_softmax", "aten::_safe_softmax"})

Shapes = tuple[tuple[int, ...], ...]


def shapes_in(sizes: Any) -> Shapes:
    """The sizes of all tensors that have dimensions, in order, however deeply lists of them are nested.

    Args:
        sizes: Lists of sizes, such as the ``input_shapes`` of an event of torch's profiler.
    """
    return tuple(_shapes(sizes))


def _shapes(sizes: Any) -> Iterator[tuple[int, ...]]:
    if isinstance(sizes, list | tuple) and sizes:
        if all(isinstance(size, int) for size in sizes):
            yield tuple(sizes)
        else:
            for inner in sizes:
                yield from _shapes(inner)


@dataclass(slots=True)
class Calls:
    """Calls of one operator on tensors of the same shapes; sums over them.

    Attributes:
        kind: "matmul", "attention", "memory" or "transfer".
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
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        name, shapes = operator_name(func), shapes_in([list(one.shape) for one in inputs])
        calls = self.known.get((name, shapes))
        if calls is None:
            kind = _kind(func, inputs, outputs)
            product = _product(inputs) if name in _PRODUCTS else None
            calls = self.known[name, shapes] = Calls(kind, multiplied_dtype(args), product)
        calls.calls += 1
        calls.bytes += _bytes_of(inputs) + (0 if name.startswith("aten::empty") else _bytes_of(outputs))
        if calls.flops is not None:
            is_known = work is not None or calls.kind in (MEMORY, TRANSFER)
            calls.flops = calls.flops + sum(work or ()) if is_known else None


@cache
def is_view(func: Any) -> bool:
    """Whether an operator returns its input in another form and touches no memory."""
    schema = getattr(func, "_schema", None)
    infos = [one.alias_info for one in schema.returns] if schema is not None else []
    return bool(infos) and all(info is not None and not info.is_write for info in infos)


def _kind(func: Any, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> str:
    name = operator_name(func)
    if has_rule(func) and name.removesuffix("_") not in _NO_PRODUCT:
        return ATTENTION if name in ATTENTION_RULES else MATMUL
    devices = {one.device.type for one in (*inputs, *outputs) if one.dim()}
    return TRANSFER if len(devices) > 1 else MEMORY


def _product(inputs: list[torch.Tensor]) -> tuple[int, int, int] | None:
    matrices = [one for one in inputs if one.dim() >= 2][-2:]
    if len(matrices) < 2:
        return None
    left, right = matrices
    return int(left.shape[-2]), int(left.shape[-1]), int(right.shape[-1])


def _bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    return sum(one.numel() * one.element_size() for one in tensors if not one.is_nested)
