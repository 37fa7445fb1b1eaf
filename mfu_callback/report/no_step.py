"""Why a run has no measured step: what its steps were instead, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# What a step that is left out did, by its part of the wall time.
_DID = {
    "counting": "counted FLOPs, as a batch of a new shape needs",
    "sampling": "timed single modules or operators",
    "rest": "ended early or could not be seen",
}
_GIVE = "or pass flops= per token or as a function of the batch, so that nothing is counted"


@dataclass(frozen=True, slots=True)
class Unit:
    """What is measured: the step of a fit, or the batch of an evaluation.

    Attributes:
        name: Its name.
        names: The name of several.
        more: What gives more of them.
    """

    name: str
    names: str
    more: str


STEP = Unit("step", "steps", "Train longer")
BATCH = Unit("batch", "batches", "Use more batches")


def why_none(unit: Unit, parts: Mapping[str, int], *, warmup_steps: int) -> str:
    """Why nothing was measured, and what to do, as the end of a sentence and a sentence.

    Args:
        unit: What is measured.
        parts: How many this process had, by part: "warmup", after it "counting", "sampling" and "rest", and "training"
            where another process has measured none.
        warmup_steps: Number of warm-up steps or batches.
    """
    after = {part: parts[part] for part in _DID if parts.get(part)}
    if parts.get("training"):
        return (
            f"this process measured {parts['training']:,}, but another one none: all of its {unit.names} were"
            f" warm-up or counted FLOPs, as batches of new shapes need. {unit.more}, {_GIVE}."
        )
    if after:
        since = " after the warm-up" if parts.get("warmup") else ""
        return f"{_what_they_did(unit, after, since)}. {_remedy(unit, after.get('counting', 0))}"
    if not parts:
        return f"no {unit.name} has ended. {unit.more}."
    first = f"the first {warmup_steps} are" if warmup_steps > 1 else "the first is"
    return f"{first} warm-up. {unit.more}, or lower warmup_steps."


def _what_they_did(unit: Unit, after: Mapping[str, int], since: str) -> str:
    number = sum(after.values())
    if number == 1:
        return f"the only {unit.name}{since} {_DID[next(iter(after))]}, so it is left out"
    if len(after) == 1:
        return f"each of the {number:,} {unit.names}{since} {_DID[next(iter(after))]}, so they are left out"
    parts = "; ".join(f"{one:,} {_DID[part]}" for part, one in after.items())
    return f"of the {number:,} {unit.names}{since}, all are left out: {parts}"


def _remedy(unit: Unit, counted: int) -> str:
    if not counted:
        return f"{unit.more}."
    return f"{unit.more if counted == 1 else 'Pad batches to a few shapes'}, {_GIVE}."
