"""The device table: all rows, and a look-up of rows by name.

To add a device, add a row to the file of its family, with the names that its driver reports, the dense rates that its
vendor prints, and the URL of that source. A rate that the vendor does not print is derived from the architecture, the
units and the clock.
"""

from __future__ import annotations

import re
from collections import defaultdict

from mfu_callback.peaks.tables.amd import INSTINCT, RADEON
from mfu_callback.peaks.tables.device import Device
from mfu_callback.peaks.tables.google import GOOGLE
from mfu_callback.peaks.tables.intel import INTEL
from mfu_callback.peaks.tables.nvidia_data_center import NVIDIA_DATA_CENTER
from mfu_callback.peaks.tables.nvidia_geforce import NVIDIA_GEFORCE
from mfu_callback.peaks.tables.nvidia_workstation import NVIDIA_WORKSTATION

DEVICES: tuple[Device, ...] = (
    *NVIDIA_DATA_CENTER,
    *NVIDIA_WORKSTATION,
    *NVIDIA_GEFORCE,
    *INSTINCT,
    *RADEON,
    *INTEL,
    *GOOGLE,
)

# Words that do not distinguish devices: vendor, brand, and trademark signs.
_NEUTRAL = frozenset(("nvidia", "amd", "intel", "google", "geforce", "tesla", "gpu", "tm", "r"))
# NVIDIA's driver writes SUPER for a desktop GPU and Super for a laptop GPU.
_LAPTOP_SUPER = re.compile(r"\b(?!SUPER\b)(?i:super)\b")


def rows_of(device_name: str) -> tuple[Device, ...]:
    """The rows with this name, compared word by word. There are several if different devices report the same name."""
    return _ROWS.get(_words(device_name), ())


def _words(device_name: str) -> frozenset[str]:
    words = re.findall(r"[a-z0-9]+", _LAPTOP_SUPER.sub("laptop super", device_name).lower())
    return frozenset(words) - _NEUTRAL


def _by_words() -> dict[frozenset[str], tuple[Device, ...]]:
    rows: dict[frozenset[str], list[Device]] = defaultdict(list)
    for device in DEVICES:
        for words in {_words(name) for name in device.reported}:
            rows[words].append(device)
    return {words: tuple(devices) for words, devices in rows.items()}


_ROWS = _by_words()
