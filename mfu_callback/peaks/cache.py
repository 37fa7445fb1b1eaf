"""What was measured on this machine, on disk: the best peak for each device, dtype and setting, and rates of dtypes.

Each is one file in the user's cache directory, or in the directory that the environment variable MFU_CALLBACK_CACHE
names. What cannot be read or written is measured again. A noisy peak is not stored: a later fit would take it for what
the device can do.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from time import time
from typing import Any, NamedTuple

import torch
from platformdirs import user_cache_path

from mfu_callback.peaks.fp32_precision import fp32_precision
from mfu_callback.peaks.peak import Peak, dtype_name
from mfu_callback.peaks.this_machine import cores, device_name, instruction_sets, multiprocessors

DIRECTORY_VARIABLE = "MFU_CALLBACK_CACHE"
_MOST_APART = 1.1
_CONFIRMED = 2  # sweeps that must agree
_CONFIRMED_FOR_SEC = 24 * 3600  # then it is measured again: two sweeps may have met the same slow hour


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheKey:
    """What a measured peak depends on.

    Attributes:
        device: The name of the device; for a CPU it includes the number of torch's threads.
        multiprocessors: The device's number of multiprocessors, since slices of different sizes may share a name; None
            if the driver does not report it.
        cores: For a CPU, the number of cores that the process may run on; otherwise None.
        instruction_sets: For a CPU, the instruction sets that its matmuls may use, since models of one name differ in
            them; otherwise None.
        dtype: The dtype of the matmuls' inputs; several, separated by "+", for rates that were compared.
        precision: The precision inside matmuls of fp32 matrices; None for other dtypes.
        torch_version: The version of torch.
    """

    device: str
    multiprocessors: int | None
    cores: int | None
    instruction_sets: str | None
    dtype: str
    precision: str | None
    torch_version: str

    @classmethod
    def of(cls, device: torch.device, *dtypes: torch.dtype) -> CacheKey:
        """The key of a device and a dtype, or several, under the current settings."""
        return cls(
            device=device_name(device),
            multiprocessors=multiprocessors(device),
            cores=cores() if device.type == "cpu" else None,
            instruction_sets=instruction_sets() if device.type == "cpu" else None,
            dtype="+".join(dtype_name(dtype) for dtype in dtypes),
            precision=fp32_precision(device) if torch.float32 in dtypes else None,
            torch_version=torch.__version__,
        )

    @property
    def path(self) -> Path:
        """The file of this key's peak."""
        return self._path("peak")

    @property
    def path_of_rates(self) -> Path:
        """The file of the rates of this key's dtypes."""
        return self._path("rates")

    def _path(self, kind: str) -> Path:
        return cache_directory() / f"{kind}-{sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]}.json"


def cache_directory() -> Path:
    """The directory of what was measured.

    Raises:
        RuntimeError: If the user has no home directory and MFU_CALLBACK_CACHE is not set.
    """
    named = os.environ.get(DIRECTORY_VARIABLE)
    return Path(named).expanduser() if named else user_cache_path("mfu-callback", appauthor=False)


def cached_peak(device: torch.device, dtype: torch.dtype) -> Peak | None:
    """The best peak that was measured under the current settings; None if there is none."""
    kept = _load(CacheKey.of(device, dtype))
    return None if kept is None else kept.peak


def confirmed_peak(device: torch.device, dtype: torch.dtype, *, now: Callable[[], float] = time) -> Peak | None:
    """The cached peak if it need not be measured again today, else None.

    Two whole sweeps must have agreed within 10 %, since one may have met a slow machine, the latest within a day.

    Args:
        device: The device.
        dtype: The dtype of the matmuls' inputs.
        now: The time of day, in seconds since 1970.
    """
    kept = _load(CacheKey.of(device, dtype))
    is_confirmed = kept is not None and kept.agreeing >= _CONFIRMED and now() - kept.swept_at < _CONFIRMED_FOR_SEC
    return kept.peak if kept is not None and is_confirmed else None


def keep_best(peak: Peak, key: CacheKey, *, is_whole: bool = True, now: Callable[[], float] = time) -> Peak:
    """Store a peak, unless it is noisy or a higher one is stored already.

    A stored peak that a noisy one exceeds by more than 10 % was measured on a slow machine and is forgotten.

    Args:
        peak: The result of a sweep.
        key: The key to store it under.
        is_whole: Whether the sweep was long enough to be relied on.
        now: The time of day, in seconds since 1970.

    Returns:
        The higher peak of the two.
    """
    kept = _load(key)
    with suppress(OSError, RuntimeError):
        if kept is not None and peak.is_noisy and peak.flops_per_sec > _MOST_APART * kept.peak.flops_per_sec:
            key.path.unlink(missing_ok=True)
        elif (better := _better(kept, peak, is_whole, now())) is not None:
            _store(better, key)
    return peak if kept is None or peak.flops_per_sec > kept.peak.flops_per_sec else kept.peak


def forget_peak(device: torch.device, dtype: torch.dtype) -> None:
    """Forget a stored peak that proved too low, so that it is measured again."""
    with suppress(OSError, RuntimeError):
        CacheKey.of(device, dtype).path.unlink(missing_ok=True)


def cached_rates(key: CacheKey) -> dict[str, dict[str, float]] | None:
    """The stored rates of several dtypes, in FLOP/s by dtype and layout; None if there are none.

    Args:
        key: The key of all the dtypes together.
    """
    try:
        content = json.loads(key.path_of_rates.read_text(encoding="utf-8"))
        rates = {str(dtype): {str(k): float(v) for k, v in one.items()} for dtype, one in content["rates"].items()}
        is_sound = all(math.isfinite(rate) and rate > 0 for one in rates.values() for rate in one.values())
        return rates if is_sound and content["key"] == asdict(key) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):  # includes RecursionError
        return None


def keep_rates(rates: dict[str, dict[str, float]], key: CacheKey) -> None:
    """Store the rates of several dtypes.

    Args:
        rates: In FLOP/s, by dtype and layout.
        key: The key of all the dtypes together.
    """
    with suppress(OSError, RuntimeError):
        _write(key.path_of_rates, {"key": asdict(key), "rates": rates})


def clear_cache() -> int:
    """Delete all that was measured and return the number of peaks and rates.

    Raises:
        OSError: If a file cannot be removed.
        RuntimeError: If there is no cache directory; see `cache_directory`.
    """
    files = [*cache_directory().glob("peak-*"), *cache_directory().glob("rates-*")]
    for file in files:
        file.unlink(missing_ok=True)
    return sum(file.suffix == ".json" for file in files)


class _Kept(NamedTuple):
    """A peak, how many whole sweeps agree with it within 10 %, and when the latest whole sweep was."""

    peak: Peak
    agreeing: int
    swept_at: float


def _better(kept: _Kept | None, peak: Peak, is_whole: bool, now: float) -> _Kept | None:
    """What to store after a sweep; None if nothing changes."""
    if peak.is_noisy:
        return None
    new = _Kept(peak, int(is_whole), now if is_whole else 0.0)
    if kept is None:
        return new
    if peak.flops_per_sec > _MOST_APART * kept.peak.flops_per_sec:
        return new
    swept_at = now if is_whole else kept.swept_at
    if kept.peak.flops_per_sec > _MOST_APART * peak.flops_per_sec:
        return kept._replace(swept_at=swept_at)
    best = max(kept.peak, peak, key=lambda one: one.flops_per_sec)
    return _Kept(best, kept.agreeing + int(is_whole), swept_at)


def _load(key: CacheKey) -> _Kept | None:
    try:
        content = json.loads(key.path.read_text(encoding="utf-8"))
        fields = content["peak"]
        peak = Peak(**fields | {"dtype": getattr(torch, key.dtype)})
        is_sound = math.isfinite(peak.flops_per_sec) and peak.flops_per_sec > 0 and fields["dtype"] == key.dtype
        if content["key"] != asdict(key) or not is_sound or peak.is_noisy:
            return None
        return _Kept(peak, int(content["agreeing"]), float(content["swept_at"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):  # includes RecursionError
        return None


def _store(kept: _Kept, key: CacheKey) -> None:
    peak = asdict(kept.peak) | {"dtype": dtype_name(kept.peak.dtype)}
    content = {"key": asdict(key), "peak": peak, "agreeing": kept.agreeing, "swept_at": kept.swept_at}
    _write(key.path, content)


def _write(path: Path, content: dict[str, Any]) -> None:
    # Written to a temporary file and then renamed: another process reads either the old file or the new one.
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix="peak-", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
