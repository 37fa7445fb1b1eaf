"""The request to one process of the comparison of batch size finders, and the results that it returns."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one process must do: run a finder, or train at one size.

    Attributes:
        model: A name in `SUBJECTS` of `finder_parts/subjects.py`.
        budget_bytes: Memory that the model and everything that its training allocates may use.
        finder: The finder to run.
        size: The batch size to train; None runs the finder.
    """

    model: str
    budget_bytes: int
    finder: str = ""
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The result of one search.

    Attributes:
        finder: The name of the finder.
        model: The name of the model that was trained.
        found: The size that the finder returned; None if there was an error.
        seconds: Seconds that the search took.
        ran: Whether two steps at the returned size finished.
        sizes: Number of different batch sizes that were trained.
        attempts: How often training was started.
        steps: Number of training steps that were started.
        trials: The sizes of the trials that the finder reports, in order; empty if it reports none.
        left: Names of what the search changed and did not restore.
        wrote: Extensions of the files that existed during the search.
        error: The error that ended the search.
    """

    finder: str
    model: str
    found: int | None = None
    seconds: float | None = None
    ran: bool = False
    sizes: int = 0
    attempts: int = 0
    steps: int = 0
    trials: list[int] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    wrote: list[str] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Whether a size trains.

    Attributes:
        fits: Whether two steps finished within the budget.
        why: The error, or "ran" if there was none.
    """

    fits: bool
    why: str
