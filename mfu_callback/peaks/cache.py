"""The measured peaks of this machine, kept on disk: the best so far for each device, dtype and setting.

They lie in the user's cache directory, or in the directory that the variable MFU_CALLBACK_CACHE names, one file each.
What cannot be read or written is measured anew.
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
_CONFIRMED = 2  # sweeps that agree


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheKey:
    """What a measured peak depends on.

    Attributes:
        device: The name of the device; for a CPU with the number of torch's threads.
        multiprocessors: Of the device, where the driver says it: a slice has the name of others.
        cores: That the process may run on, for a CPU.
        dtype: Of the matmuls' inputs.
        precision: Inside of matmuls of fp32 matrices.
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
        """The key of a device and a dtype under the settings of now."""
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
        """Where its peak is kept."""
        return cache_directory() / f"peak-{sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]}.json"


def cache_directory() -> Path:
    """Where the measured peaks are kept.

    Raises:
        RuntimeError: If the user has no home directory, and the variable is not set.
    """
    named = os.environ.get(DIRECTORY_VARIABLE)
    return Path(named).expanduser() if named else user_cache_path("mfu-callback", appauthor=False)


def cached_peak(device: torch.device, dtype: torch.dtype) -> Peak | None:
    """The best peak that was measured under the settings of now, or None."""
    kept = _load(CacheKey.of(device, dtype))
    return None if kept is None else kept.peak


def confirmed_peak(device: torch.device, dtype: torch.dtype) -> Peak | None:
    """The same, if a second whole sweep has come within 10 % of it: one alone may have met a busy machine."""
    kept = _load(CacheKey.of(device, dtype))
    return kept.peak if kept is not None and kept.agreeing >= _CONFIRMED else None


def keep_best(peak: Peak, key: CacheKey, *, is_whole: bool = True) -> Peak:
    """Keep a peak unless a higher one is kept already.

    Args:
        peak: The result of a sweep.
        key: What it depends on.
        is_whole: Whether the sweep was long enough to be relied on.

    Returns:
        The higher one; it is noisy where the two differ by over 10 %.
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
    """Forget all measured peaks; returns how many there were.

    Raises:
        OSError: If they cannot be removed.
        RuntimeError: If there is no directory for them.
    """
    files = list(cache_directory().glob("peak-*"))
    for file in files:
        file.unlink(missing_ok=True)
    return sum(file.suffix == ".json" for file in files)


class _Kept(NamedTuple):
    """A peak, and how many whole sweeps came within 10 % of it, its own included."""

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
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):  # RecursionError is of the last
        return None


def _store(kept: _Kept, key: CacheKey) -> None:
    # Written beside and moved in one piece: another process reads the old one or the new one.
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
