"""Finds compute that no dispatch mode sees: kernels launched without torch's operators, and work of other threads."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Container
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from mfu_callback.flops.passes import next_node_number
from mfu_callback.flops.rules.call import tensors_of
from mfu_callback.flops.rules.operators import operator_name
from mfu_callback.flops.rules.traffic import READ_SHAPES

_ALLOCATES = frozenset(
    f"aten::{name}" for name in ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
)
_FILLS = frozenset(
    f"aten::{name}"
    for name in ("zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
)
# These use a tensor's shape or storage, not its values.
_READS_NOTHING = READ_SHAPES | {
    f"aten::{name}"
    for name in ("set_", "resize_", "record_stream", "detach", "alias", "_has_compatible_shallow_copy_type")
}
_SAMPLES, _SAMPLE_BYTES = 8, 8  # what is remembered of a storage's contents: so many places of so many bytes
_MOST_NODES = 100  # that are looked at behind a tensor
_PRODUCT_NODE = re.compile(r".*(?:mm|mv|dot|linear|convolution|attention|rnn|addr|dist)\w*backward", re.IGNORECASE)
_PLAIN = (torch.Tensor, torch.nn.Parameter)


@dataclass(slots=True)
class _Memory:
    """A storage that an operator of the forward has used.

    Attributes:
        where: The module in which it was made or first used; "" outside of all modules.
        reference: A weak reference, which keeps its address from being reused.
        is_made: Whether an operator has made or written it.
        is_ours: Whether an operator of the forward has made it, so that all that write it are known.
        is_blank: Whether it was allocated without values and nothing has written it yet.
        is_new: Whether it is blank, or holds the constant that it was made with.
        contents: A sample of its bytes after the last operator that wrote it; None if it is not watched.
    """

    where: str
    reference: Any
    is_made: bool = False
    is_ours: bool = False
    is_blank: bool = False
    is_new: bool = False
    contents: bytes | None = None


class UnseenWork:
    """Watches the memory that operators write and read, to notice what something else has written.

    A kernel launched without torch's operators (Triton, a C extension, numpy on the same memory) cannot be seen, but
    the memory that it writes can: it was allocated blank and is read though no operator has written it, or its contents
    have changed though no operator has written it. A few bytes of each storage are compared, of memory on a CPU and of
    what was filled with a constant on other devices. What another thread computes cannot be seen either, but its
    results can: autograd follows them, and no operator seen here has made them.
    """

    def __init__(self) -> None:
        self._memory: dict[int, _Memory] = {}
        self._nodes_from = 0
        self._compiled_nodes: set[int] = set()  # autograd nodes of compiled calls, whose results no operator makes

    def suspend(self) -> None:
        """Compiled code begins, whose operators are not reported."""
        self._nodes_from = next_node_number()

    def resume(self) -> None:
        """Compiled code ends; it may have written anything."""
        self._compiled_nodes.update(range(self._nodes_from, next_node_number()))
        for memory in self._memory.values():
            memory.is_blank, memory.contents = False, None

    def look(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, where: str) -> list[str]:
        """Register one call of an operator that has run in the forward, or where gradients are computed for gradients.

        Args:
            func: The operator's overload.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            out: What it returned.
            where: The type and name of the module that it ran in; "" outside of all modules.

        Returns:
            What was found: a text for each tensor that something unseen has computed.
        """
        effects = _effects(func)
        arguments = list(enumerate(args)) + list(kwargs.items())
        changed = plain_tensors([value for place, value in arguments if place in effects.written])
        found = []
        if effects.is_known and not effects.reads_nothing:
            overwritten = {tensor.untyped_storage()._cdata for tensor in changed}
            read = plain_tensors([value for place, value in arguments if place not in effects.written])
            unchanged = [tensor for tensor in read if tensor.untyped_storage()._cdata not in overwritten]
            found = [text for tensor in unchanged for text in self._found(tensor, where)]
        everything = plain_tensors([out, args, kwargs])
        on_one_device = len({tensor.device for tensor in everything}) <= 1  # copies between devices may end later
        touched = [*plain_tensors(out), *changed] if effects.is_known else everything
        given = {id(tensor) for tensor in changed}
        self._register(effects, touched, given, where, may_sample=on_one_device)
        return found

    def forget(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Register one call of an operator that has run outside of the forward: what it has written is not watched."""
        effects = _effects(func)
        if effects.written or not effects.is_known:
            for tensor in plain_tensors((args, kwargs)):
                memory = self._memory.get(tensor.untyped_storage()._cdata)
                if memory is not None:
                    memory.is_blank, memory.contents = False, None

    def wrote(self, values: Any) -> None:
        """Register tensors that were written by something that is counted or named elsewhere, or made by it."""
        for tensor in plain_tensors(values):
            self._keep(tensor.untyped_storage(), "").is_made = True

    def is_made_by_operators(self, tensor: torch.Tensor) -> bool:
        """Whether operators have written what a tensor holds, or it still holds the constant that it was made with."""
        storage = tensor.untyped_storage()
        memory = self._memory.get(storage._cdata)
        if memory is None or not memory.is_made:
            return False
        if not memory.is_new:
            return True
        return memory.contents is not None and memory.contents == _sample(storage)

    def _found(self, tensor: torch.Tensor, where: str) -> list[str]:
        storage = tensor.untyped_storage()
        memory = self._memory.get(storage._cdata)
        if memory is None:
            self._keep(storage, where)
            product = _product_behind(tensor, self._compiled_nodes)
            place = f" in {where}" if where else ""
            return [f"{product}{place} (its forward ran in another thread, or before the step)"] if product else []
        changed = memory.contents is not None and memory.contents != _sample(storage)
        if not (memory.is_blank or changed):
            return []
        self._keep(storage, memory.where)
        # On a CPU a training step may fill memory through numpy; inside a module such memory means compute.
        if memory.where == "" and tensor.device.type == "cpu":
            return []
        return [f"{memory.where or 'the training step'} (memory filled outside of torch's operators)"]

    def _register(
        self, effects: _Effects, tensors: list[torch.Tensor], arguments: set[int], where: str, *, may_sample: bool
    ) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if effects.is_view:
                if storage._cdata not in self._memory:
                    self._keep(storage, where)
                continue
            before = self._memory.get(storage._cdata)
            # Of memory from before the forward (weights, buffers) it is not known who else writes it.
            is_ours = before.is_ours if before is not None else effects.is_known and id(tensor) not in arguments
            memory = self._keep(storage, where)
            memory.is_made, memory.is_ours = True, is_ours
            memory.is_blank, memory.is_new = effects.allocates, effects.allocates or effects.fills
            if is_ours and effects.is_known and not effects.allocates and may_sample:
                memory.contents = _sample(storage) if tensor.device.type == "cpu" or effects.fills else None

    def _keep(self, storage: torch.UntypedStorage, where: str) -> _Memory:
        memory = self._memory[storage._cdata] = _Memory(where, StorageWeakRef(storage))  # type: ignore[no-untyped-call]
        return memory


@dataclass(frozen=True, slots=True)
class _Effects:
    """What an operator does to memory, as far as its schema tells."""

    is_known: bool
    allocates: bool = False
    fills: bool = False
    reads_nothing: bool = False
    is_view: bool = False
    written: frozenset[int | str] = frozenset()


@cache
def _effects(func: Any) -> _Effects:
    if not isinstance(func, torch._ops.OpOverload) or not operator_name(func).startswith("aten::"):
        return _Effects(is_known=False)
    name = operator_name(func)
    if "batch_norm" in name:  # their schemas do not tell that they write the running statistics
        return _Effects(is_known=False)
    written: set[int | str] = set()
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written |= {place, argument.name}
    allocates, fills = name in _ALLOCATES, name in _FILLS
    reads_nothing = allocates or name in _READS_NOTHING or func.is_view
    return _Effects(True, allocates, fills, reads_nothing, func.is_view, frozenset(written))


def plain_tensors(values: Any) -> list[torch.Tensor]:
    """The tensors with memory of their own in nested values; a subclass may have none."""
    return [
        leaf
        for leaf in tensors_of(values)
        if type(leaf) in _PLAIN and leaf.layout is torch.strided and not leaf.is_nested and leaf.numel()
        if torch._C._has_storage(leaf)  # inside of torch.func's transforms tensors have none
    ]


def _product_behind(tensor: torch.Tensor, known: Container[int]) -> str | None:
    """The name of the nearest autograd node behind a tensor that may have multiplied; None if there is none.

    Args:
        tensor: A tensor that no operator seen here has made.
        known: Sequence numbers of nodes that are counted otherwise.
    """
    waiting: list[Any] = [tensor.grad_fn]
    seen: set[Any] = set()
    while waiting and len(seen) < _MOST_NODES:
        node = waiting.pop(0)
        if node is None or node in seen or node._sequence_nr() in known:
            continue
        seen.add(node)
        name = str(node.name())
        if _PRODUCT_NODE.match(name) or isinstance(node, torch.autograd.function.BackwardCFunction):
            return name
        waiting += [behind for behind, _ in node.next_functions]
    return None


def _sample(storage: torch.UntypedStorage) -> bytes | None:
    """A few bytes of a storage, at places spread over it; None where they cannot be read."""
    device = storage.device.type
    if device == "meta" or not storage.nbytes():
        return None
    if device == "cpu":
        return _sample_of_host(storage)
    if device == "cuda" and torch.cuda.is_current_stream_capturing():  # reading would break the capture
        return None
    return _sample_of_device(storage)


def _sample_of_host(storage: torch.UntypedStorage) -> bytes:
    start = storage.data_ptr()
    return b"".join(ctypes.string_at(start + place, length) for place, length in _places(storage.nbytes()))


def _sample_of_device(storage: torch.UntypedStorage) -> bytes:
    content = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    wanted = [place + offset for place, length in _places(storage.nbytes()) for offset in range(length)]
    return bytes(content[torch.tensor(wanted, device=storage.device)].tolist())


def _places(size: int) -> list[tuple[int, int]]:
    """Places in so many bytes, with the number of bytes there: all of it if it is small."""
    if size <= _SAMPLES * _SAMPLE_BYTES:
        return [(0, size)]
    last = size - _SAMPLE_BYTES
    return [(last * number // (_SAMPLES - 1), _SAMPLE_BYTES) for number in range(_SAMPLES)]
