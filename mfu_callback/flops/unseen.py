"""Finds compute that no dispatch mode sees: kernels launched without torch's operators."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from mfu_callback.flops.rules.operators import operator_name

_ALLOCATES = frozenset(
    f"aten::{name}" for name in ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
)
# These use a tensor's shape or storage, not its values.
_READS_NOTHING = frozenset(
    f"aten::{name}"
    for name in (
        *("zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like", "new_zeros", "new_ones"),
        *("new_full", "set_", "resize_", "record_stream", "detach", "alias", "_has_compatible_shallow_copy_type"),
    )
)


class BlankMemory:
    """Watches tensors that are allocated blank (without values), to see what fills them.

    A kernel launched without torch's operators (Triton, a C extension) cannot be seen, but the memory that it writes
    can: one operator allocated it blank, no operator has written it, and another operator then reads it.
    """

    def __init__(self) -> None:
        # Where each blank storage was allocated. The weak reference keeps its address from being reused.
        self._blank: dict[int, tuple[str, Any]] = {}

    def filled_unseen(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, where: str
    ) -> list[str]:
        """Register one call of an operator.

        Args:
            func: The operator's overload.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            out: What it returned.
            where: The module that it ran in; "" outside of all modules.

        Returns:
            The modules in which memory was allocated blank that this operator reads and no operator has filled.
        """
        allocates, reads_nothing, written = _effects(func)
        if allocates:
            # On a CPU a training step may fill memory through numpy; inside a module such memory means compute.
            if where == "" and all(tensor.device.type == "cpu" for tensor in tree_leaves(out)):
                return []
            self._blank.update((storage._cdata, (where, _weak(storage))) for storage in _storages(out))
            return []
        if not self._blank or reads_nothing:
            return []
        arguments = list(enumerate(args)) + list(kwargs.items())
        read = [value for place, value in arguments if written is not None and place not in written]
        found = [self._blank.pop(s._cdata)[0] for s in _storages(read) if s._cdata in self._blank]
        for storage in _storages([out, *(value for _, value in arguments)]):
            self._blank.pop(storage._cdata, None)
        return found


@cache
def _effects(func: Any) -> tuple[bool, bool, frozenset[int | str] | None]:
    """Whether an operator allocates, whether it reads no values, and which arguments it writes; None means any."""
    if not isinstance(func, torch._ops.OpOverload):
        return False, False, None
    name = operator_name(func)
    if not name.startswith("aten::"):
        return False, False, None
    written: set[int | str] = set()
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written |= {place, argument.name}
    return name in _ALLOCATES, name in _READS_NOTHING or func.is_view, frozenset(written)


def _weak(storage: torch.UntypedStorage) -> Any:
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]


def _storages(values: Any) -> list[torch.UntypedStorage]:
    tensors = (leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))
    return [t.untyped_storage() for t in tensors if t.layout is torch.strided and not t.is_nested and t.numel()]
