"""Which thread a block runs in."""

from __future__ import annotations

import threading


class OwnThread:
    """The thread that entered a block: what other threads compute meanwhile may be anybody's."""

    def __init__(self) -> None:
        self.enter()

    def enter(self) -> None:
        """Take the running thread for the block's own."""
        self._ident = threading.get_ident()

    @property
    def is_running(self) -> bool:
        """Whether the running thread is the block's own."""
        return threading.get_ident() == self._ident
