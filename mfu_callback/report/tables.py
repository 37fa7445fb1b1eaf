"""Tables of a run's figures for the terminal, from plain data: a new summary, or one read from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mfu_callback.logs.figures import step_time_sec

_BAR_WIDTH = 30
_SMALLEST_SHARE = 0.01  # modules with less of the time have no row


def print_figures(figures: Mapping[str, Any], *, title: str, console: Console) -> None:
    """Print a run's figures, its waterfall if MFU is known, the advice, and the modules if they were timed.

    Args:
        figures: Fields of `mfu_callback.meter.summary.Summary` as plain data.
        title: The title above the table.
        console: Where to print.
    """
    console.print(Text(title, style="italic"), soft_wrap=True)
    console.print(_figures(figures))
    if figures.get("waterfall"):
        console.print(_waterfall(figures["waterfall"], console.encoding))
    if figures.get("advice"):
        console.print(Text(figures["advice"]))
    if figures.get("modules"):
        console.print(_modules(figures["modules"]))


def runs_table(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """A table with one row per run: its name and its figures."""
    table = Table(title="Runs", title_justify="left")
    for column in ("run", "MFU", "tokens/s", "step, s", "peak", "batch", "precision", "devices"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name, figures in runs:
        run, peak = figures.get("run") or {}, figures.get("peak") or {}
        cells = (
            _number(figures.get("mfu"), ".4g"),
            _number(figures.get("tokens_per_sec"), ",.1f"),
            _number(step_time_sec(figures), ".4g"),
            rate_text(peak),
            *(run.get(fact) for fact in ("batch_size", "precision", "devices")),
        )
        table.add_row(Text(name), *(Text("" if cell is None else str(cell)) for cell in cells))
    return table


def rate_text(peak: Mapping[str, Any]) -> str | None:
    """A peak's rate as text; None if there is no peak."""
    if not peak:
        return None
    return f"{peak['flops_per_sec'] / 1e12:.4g} TFLOP/s{' (noisy)' if peak.get('is_noisy') else ''}"


def _figures(figures: Mapping[str, Any]) -> Table:
    table = Table(show_header=False)
    for name, value in _rows(figures):
        table.add_row(name, Text(value))
    return table


def _rows(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    get = figures.get
    flops: Mapping[str, Any] = get("flops") or {}
    rows: list[tuple[str, str | None]] = [
        ("tokens/sec", _number(get("tokens_per_sec"), ",.1f")),
        ("tokens/sec without padding", _number(get("real_tokens_per_sec"), ",.1f")),
        ("samples/sec", _number(get("samples_per_sec"), ",.2f")),
        ("step time (median)", _number(get("step_time_sec"), ".4g", " s")),
        ("step time (mean)", _number(get("mean_step_time_sec"), ".4g", " s")),
        ("step time, fastest and slowest device", _range(get("step_time_sec_min"), get("step_time_sec_max"))),
        ("mean step by phase", _parts(get("phases_sec"))),
        ("MFU", _number(get("mfu"), ".4g")),
        ("MFU of the achievable peak", _number(get("mfu_achievable"), ".4g")),
        ("HFU", _number(get("hfu"), ".4g")),
        ("forward FLOPs per batch", _number(flops.get("forward"), ".4e")),
        ("FLOP conventions", get("conventions")),
        ("not counted", ", ".join([*flops.get("uncounted", ()), *flops.get("rule_errors", ())]) or None),
        *_peak("peak", get("peak")),
        *(_peak("achievable peak", get("achievable")) if get("achievable") != get("peak") else ()),
        ("goodput", _number(get("goodput"), ".1%", " of the wall time was spent in measured training steps")),
        ("other wall time", _parts({k: v for k, v in (get("wall_time_sec") or {}).items() if k != "training"})),
    ]
    return [(name, value) for name, value in rows if value is not None]


def _peak(name: str, peak: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if peak is None:
        return []
    return [(name, rate_text(peak) or ""), ("", f"{peak['name']}; {peak['source']}")]


def _waterfall(waterfall: Mapping[str, float], encoding: str) -> Table:
    table = Table(title="Where the machine went", show_header=False, title_justify="left")
    block = "█" if encoding.startswith("utf") else "#"
    for part, share in waterfall.items():
        bar = block * round(_BAR_WIDTH * min(max(share, 0), 1))
        table.add_row(Text(part), f"{share:7.2%}", bar)
    return table


def _modules(modules: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Modules, each with its submodules; time of one batch", title_justify="left")
    for column in ("module", "FLOPs", "forward", "backward", "share", "MFU"):
        table.add_column(column, justify="left" if column == "module" else "right")
    inside: list[str] = []  # names of the rows above that contain the next one
    for one in modules:
        if one["share"] < _SMALLEST_SHARE:
            continue
        full_name = one["name"]
        while inside and not full_name.startswith(f"{inside[-1]}."):
            inside.pop()
        name = full_name.removeprefix(f"{inside[-1]}." if inside else "") or "(all)"
        count = f" (x {one['modules']})" if one["modules"] > 1 else ""
        figures = (_number(one["flops"], ".3e"), f"{one['forward_sec']:.3g} s", f"{one['backward_sec']:.3g} s")
        share, mfu = f"{one['share']:.1%}", _number(one["mfu"], ".4f")
        table.add_row(Text("  " * len(inside) + name + count), *figures, share, mfu)
        inside.extend([full_name] if full_name else [])
    return table


def _range(low: float | None, high: float | None) -> str | None:
    return None if low is None or high is None else f"{low:.4g} s, {high:.4g} s"


def _parts(seconds: Mapping[str, float] | None) -> str | None:
    parts = ", ".join(f"{value:.3g} s {part}" for part, value in (seconds or {}).items() if value > 0)
    return parts or None


def _number(value: float | None, form: str, unit: str = "") -> str | None:
    return None if value is None else f"{value:{form}}{unit}"
