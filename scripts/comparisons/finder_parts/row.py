"""One search of the comparison of batch size finders: how it is asked for, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one process is to do.

    Attributes:
        model: A name in `finder_subjects.SUBJECTS`.
        budget_bytes: What the model and all that comes of it may take.
        finder: The finder to run.
        size: The batch size to train instead.
    """

    model: str
    budget_bytes: int
    finder: str = ""
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of one search.

    Attributes:
        finder: Its name.
        model: What was trained.
        found: The size that was returned; None if there was an error.
        seconds: How long the search took.
        ran: Whether two steps at the size that was returned ended.
        sizes: Different batch sizes that were trained.
        attempts: How often training was begun.
        steps: Training steps that were begun.
        left: Names of what is not as it was.
        wrote: The endings of files that were there during the search.
        error: What ended it.
    """

    finder: str
    model: str
    found: int | None = None
    seconds: float | None = None
    ran: bool = False
    sizes: int = 0
    attempts: int = 0
    steps: int = 0
    left: list[str] = field(default_factory=list)
    wrote: list[str] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Whether a size trains.

    Attributes:
        fits: Two steps ended within the budget.
        why: What says so.
    """

    fits: bool
    why: str
