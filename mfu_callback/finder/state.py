"""The state of BatchSizeFinder in a checkpoint: what is written, and how that of any version is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from mfu_callback.finder.result import BatchSizeResult
from mfu_callback.finder.sweep import SweepPoint
from mfu_callback.finder.trials.trial import Trial
from mfu_callback.lightning.namespaces import MisconfigurationException

# Goes up when the code of before could not read the state any more. A new field with a default is no reason.
VERSION = 1
_WITHOUT_VERSION = 0  # what mfu-callback 0.1.0 writes
_REMEDY = "or take BatchSizeFinder out of the Trainer's callbacks and set the batch size yourself"

_Kind = TypeVar("_Kind")


def state_of(result: BatchSizeResult) -> dict[str, Any]:
    """The state that a checkpoint keeps of a result: its fields as plain data, and the version."""
    return {"version": VERSION, **result.as_dict()}


def result_of(state: Any) -> BatchSizeResult:
    """The result that a state was made of.

    Fields that it lacks have their defaults; fields that are not known here are left out.

    Args:
        state: What `state_of` made, in this or an earlier version.

    Raises:
        MisconfigurationException: If the version is a later one, or the state is none of BatchSizeFinder's.
    """
    state = _mapping(state, "the state")
    _check_version(state.get("version", _WITHOUT_VERSION))
    lists = {name: _made(kind, state[name], name) for name, kind in _LISTS.items() if name in state}
    own_largest = state.get("own_largest", ())  # JSON has no tuples
    if not isinstance(own_largest, list | tuple) or not all(isinstance(size, int) for size in own_largest):
        raise _malformed(f"own_largest is {own_largest!r} and no list of integers")
    result: BatchSizeResult = _filled(
        BatchSizeResult, {**state, **lists, "own_largest": tuple(own_largest)}, "the state"
    )
    if not _is_count(result.batch_size):
        raise _malformed(f"batch_size is {result.batch_size!r}, which is no positive integer")
    return result


_LISTS: dict[str, type[Any]] = {"trials": Trial, "sweep": SweepPoint}


def _check_version(version: Any) -> None:
    if isinstance(version, bool) or not isinstance(version, int):
        raise _malformed(f"version is {version!r}, which is no integer")
    if version > VERSION:
        raise MisconfigurationException(
            f"The checkpoint has a state of BatchSizeFinder of version {version}; this mfu-callback reads versions up"
            f" to {VERSION}. Upgrade mfu-callback to the version that wrote it, {_REMEDY}."
        )


def _made(kind: type[_Kind], values: Any, name: str) -> tuple[_Kind, ...]:
    if not isinstance(values, list | tuple):
        raise _malformed(f"{name} is a {type(values).__name__} and no list")
    return tuple(_filled(kind, _mapping(one, f"one of {name}"), f"one of {name}") for one in values)


def _filled(kind: Any, values: Mapping[str, Any], what: str) -> Any:
    """An object of a dataclass from the fields that are there."""
    needed = [field.name for field in fields(kind) if field.default is field.default_factory is MISSING]
    if missing := [name for name in needed if name not in values]:
        raise _malformed(f"{what} has no {', '.join(missing)}")
    return kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _malformed(f"{what} is a {type(value).__name__} and no mapping")
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _malformed(why: str) -> MisconfigurationException:
    return MisconfigurationException(
        f"The checkpoint's state of BatchSizeFinder cannot be read: {why}. Resume from another checkpoint, {_REMEDY}."
    )
