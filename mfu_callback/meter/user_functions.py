"""Calls functions of the user, whose errors must not end the run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any


class UserFunctions:
    """Calls functions and warns once about each that fails."""

    def __init__(self) -> None:
        self._failed: set[str] = set()

    def ask(self, name: str, function: Callable[[Any], Any], batch: Any) -> float | None:
        """The value of a function for a batch; None if it fails or returns None.

        Args:
            name: The argument that it was given as, such as "tokens=".
            function: The function.
            batch: The batch of a step.
        """
        try:
            value = function(batch)
            return None if value is None else float(value)
        except Exception as error:
            self.warn_once(
                name,
                f"Calling {name} failed ({type(error).__name__}: {error}). Figures that need its value are left out."
                f" Training goes on. Correct the function: {name} is called with the batch of each step.",
            )
            return None

    def warn_once(self, subject: str, message: str) -> None:
        """Warn about a subject, unless that was done before.

        Args:
            subject: Subject of the warning.
            message: The warning.
        """
        if subject not in self._failed:
            self._failed.add(subject)
            warnings.warn(message, stacklevel=2)
