"""Watches the launches of Triton kernels, which no dispatch mode sees."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from mfu_callback.tools.brackets import Brackets

# Modules and classes that launch kernels: compiled, and by Triton's interpreter (TRITON_INTERPRET=1).
_LAUNCHERS = (("triton.runtime.jit", "JITFunction"), ("triton.runtime.interpreter", "InterpretedFunction"))


class TritonLaunches:
    """Reports every launch of a Triton kernel while it is watching; nothing is put on the kernels.

    Triton is not imported: without it there are no kernels.

    Args:
        launched: Called before a launch with the kernel, its positional arguments and its keyword arguments.
        is_replay: Returns whether a replay of compiled code is running, in which nothing can be launched.
    """

    def __init__(
        self, launched: Callable[[Any, tuple[Any, ...], dict[str, Any]], None], is_replay: Callable[[], bool]
    ) -> None:
        self._launched = launched
        self._is_replay = is_replay
        self._brackets = Brackets()

    def resume(self) -> None:
        """Begin to report."""
        for module, name in _LAUNCHERS:
            kind = getattr(sys.modules.get(module), name, None)
            if kind is not None and hasattr(kind, "run"):  # an older interpreter has it on each kernel
                self._brackets.put_on_class(kind, "run", self._around)

    def suspend(self) -> None:
        """Stop reporting."""
        self._brackets.remove()

    def _around(self, run: Callable[..., Any]) -> Callable[..., Any]:
        launched, is_replay = self._launched, self._is_replay

        def watched(kernel: Any, *args: Any, **kwargs: Any) -> Any:
            if not kwargs.get("warmup"):
                launched(kernel, args, kwargs)
            return None if is_replay() else run(kernel, *args, **kwargs)

        return watched
