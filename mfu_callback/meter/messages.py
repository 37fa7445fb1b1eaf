"""What a run says while it goes on: information, and each warning once."""

from __future__ import annotations

from collections.abc import Callable


class Messages:
    """Says things in the way of the loop that runs.

    Args:
        inform: Shows one line of information, on the first rank alone.
        warn: Shows a warning, on the first rank alone.
        name: Who says it, as lines of information begin.
    """

    def __init__(
        self, inform: Callable[[str], None], warn: Callable[[str], None], *, name: str = "MFUCallback"
    ) -> None:
        self._inform = inform
        self._name = name
        self._warn = warn
        self._warned: set[str] = set()

    def inform(self, message: str) -> None:
        """Show one line of information."""
        self._inform(f"{self._name}: {message}")

    def is_new(self, subject: str) -> bool:
        """Whether a subject was not warned of before; it now was."""
        is_new = subject not in self._warned
        self._warned.add(subject)
        return is_new

    def warn_once(self, subject: str, message: str) -> None:
        """Warn of a subject, unless that was done before.

        Args:
            subject: What the warning is of.
            message: The warning.
        """
        if self.is_new(subject):
            self._warn(message)
