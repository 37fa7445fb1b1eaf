"""Device names that are known to have no single rate, with the reasons for the log."""

from __future__ import annotations

import re

_POWER_LIMIT = "its rate depends on the power limit that its maker set"
_SHARED_NAME = "a desktop's card and a laptop's of different rates report this name"

# Patterns of reported names, tested in this order, each with its reason.
_REASONS = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r"\bMIG\b", "a slice is rated by its multiprocessors, and how many it has is not known"),
        (r"\bGRID\b|-\d+[QCBA]$", "a virtual GPU shares its device with others"),
        (r"(?i)\blaptop\b|\bmobile\b|\bmax-q\b|\bembedded\b|\bMX\d{3}\b|\bRTX 2050\b|\bGTX 1650 Ti\b", _POWER_LIMIT),
        (r"\bSuper\b|\bQuadro (RTX 3000|T1000|T2000)$|\bT500$", _POWER_LIMIT),  # a desktop GPU is written SUPER
        (r"(?i)\bjetson\b|\borin\b|\bxavier\b|\bthor\b|\btegra\b|\bdrive\b|^nvgpu$|\bGB10\b", _POWER_LIMIT),
        (r"(?i)\bapple\b|^mps$", _POWER_LIMIT),
        (r"\bRTX 20[678]0$|\bGTX 1650$|\bGTX 1660 Ti$|\bQuadro RTX [456]000$", _SHARED_NAME),
    )
)


def why_unrated(device_name: str) -> str | None:
    """The reason why no table can have a rate for this name, as a clause; None if no reason is known."""
    return next((reason for pattern, reason in _REASONS if pattern.search(device_name)), None)
