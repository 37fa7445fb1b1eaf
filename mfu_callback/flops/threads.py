"""Knows which thread a ``with`` block runs in."""

from __future__ import annotations

import threading


class OwnThread:
    """The thread that entered a block; what other threads compute meanwhile need not belong to the block."""

    def __init__(self) -> None:
        self.enter()

    def enter(self) -> None:
        """Record the running thread as the thread of the block."""
        self._ident = threading.get_ident()

    @property
    def is_running(self) -> bool:
        """Whether the running thread is the one that entered the block."""
        return threading.get_ident() == self._ident
