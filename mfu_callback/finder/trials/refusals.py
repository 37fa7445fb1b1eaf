"""Errors of steps at a size that the model does not take."""

from __future__ import annotations

from mfu_callback.lightning.namespaces import MisconfigurationException
from mfu_callback.tools.errors import named

# What assertions, torch's operators and modules, and look-ups by position raise at a size that they do not take.
_REFUSALS = (AssertionError, ValueError, RuntimeError, IndexError)


def explain(error: Exception, size: int) -> None:
    """Say what to do about an error that may be about the size.

    Raises:
        MisconfigurationException: If the error is of a kind that refuses a size.
    """
    if isinstance(error, _REFUSALS):
        raise MisconfigurationException(
            f"BatchSizeFinder's trial of batch size {size} failed: {named(error)}. If the model takes only some sizes,"
            " pass the number that they are multiples of as multiple_of=, or the largest as max_size=. Otherwise the"
            " step itself fails, as it would in training."
        ) from error
