"""Keeps an error of our own from ending a run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mfu_callback.lightning.namespaces import rank_zero_warn

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def never_raises(hook: Callable[..., None]) -> Callable[..., None]:
    """Have a hook of a callback, whose first argument is the Trainer, stop the measuring instead of raising.

    Args:
        hook: The hook of a class with ``_let_go()``, which stops the measuring, and ``_has_failed``, which keeps it
            stopped until the next run.
    """

    @functools.wraps(hook)
    def call(self: Any, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self._has_failed &= hook.__name__ != "setup"
        if self._has_failed:
            return
        try:
            hook(self, trainer, *args, **kwargs)
        except Exception as error:
            give_up(self, trainer, error, is_ending=hook.__name__ in ("on_exception", "teardown"))

    return call


def give_up(callback: Any, trainer: Trainer, error: Exception, *, is_ending: bool = False) -> None:
    """Stop the measuring because of an error of our own, and say so.

    Args:
        callback: The callback, as above.
        trainer: The Trainer.
        error: The error, which is being handled.
        is_ending: Whether no collective of ours follows in which other processes would wait for this one.

    Raises:
        Exception: The error, where other processes would wait for this one for ever.
    """
    callback._has_failed = True
    callback._let_go()
    if trainer.world_size > 1 and not is_ending:
        raise error
    rank_zero_warn(
        f"MFUCallback has failed ({type(error).__name__}: {error}), and measures nothing more in this run, which goes"
        " on. This is a bug in mfu-callback: please report this line."
    )
