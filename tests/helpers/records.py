"""Records of runs that were never made, for the tests of what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from mfu_callback.board.run_writer import RunWriter
from mfu_callback.meter.tags import WATERFALL
from mfu_callback.tools.brackets import Brackets
from tests.helpers.runs import PEAK

HOSTILE = "<img src=x onerror=window.top.hit=1>$x^2$&amp;..%2f%{y}"


def write_hostile_record(directory: Path) -> None:
    """Write a run whose record has hostile text in every field."""
    peak = {"flops_per_sec": PEAK, "name": HOSTILE, "source": HOSTILE, "dtype": HOSTILE}
    modules = [{"name": f"{HOSTILE}.{part}", "modules": 2, "flops": 100} for part in "ab"]
    run = {"model": HOSTILE, "precision": HOSTILE, "parameter_bytes": 4, "batch_flops": 10, "modules": modules}
    record = {"steps": 3, "mfu": 1e-9, "advice": HOSTILE, "peak": peak, "run": run}
    devices = several_devices(2, host=HOSTILE, phase=HOSTILE)
    operators = [operator_row(HOSTILE, 0.1, kind=HOSTILE, phase=HOSTILE)]
    write_record(directory, record | devices | {"operators": operators, "gpu": {"throttle_reasons": {HOSTILE: 1.0}}})


def write_record(directory: Path, record: dict[str, Any]) -> None:
    """Write a run with a record, and one point of its waterfall."""
    with SummaryWriter(str(directory)) as writer:
        for name in WATERFALL.values():
            writer.add_scalar(name, 1 / len(WATERFALL), 1)
        RunWriter(writer, "", Brackets()).write(None, record, 3)


def several_devices(count: int, *, host: str = "node", phase: str = "data") -> dict[str, Any]:
    """The fields of a record of several devices, of which rank 1 is slow: each step of 0.1 s waits 40 ms for it."""
    seconds = {"data": 0.01, "forward": 0.02, "backward": 0.02, "optimizer": 0.01, "other": 0.0}
    figures = [
        {
            **{"rank": rank, "host": host, "step_sec": 0.1},
            **{"phases_sec": seconds | ({"data": 0.05} if rank == 1 else {}), "waits_sec": 0.0 if rank == 1 else 0.04},
        }
        for rank in range(count)
    ]
    pace = {"rank": 1, "host": host, "phase": phase, "behind_sec": 0.04, "late_share": 1.0, "is_constant": True}
    return {"devices": figures, "pace": pace}


def operator_row(name: str, sec: float, *, kind: str = "matmul", phase: str = "forward") -> dict[str, Any]:
    """An operator of a record whose steps take a second."""
    return {"name": name, "kind": kind, "phase": phase, "calls": 2.0, "sec": sec, "share": sec} | {
        **{"flops": 1e9 if kind == "matmul" else None, "bytes": 1e6, "roofline": 0.5}
    }


def record_of_several(devices: int = 4, operators: int = 3) -> dict[str, Any]:
    """A record with all that a run on several devices with measured operators has."""
    shares = (0.3, 0.05, 0.2, 0.05, 0.02, 0.3, 0.05, 0.03)
    opened = {"matmuls": 0.05, "attention": 0.02, "memory": 0.08, "transfers": 0.01, "gaps": 0.04}
    kinds = ("matmul", "memory", "transfer")
    return several_devices(devices) | {
        **{"steps": 50, "mfu": 0.3, "step_time_sec": 0.1, "waterfall": dict(zip(WATERFALL, shares, strict=True))},
        **{
            "phases_sec": {"data": 0.03, "forward": 0.03, "backward": 0.04},
            "kernels": opened,
            "run": {"devices": devices},
        },
        "operators": [operator_row(f"aten::op{n}", 0.1 / (n + 1), kind=kinds[n % 3]) for n in range(operators)],
        "memory": {"resident_bytes": 2**30, "total_bytes": 2**34, "share": 0.0625, "retries": None},
    }
