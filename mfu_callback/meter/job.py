"""What a training job has done since its first fit began, over all fits that went on from a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from mfu_callback.meter.done import NOTHING, Done, foreseen, of_all
from mfu_callback.meter.ledger import PARTS

# Goes up when the code of before could not read the state any more. A new amount is no reason.
VERSION = 1
_SEC_PER_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The sums of a job over all its devices and fits, up to a moment. Unknown is None.

    They contain the warm-up and every step that was counted or sampled. What was done after a checkpoint and given up
    by going back to it is in the wall time alone.

    Attributes:
        began_at: When its first fit began, in seconds since 1970; no two jobs have the same.
        at: The moment, in seconds since 1970.
        restarts: How often a fit went on from a checkpoint.
        steps: Optimizer steps.
        samples: Samples.
        tokens: Tokens, with padding.
        real_tokens: Tokens without padding.
        loss_tokens: Tokens that the loss is taken over.
        flops: Model FLOPs of the forward and backward passes.
        device_hours: Hours of all fits, times the devices.
        wall_time_sec: Wall time in seconds by part (`mfu_callback.meter.ledger.PARTS`).
    """

    began_at: float
    at: float
    restarts: int = 0
    steps: int = 0
    samples: int | None = None
    tokens: int | None = None
    real_tokens: int | None = None
    loss_tokens: int | None = None
    flops: int | None = None
    device_hours: float = 0.0
    wall_time_sec: Mapping[str, float]

    @property
    def done(self) -> Done:
        """The sums, in which unknown is NaN."""
        amounts = {name: getattr(self, name) for name in _AMOUNTS}
        known = {name: math.nan if value is None else float(value) for name, value in amounts.items()}
        return Done(steps=float(self.steps), device_sec=self.device_hours * _SEC_PER_HOUR, **known)

    def gone_on(self, began_at: float, last_seen: float) -> dict[str, float]:
        """The wall time by part up to the begin of a fit that goes on from this moment.

        Args:
            began_at: When that fit began, in seconds since 1970.
            last_seen: When the fit of this moment last trained, in seconds since 1970; all until then is "lost".
        """
        gap = max(began_at - self.at, 0.0)  # clocks of two machines may differ
        lost = min(max(last_seen - self.at, 0.0), gap)
        return _added(self.wall_time_sec, {"lost": lost, "down": gap - lost})


_AMOUNTS = ("samples", "tokens", "real_tokens", "loss_tokens", "flops")


def state_of(job: Job) -> dict[str, Any]:
    """The state that a checkpoint keeps of a job: numbers by name, and the version."""
    return {"version": VERSION, **asdict(job)}


def job_of(state: Any) -> Job:
    """The job that a state was made of. What it lacks is unknown, and what is not known here is left out.

    Args:
        state: What `state_of` made.

    Raises:
        ValueError: If it was made by another version, or by something else; the message goes on after "The state".
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"is a {type(state).__name__} and no mapping")
    version = state.get("version")
    if version != VERSION:
        raise ValueError(f"has version {version!r}, of which this mfu-callback knows nothing; it reads {VERSION}")
    known = {field.name: state[field.name] for field in fields(Job) if field.name in state}
    wrong = [name for name, value in known.items() if not _CHECKS.get(name, _is_amount)(value)]
    wrong += [name for name in ("began_at", "at", "wall_time_sec") if name not in known]
    if wrong:
        raise ValueError(f"is damaged: {', '.join(f'{name}={state.get(name)!r}' for name in wrong)}")
    return Job(**known)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _is_count(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int)


def _is_amount(value: Any) -> bool:
    return value is None or _is_count(value)


def _is_wall_time(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() <= set(PARTS) and all(map(_is_number, value.values()))


_CHECKS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("began_at", "at", "device_hours"), _is_number),
    **dict.fromkeys(("steps", "restarts"), _is_count),
    "wall_time_sec": _is_wall_time,
}


class Progress:
    """Follows a job through one of its fits.

    Args:
        devices: Number of devices.
        now: The time, in seconds since 1970.

    Attributes:
        began_at: When the fit began, in seconds since 1970.
        carried: What the job had done before the fit.
    """

    def __init__(self, devices: int, now: Callable[[], float] = time.time) -> None:
        self._devices, self._now = devices, now
        self.began_at = now()
        self.carried = NOTHING
        self._before: Job | None = None
        self._wall_time_before: Mapping[str, float] = {}
        self._told = NOTHING, NOTHING
        self._ended_at: float | None = None

    def go_on_from(self, job: Job, last_seen: float) -> None:
        """Go on from a checkpoint.

        Args:
            job: What the checkpoint says of the job.
            last_seen: When the fit that wrote it last trained, in seconds since 1970.
        """
        self._before, self.carried = job, job.done
        self._wall_time_before = job.gone_on(self.began_at, last_seen)

    def take(self, devices: Sequence[Done], own: int) -> None:
        """Take what all devices have told each other.

        Args:
            devices: What each of them has done since the fit began.
            own: The number of this one.
        """
        self._told = devices[own], of_all(devices)

    def end(self) -> None:
        """The fit has trained for the last time."""
        self._ended_at = self._now()

    def job(self, own: Done, wall_time_sec: Mapping[str, float]) -> Job:
        """The job up to now, or to the end of the fit.

        Args:
            own: What this device has done since the fit began; of the others it is foreseen.
            wall_time_sec: Wall time of this process since then, in seconds by part.
        """
        before = self._before
        done = self.carried + foreseen(own, *self._told, self._devices)
        amounts = {name: getattr(done, name) for name in _AMOUNTS}
        return Job(
            began_at=self.began_at if before is None else before.began_at,
            at=self._now() if self._ended_at is None else self._ended_at,
            restarts=0 if before is None else before.restarts + 1,
            steps=round(done.steps),
            **{name: None if math.isnan(value) else round(value) for name, value in amounts.items()},
            device_hours=done.device_sec / _SEC_PER_HOUR,
            wall_time_sec=_added(self._wall_time_before, wall_time_sec),
        )


def _added(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {part: one.get(part, 0.0) + other.get(part, 0.0) for part in PARTS}
