"""The measured peaks of this machine on disk: the best so far for each device, dtype and setting.

Each peak is one file in the user's cache directory, or in the directory that the environment variable
MFU_CALLBACK_CACHE names. A peak that cannot be read or written is measured again.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from platformdirs import user_cache_path

from mfu_callback.peaks.fp32_precision import fp32_precision
from mfu_callback.peaks.peak import Peak, dtype_name
from mfu_callback.peaks.this_machine import cores, device_name, multiprocessors

DIRECTORY_VARIABLE = "MFU_CALLBACK_CACHE"
_MOST_APART = 1.1
_CONFIRMED = 2  # sweeps that must agree


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheKey:
    """What a measured peak depends on.

    Attributes:
        device: The name of the device; for a CPU it includes the number of torch's threads.
        multiprocessors: The device's number of multiprocessors, since slices of different sizes may share a name; None
            if the driver does not report it.
        cores: For a CPU, the number of cores that the process may run on; otherwise None.
        dtype: The dtype of the matmuls' inputs.
        precision: The precision inside matmuls of fp32 matrices; None for other dtypes.
        torch_version: The version of torch.
    """

    device: str
    multiprocessors: int | None
    cores: int | None
    dtype: str
    precision: str | None
    torch_version: str

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype) -> CacheKey:
        """The key of a device and a dtype under the current settings."""
        return cls(
            device=device_name(device),
            multiprocessors=multiprocessors(device),
            cores=cores() if device.type == "cpu" else None,
            dtype=dtype_name(dtype),
            precision=fp32_precision(device) if dtype == torch.float32 else None,
            torch_version=torch.__version__,
        )

    @property
    def path(self) -> Path:
        """The file of this key's peak."""
        return cache_directory() / f"peak-{sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]}.json"


def cache_directory() -> Path:
    """The directory of the measured peaks.

    Raises:
        RuntimeError: If the user has no home directory and MFU_CALLBACK_CACHE is not set.
    """
    named = os.environ.get(DIRECTORY_VARIABLE)
    return Path(named).expanduser() if named else user_cache_path("mfu-callback", appauthor=False)


def cached_peak(device: torch.device, dtype: torch.dtype) -> Peak | None:
    """The best peak that was measured under the current settings; None if there is none."""
    kept = _load(CacheKey.of(device, dtype))
    return None if kept is None else kept.peak


def confirmed_peak(device: torch.device, dtype: torch.dtype) -> Peak | None:
    """The cached peak if two whole sweeps agree within 10 %, else None: a single one may have met a busy machine."""
    kept = _load(CacheKey.of(device, dtype))
    return kept.peak if kept is not None and kept.agreeing >= _CONFIRMED else None


def keep_best(peak: Peak, key: CacheKey, *, is_whole: bool = True) -> Peak:
    """Store a peak, unless a higher one is stored already.

    Args:
        peak: The result of a sweep.
        key: The key to store it under.
        is_whole: Whether the sweep was long enough to be relied on.

    Returns:
        The higher peak of the two, marked as noisy if they differ by more than 10 %.
    """
    kept = _load(key)
    best, agreeing = peak, int(is_whole)
    if kept is not None:
        low, best = sorted((kept.peak, peak), key=lambda one: one.flops_per_sec)
        if best.flops_per_sec > _MOST_APART * low.flops_per_sec:
            best, agreeing = replace(best, is_noisy=True), kept.agreeing if best is kept.peak else agreeing
        else:
            agreeing += kept.agreeing
    with suppress(OSError, RuntimeError):
        _store(_Kept(best, agreeing), key)
    return best


def clear_cache() -> int:
    """Delete all measured peaks and return their number.

    Raises:
        OSError: If a file cannot be removed.
        RuntimeError: If there is no cache directory; see `cache_directory`.
    """
    files = list(cache_directory().glob("peak-*"))
    for file in files:
        file.unlink(missing_ok=True)
    return sum(file.suffix == ".json" for file in files)


class _Kept(NamedTuple):
    """A peak, and how many whole sweeps agree with it within 10 %, including the one that measured it."""

    peak: Peak
    agreeing: int


def _load(key: CacheKey) -> _Kept | None:
    try:
        content = json.loads(key.path.read_text(encoding="utf-8"))
        fields = content["peak"]
        peak = Peak(**fields | {"dtype": getattr(torch, key.dtype)})
        is_sound = math.isfinite(peak.flops_per_sec) and peak.flops_per_sec > 0 and fields["dtype"] == key.dtype
        if content["key"] != asdict(key) or not is_sound:
            return None
        return _Kept(peak, int(content["agreeing"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):  # includes RecursionError
        return None


def _store(kept: _Kept, key: CacheKey) -> None:
    # Written to a temporary file and then renamed: another process reads either the old file or the new one.
    peak = asdict(kept.peak) | {"dtype": dtype_name(kept.peak.dtype)}
    path = key.path
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix="peak-", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"key": asdict(key), "peak": peak, "agreeing": kept.agreeing}, file)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
