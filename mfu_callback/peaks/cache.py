"""The measured peaks of this machine, kept on disk: the best so far for each device, dtype and setting.

They lie in the user's cache directory, or in the directory that the variable MFU_CALLBACK_CACHE names, one file each.
What cannot be read or written is measured anew; nothing here raises.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from platformdirs import user_cache_path

from mfu_callback.peaks.fp32_precision import fp32_precision
from mfu_callback.peaks.peak import Peak, dtype_name
from mfu_callback.peaks.this_machine import cores, device_name, multiprocessors

DIRECTORY_VARIABLE = "MFU_CALLBACK_CACHE"
_MOST_APART = 1.1


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
    """Where the measured peaks are kept."""
    return Path(os.environ.get(DIRECTORY_VARIABLE) or user_cache_path("mfu-callback", appauthor=False))


def cached_peak(device: torch.device, dtype: torch.dtype) -> Peak | None:
    """The best peak that was measured under the settings of now, or None."""
    return _load(CacheKey.of(device, dtype))


def keep_best(peak: Peak, key: CacheKey) -> Peak:
    """Keep a peak unless a higher one is kept already.

    Returns:
        The higher one; it is noisy where the two differ by over 10 %.
    """
    kept = _load(key)
    if kept is None:
        best = peak
    else:
        low, best = sorted((kept, peak), key=lambda one: one.flops_per_sec)
        best = replace(best, is_noisy=best.is_noisy or best.flops_per_sec > _MOST_APART * low.flops_per_sec)
    if best != kept:
        with suppress(OSError):
            _store(best, key)
    return best


def clear_cache() -> int:
    """Forget all measured peaks; returns how many there were."""
    files = list(cache_directory().glob("peak-*.json"))
    for file in files:
        file.unlink(missing_ok=True)
    return len(files)


def _load(key: CacheKey) -> Peak | None:
    try:
        content = json.loads(key.path.read_text(encoding="utf-8"))
        peak = content["peak"]
        if content["key"] != asdict(key) or not peak["flops_per_sec"] > 0:
            return None
        return Peak(**peak | {"dtype": getattr(torch, peak["dtype"])})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _store(peak: Peak, key: CacheKey) -> None:
    # Written beside and moved in one piece: another process reads the old one or the new one.
    content = {"key": asdict(key), "peak": asdict(peak) | {"dtype": dtype_name(peak.dtype)}}
    key.path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=key.path.parent, suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file)
    os.replace(name, key.path)
