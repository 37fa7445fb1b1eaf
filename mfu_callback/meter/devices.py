"""What each of several devices did in a step, and which of them the others wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mfu_callback.meter.totals import PHASES, Totals
from mfu_callback.meter.waits import Together

# A device sets the pace if the others wait longer for it than both of these, in the mean of the steps.
_BEHIND_SEC, _BEHIND_SHARE = 1e-3, 0.05
_CONSTANT = 0.75  # late in at least this share of the steps: slow all the time


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFigures:
    """One of several devices; means of a step, in seconds.

    Attributes:
        rank: Its global rank.
        host: The name of its machine; empty if unknown.
        step_sec: Training time.
        phases_sec: Time by phase (data, forward, backward, optimizer, other), without waiting in collectives.
        waits_sec: Waiting in collectives; with the phases it sums to the training time.
    """

    rank: int
    host: str
    step_sec: float
    phases_sec: dict[str, float]
    waits_sec: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceSetter:
    """The device that the others wait for.

    Attributes:
        rank: Its global rank.
        host: The name of its machine; empty if unknown.
        phase: The phase in which it takes longer than the others: data, forward, backward, optimizer or other.
        behind_sec: Seconds of a step that the others wait for it, in the mean.
        late_share: The share of the steps in which it was late.
        is_constant: Whether it is slow all the time, and not now and then.
    """

    rank: int
    host: str
    phase: str
    behind_sec: float
    late_share: float
    is_constant: bool


def device_figures(ranks: Sequence[Totals], hosts: Sequence[str] = ()) -> tuple[DeviceFigures, ...] | None:
    """The figures of each device; None for a single one.

    Args:
        ranks: The totals of each device.
        hosts: The name of each device's machine; empty if unknown.
    """
    if len(ranks) < 2:
        return None
    return tuple(
        DeviceFigures(
            rank=number,
            host=hosts[number] if hosts else "",
            step_sec=rank.seconds / rank.steps,
            phases_sec={phase: rank.own_sec(phase) / rank.steps for phase in PHASES},
            waits_sec=rank.waits_sec / rank.steps,
        )
        for number, rank in enumerate(ranks)
    )


def pace_setter_of(devices: Sequence[DeviceFigures] | None, rank: int, together: Together) -> PaceSetter | None:
    """The device that the others wait for; None if there is a single one, or none that is clearly behind.

    Args:
        devices: The figures of each device.
        rank: The device that waits least.
        together: How late each device was, over the steps.
    """
    if not devices:
        return None
    own, others = devices[rank], [one for one in devices if one.rank != rank]
    behind = float(np.median([one.waits_sec for one in others])) - own.waits_sec
    if behind < max(_BEHIND_SEC, _BEHIND_SHARE * own.step_sec):
        return None
    late_share = together.late_share(rank)
    return PaceSetter(
        rank=rank,
        host=own.host,
        phase=max(PHASES, key=lambda phase: own.phases_sec[phase] - _median(others, phase)),
        behind_sec=behind,
        late_share=late_share,
        is_constant=late_share >= _CONSTANT,
    )


def _median(devices: Sequence[DeviceFigures], phase: str) -> float:
    return float(np.median([one.phases_sec[phase] for one in devices]))
