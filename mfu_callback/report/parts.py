"""The parts of the waterfall as people see them: name, color, meaning, and what to do about each.

The tables of the terminal, the comparison of runs, the tab and the page take their words from here, and what to do from
the advice (`mfu_callback.meter.remedies`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mfu_callback.meter import remedies
from mfu_callback.meter.facts import Facts
from mfu_callback.meter.tags import PARTS_OF_SEVERAL, WATERFALL_PARTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the waterfall, of its part "kernels", or of a device's step.

    Attributes:
        name: Its name in the record.
        label: Its name in charts.
        color: Its color in charts, as "#rrggbb".
        meaning: What it is, as the end of a sentence.
        remedy: What to do about it; None if it is no loss.
    """

    name: str
    label: str
    color: str
    meaning: str = ""
    remedy: str | None = None


_ANY = Facts()  # the remedies for a run of which nothing else is known

# Colors that people who see few can tell apart: six of Okabe and Ito's (2008), and for the parts of several devices one
# of IBM's and one of Tol's that stay farthest from these under deuteranopia, protanopia and tritanopia.
_GREEN, _GRAY, _SKY, _VIOLET, _SAND = "#009e73", "#7f7f7f", "#56b4e9", "#785ef0", "#ddcc77"
_VERMILION, _PURPLE, _ORANGE, _BLUE = "#d55e00", "#cc79a7", "#e69f00", "#0072b2"


def _part(name: str, label: str, color: str, meaning: str, remedy: str | None) -> Part:
    return Part(name=name, label=label, color=color, meaning=meaning, remedy=remedy)


# In the order in which they are stacked.
PARTS = (
    _part("mfu", "MFU", _GREEN, "the model's own FLOPs at the peak rate", None),
    _part(
        *("unreachable", "unreachable", _GRAY, "what even the best matmuls of this device need beyond the peak rate"),
        remedies.for_unreachable(_ANY),
    ),
    _part(
        *("kernels", "kernels below the best matmul", _SKY, "forward and backward below the rate of the best matmuls"),
        f"{remedies.for_kernels(_ANY)}; MFUCallback(operators=True) opens this part",
    ),
    _part(
        *("communication", "communication", _VIOLET, "collectives between the devices that nothing hides"),
        remedies.for_communication(_ANY),
    ),
    _part(
        *("waiting", "waiting for each other", _SAND, "waiting for devices that are late in turn"),
        remedies.EVEN_BATCHES,
    ),
    _part("data", "waiting for data", _VERMILION, "waiting for data", remedies.for_data(_ANY)),
    _part("optimizer", "optimizer", _PURPLE, "the optimizer", remedies.for_optimizer(_ANY)),
    _part("other", "other", _ORANGE, "callbacks, logging and the rest", remedies.for_callbacks(_ANY)),
)
KERNELS = (
    _part(
        *("matmuls", "matmuls", _SKY, "matmuls below the rate of the best one"),
        remedies.for_matmuls(_ANY),
    ),
    _part(
        *("attention", "attention", _SKY, "attention below the rate of the best matmul"),
        remedies.for_attention(_ANY),
    ),
    _part(
        *("memory", "memory-bound operators", _SKY, "operators that only move memory (norms, activations, sums)"),
        remedies.for_memory_bound(_ANY),
    ),
    _part(
        *("transfers", "transfers", _SKY, "copies between the host and the device"),
        remedies.for_transfers(_ANY),
    ),
    _part("gaps", "gaps", _SKY, "time in which no operator runs, since Python is slower", remedies.for_gaps(_ANY)),
)
# Of a step on one of several devices; what the waterfall has too has its color.
PHASES = (
    Part(name="data", label="waiting for data", color=_VERMILION),
    Part(name="forward", label="forward", color=_SKY),
    Part(name="backward", label="backward", color=_BLUE),
    Part(name="optimizer", label="optimizer", color=_PURPLE),
    Part(name="other", label="other", color=_ORANGE),
    Part(name="waits", label="waiting in collectives", color=_SAND),
)
MEANING = {part.name: part.meaning for part in PARTS}


def shown_parts(*waterfalls: Mapping[str, float]) -> tuple[str, ...]:
    """The parts to show of some runs' waterfalls, in their order: without those of several devices if all are 0.

    Args:
        waterfalls: The share of each part; one of before version 0.2 lacks some.
    """
    return tuple(
        part
        for part in WATERFALL_PARTS
        if any(part in waterfall for waterfall in waterfalls)
        and (part not in PARTS_OF_SEVERAL or any(waterfall.get(part) for waterfall in waterfalls))
    )


def as_plain_data() -> dict[str, list[dict[str, Any]]]:
    """All parts as plain data, for the page."""
    rows = {"waterfall": PARTS, "kernels": KERNELS, "phases": PHASES}
    return {name: [asdict(part) for part in parts] for name, parts in rows.items()}
