"""Knows which module is running, from global hooks; nothing is put on the modules themselves."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from threading import local
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_modules
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from mfu_callback.flops.passes import in_backward, next_node_number
from mfu_callback.flops.threads import OwnThread

_GIVES_KEYWORDS = hasattr(torch_modules, "_global_forward_hooks_with_kwargs")  # since torch 2.6
_WITH_KWARGS: dict[int, bool] = getattr(torch_modules, "_global_forward_hooks_with_kwargs", {})


@dataclass(slots=True, eq=False)
class Frame:
    """One running call of a module, with what was counted directly in it, not in its submodules.

    Attributes:
        module: The module.
        name: Its name in the root.
        first_node: The sequence number of the first autograd node that the call can make.
        flops: Forward FLOPs.
        by_rule: The same by the rule that counted them.
        uncounted: Names of operators without a rule.
        has_raised: Whether the call has ended with an exception.
    """

    module: nn.Module
    name: str
    first_node: int = 0
    flops: int = 0
    by_rule: Counter[str] = field(default_factory=Counter)
    uncounted: set[str] = field(default_factory=set)
    has_raised: bool = False


class ModuleStack:
    """Keeps the stack of running modules while its ``with`` block runs.

    Args:
        root: The model, which gives the modules their names.
        leave: Called when a module's call ends, with its frame, its inputs, its keyword inputs, and its output (None if
            it raised).
        enter: Called when a module's call begins, with its frame.
        elsewhere: Called with the type and name of a module of the root that another thread calls, but not of those
            inside of it.
    """

    def __init__(
        self,
        root: nn.Module,
        leave: Callable[[Frame, tuple[Any, ...], dict[str, Any], Any], None],
        enter: Callable[[Frame], None] = lambda frame: None,
        elsewhere: Callable[[str], None] = lambda description: None,
    ) -> None:
        self.root = root
        self._names: dict[int, str] = {id(module): name for name, module in root.named_modules()}
        self._leave = leave
        self._enter = enter
        self._elsewhere = elsewhere
        self._frames: list[Frame] = []
        self._handles: list[Any] = []
        self._thread = OwnThread()
        self._elsewhere_now = local()

    def __enter__(self) -> ModuleStack:
        self._thread.enter()
        # torch warns if a compiled module meets a global hook, but ours are removed before anything is compiled.
        warnings.filterwarnings("ignore", "Using `torch.compile\\(module\\)` when there are global hooks", UserWarning)
        self._filter = warnings.filters[0]
        self.resume()
        return self

    def __exit__(self, *exception: object) -> None:
        self.suspend()
        self._frames.clear()
        if self._filter in warnings.filters:
            warnings.filters.remove(self._filter)  # type: ignore[attr-defined]

    def resume(self) -> None:
        """Register the hooks."""
        after: Any = partial(register_module_forward_hook, always_call=True)
        self._handles = [
            register_module_forward_pre_hook(self._before),
            after(self._after, with_kwargs=True) if _GIVES_KEYWORDS else after(self._after_without_keywords),
        ]

    def suspend(self) -> None:
        """Remove the hooks, for code that must not see them."""
        for handle in self._handles:
            handle.remove()
            _WITH_KWARGS.pop(handle.id, None)  # torch forgets to
        self._handles = []

    @contextmanager
    def also_known(self, copies: dict[int, nn.Module]) -> Iterator[None]:
        """A context in which copies of modules have the names of their originals, whose ids are the keys."""
        known = self._names
        self._names = known | {id(copy): known[part] for part, copy in copies.items() if part in known}
        try:
            yield
        finally:
            self._names = known

    @property
    def innermost(self) -> Frame | None:
        """The call that is running now."""
        return self._frames[-1] if self._frames else None

    @property
    def outer(self) -> Frame | None:
        """The call around the innermost one."""
        return self._frames[-2] if len(self._frames) > 1 else None

    @property
    def name(self) -> str:
        """The name of the running module; "" for the root, and outside of all modules."""
        return self._frames[-1].name if self._frames else ""

    @property
    def description(self) -> str:
        """The type and the name of the running module; "" outside of all modules."""
        if not self._frames:
            return ""
        frame = self._frames[-1]
        return f"{type(frame.module).__name__} {frame.name}".rstrip()

    def innermost_is(self, kind: type[nn.Module]) -> bool:
        """Whether the innermost running module is of this type."""
        return bool(self._frames) and isinstance(self._frames[-1].module, kind)

    def any_type(self, matches: Callable[[nn.Module], bool]) -> bool:
        """Whether any running module matches."""
        return any(matches(frame.module) for frame in self._frames)

    def name_of(self, function: Callable[..., Any]) -> str:
        """The type and name of the module that a function is a method of, or else the function's own name."""
        owner = self.module_of(function)
        if owner is not None:
            return f"{type(owner).__name__} {self.name_of_module(owner) or ''}".rstrip()
        return getattr(function, "__qualname__", type(function).__name__)

    def name_of_module(self, module: nn.Module) -> str | None:
        """A module's name, or None if it is not part of the root."""
        return self._names.get(id(module))

    @staticmethod
    def module_of(function: Callable[..., Any]) -> nn.Module | None:
        """The module that a function is a method of, or None."""
        owner = getattr(function, "__self__", None)
        for cell in getattr(function, "__closure__", None) or ():
            with suppress(ValueError):  # the cell may be empty
                inside = getattr(cell.cell_contents, "__self__", None)
                owner = inside if isinstance(inside, nn.Module) else owner  # a wrapper by Dynamo
        return owner if isinstance(owner, nn.Module) else None

    def _before(self, module: nn.Module, args: Any) -> None:
        if self._is_ours():
            self._frames.append(Frame(module, self._name_of(module), next_node_number()))
            self._enter(self._frames[-1])
        elif (name := self.name_of_module(module)) is not None:
            if not self._depth_elsewhere:
                self._elsewhere(f"{type(module).__name__} {name}".rstrip())
            self._depth_elsewhere += 1

    def _after(self, module: nn.Module, args: tuple[Any, ...], *kwargs_and_output: Any) -> None:
        # torch leaves out the keyword inputs where the call has raised.
        kwargs, output = kwargs_and_output if len(kwargs_and_output) > 1 else ({}, kwargs_and_output[0])
        if not self._is_ours():
            self._depth_elsewhere -= self.name_of_module(module) is not None
            return
        if all(frame.module is not module for frame in self._frames):
            return
        while self._frames[-1].module is not module:  # torch does not report every call that raised
            self._frames[-1].has_raised = True
            self._leave(self._frames[-1], (), {}, None)
            self._frames.pop()
        self._frames[-1].has_raised = len(kwargs_and_output) == 1
        self._leave(self._frames[-1], args, kwargs, output)
        self._frames.pop()

    def _after_without_keywords(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The same in a torch that gives a global hook no keyword inputs: they are read where it was called."""
        caller = sys._getframe(1).f_locals
        has_returned = self._handles[1].id in caller["called_always_called_hooks"]
        self._after(module, args, *((caller["kwargs"], output) if has_returned else (output,)))

    @property
    def _depth_elsewhere(self) -> int:
        """How many modules of the root are running inside each other in this thread, which is not the block's."""
        return getattr(self._elsewhere_now, "depth", 0)

    @_depth_elsewhere.setter
    def _depth_elsewhere(self, depth: int) -> None:
        self._elsewhere_now.depth = depth

    def _is_ours(self) -> bool:
        # A checkpoint's second forward may run in one of autograd's threads.
        return self._thread.is_running or in_backward()

    def _name_of(self, module: nn.Module) -> str:
        """A module's name; one outside the root (in a plain list, say) gets the running module's name and its type."""
        known = self._names.get(id(module))
        if known is not None:
            return known
        inside = f"{self.name}." if self.name else ""
        return f"{inside}({type(module).__name__})" if self._frames else ""
