"""The progress of a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

from mfu_callback.finder.trials.trial import Trial
from mfu_callback.lightning.namespaces import rank_zero_info


class SearchProgress:
    """Reports every trial in the log and, on a terminal, in a status line.

    Args:
        console: Where to show the status line; None for no line.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.in_words: Callable[[int], str] = "batch {:,}".format  # a size in words
        self._status = None
        if console is not None and console.is_terminal:
            self._status = Status("BatchSizeFinder: getting ready", console=console)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """A context that shows the status line."""
        if self._status is None:
            yield
        else:
            with self._status:
                yield

    def report(self, trial: Trial) -> None:
        """Report one trial."""
        text = f"{self.in_words(trial.size)} {'fits' if trial.fits else 'does not fit'}"
        peak = "" if trial.peak_bytes is None else f", {trial.peak_bytes / 2**20:,.1f} MiB"
        why = "" if trial.fits else f" ({trial.why})"
        rank_zero_info(f"BatchSizeFinder: {text}{why}{peak}, {trial.seconds:.2f} s.")
        self.doing(text)

    def doing(self, text: str) -> None:
        """Show what the search does now."""
        if self._status is not None:
            self._status.update(f"BatchSizeFinder: {text}")
