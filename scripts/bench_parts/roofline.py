"""Where a row's products stand on the roofline: FLOP/s over FLOPs for each byte that they read or write.

Bytes are those of the tensors that an operator is given and returns, as if nothing stayed in a cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scripts.bench_parts.row import Row

KINDS = ("matmul", "attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One operator in one phase of a batch, or all of them.

    Attributes:
        name: The operator and its phase; "step" for all operators together.
        kind: "matmul", "attention" or "step".
        flops_per_byte: FLOPs that it runs for each byte.
        flops_per_sec: Its rate.
        share: Its share of the time of all operators.
    """

    name: str
    kind: str
    flops_per_byte: float
    flops_per_sec: float
    share: float


def points_of(row: Row) -> list[Point]:
    """Returns the points of a row, the longest first and the step as the last; none where no operator was profiled."""
    operators = row.operators or []
    products = [one for one in operators if one["kind"] in KINDS and one["flops"] and one["bytes"]]
    points = [_point(f"{one['name']} {one['phase']}", one["kind"], one) for one in products]
    if not points:
        return []
    whole = {field: sum(one[field] or 0.0 for one in operators) for field in ("flops", "bytes", "sec", "share")}
    return [*points, _point("step", "step", whole)]


def _point(name: str, kind: str, one: Mapping[str, Any]) -> Point:
    return Point(
        name=name,
        kind=kind,
        flops_per_byte=one["flops"] / one["bytes"],
        flops_per_sec=one["flops"] / one["sec"],
        share=one["share"],
    )
