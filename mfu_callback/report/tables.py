"""Tables of a run's figures for the terminal, from plain data: a new summary, or one read from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mfu_callback.logs.figures import step_time_sec
from mfu_callback.report.devices import gpu_text, memory_text, slowest_text
from mfu_callback.report.operators import operators_table
from mfu_callback.report.parts import KERNELS, PARTS, shown_parts

_BAR_WIDTH, _BAR_WIDTH_BESIDE_TEXT = 30, 15
_SMALLEST_SHARE = 0.01  # modules and parts of the wall time with less are left out, and what to do about less
_MOST_PARTS = 2  # of the wall time


def print_figures(figures: Mapping[str, Any], *, title: str, console: Console, details: bool = False) -> None:
    """Print a run's figures, its waterfall if MFU is known, the advice, and modules and operators if they were timed.

    Args:
        figures: Fields of `mfu_callback.meter.summary.Summary` as plain data.
        title: The title above the table.
        console: Where to print.
        details: Whether to add the sources of the peaks, all uses of the wall time, and what to do about each loss.
    """
    console.print(Text(title, style="italic"), soft_wrap=True)
    console.print(_figures(figures, details))
    if figures.get("waterfall"):
        console.print(_waterfall(figures["waterfall"], figures.get("kernels") or {}, console.encoding, details))
    if figures.get("advice"):
        console.print(Text(figures["advice"]))
    if figures.get("modules"):
        console.print(_modules(figures["modules"]))
    if figures.get("operators"):
        console.print(operators_table(figures["operators"], width=console.width, details=details))


def mfu_text(figures: Mapping[str, Any]) -> str | None:
    """MFU, HFU and the peak that they are relative to, as text; None if MFU is unknown."""
    mfu, peak = figures.get("mfu"), figures.get("peak") or {}
    if mfu is None:
        return None
    hfu = _number(figures.get("hfu"), ".3g")
    noisy = ", noisy" if peak.get("is_noisy") else ""
    of_peak = f" of {_tflops(peak)} ({peak['dtype']}, {_kind(peak['source'])}{noisy})" if peak else ""
    return f"MFU {mfu:.3g}{_error_text(figures)}{'' if hfu is None else f', HFU {hfu},'}{of_peak}"


def _error_text(figures: Mapping[str, Any]) -> str:
    """The error of MFU where FLOPs are estimates, as they are for some shapes and for unequal work."""
    error = figures.get("flops_error")
    if error is None:
        return ""
    return " (FLOPs are estimates)" if error >= 1 else f" ± {max(error, 0.001):.1%}"


def rates_text(figures: Mapping[str, Any]) -> str | None:
    """Tokens and samples per second as text; None if both are unknown."""
    get = figures.get
    in_loss = get("loss_tokens_per_sec") if get("loss_tokens_per_sec") != get("tokens_per_sec") else None
    rates = (
        _number(get("tokens_per_sec"), ",.1f", " tokens/s"),
        _number(get("real_tokens_per_sec"), ",.1f", " without padding"),
        _number(in_loss, ",.1f", " in the loss"),
        _number(get("samples_per_sec"), ",.2f", " samples/s"),
    )
    return ", ".join(rate for rate in rates if rate is not None) or None


def step_text(figures: Mapping[str, Any]) -> str | None:
    """Seconds of a step as text; None if unknown."""
    return _number(step_time_sec(figures), ".3g", " s a step")


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
    return f"{_tflops(peak)}{' (noisy)' if peak.get('is_noisy') else ''}"


def _tflops(peak: Mapping[str, Any]) -> str:
    return f"{peak['flops_per_sec'] / 1e12:.4g} TFLOP/s"


def _kind(source: str) -> str:
    """The kind of source of a peak (`mfu_callback.peaks.Peak.kind`)."""
    return "datasheet" if source.startswith("https://") else source.split(":")[0]


def _figures(figures: Mapping[str, Any], details: bool) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, value in [*_rows(figures), *(_details(figures) if details else ())]:
        # A long list of operators has a warning in the log, with all of them.
        text = Text(value, no_wrap=True, overflow="ellipsis") if name == "not counted" else Text(value)
        table.add_row(name, text)
    return table


def _rows(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    get = figures.get
    flops: Mapping[str, Any] = get("flops") or {}
    mfu = mfu_text(figures)
    rows: list[tuple[str, str | None]] = [
        ("MFU", None if mfu is None else mfu.removeprefix("MFU ")),
        *_other_peaks(figures),
        ("throughput", rates_text(figures)),
        ("step", _step(figures)),
        ("devices", _range(get("step_time_sec_min"), get("step_time_sec_max"))),
        ("slowest", slowest_text(get("pace"))),
        ("FLOPs", _flops(flops, get("conventions"))),
        ("not counted", ", ".join([*flops.get("uncounted", ()), *flops.get("rule_errors", ())]) or None),
        ("memory", memory_text(get("memory"))),
        ("GPU", gpu_text(get("gpu"))),
        ("batch size", _found(get("run") or {})),
        ("job", _job(get("job") or {})),
        ("goodput", _goodput(get("goodput"), get("wall_time_sec") or {})),
    ]
    return [(name, value) for name, value in rows if value is not None]


def _other_peaks(figures: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """MFU of the achievable peak and of the fastest dtype's, where these are other peaks than that of MFU."""
    rows: list[tuple[str, str | None]] = []
    peak, achievable, fastest = (figures.get(name) or {} for name in ("peak", "achievable", "fastest"))
    of_achievable, of_fastest = figures.get("mfu_achievable"), figures.get("mfu_fastest")
    if of_achievable is not None and achievable.get("flops_per_sec") != peak.get("flops_per_sec"):
        of_peak = f" of {rate_text(achievable)}" if achievable else ""
        rows.append(("of achievable", f"{of_achievable:.3g}{of_peak}, the best that this device was seen to reach"))
    if of_fastest is not None and fastest:
        said = f"{of_fastest:.3g} of {rate_text(fastest)}, this device's fastest dtype ({_kind(fastest['source'])})"
        rows.append((f"of {fastest['dtype']}", said))
    return rows


def _step(figures: Mapping[str, Any]) -> str | None:
    median, phases = _number(figures.get("step_time_sec"), ".3g", " s median"), figures.get("phases_sec") or {}
    mean = figures.get("mean_step_time_sec") or sum(phases.values())
    parts = " + ".join(f"{seconds:.3g} {phase}" for phase, seconds in phases.items() if seconds > 0)
    text = _number(mean or None, ".3g", f" s mean{f' = {parts}' if parts else ''}")
    return "; ".join(part for part in (median, text) if part is not None) or None


def _flops(flops: Mapping[str, Any], conventions: str | None) -> str | None:
    forward = _number(flops.get("forward"), ".4e", " a forward pass")
    return "; ".join(part for part in (forward, conventions) if part is not None) or None


def _found(run: Mapping[str, Any]) -> str | None:
    """What a search for the batch size has found, as text; None if there was none."""
    found = run.get("finder")
    if found is None:
        return None
    trials = len(found["trials"])
    limit = (found.get("limit") or "").partition(" (")[0]
    within = f" within {limit}" if limit else ""
    return f"{found['batch_size']:,} a process, found by {trials} trial{'' if trials == 1 else 's'}{within}"


def _job(job: Mapping[str, Any]) -> str | None:
    """What a job has done that was resumed from a checkpoint, as text; None if it was not."""
    if not job.get("restarts"):
        return None
    parts = (
        f"{job['restarts'] + 1} fits",
        _number(job.get("steps"), ",", " steps"),
        _number(job.get("tokens"), ".4g", " tokens"),
        _number(job.get("flops"), ".4g", " FLOPs"),
        _number(job.get("device_hours"), ".3g", " device-hours"),
    )
    return ", ".join(part for part in parts if part is not None)


def _goodput(goodput: float | None, wall_time_sec: Mapping[str, float]) -> str | None:
    if goodput is None:
        return None
    whole = sum(wall_time_sec.values())
    largest = sorted(wall_time_sec.items(), key=lambda item: -item[1])
    other = {part: sec for part, sec in largest if part != "training" and sec >= _SMALLEST_SHARE * whole}
    text = f"{goodput:.1%} of {whole:.3g} s was measured training"
    parts = _parts(dict(list(other.items())[:_MOST_PARTS]))
    return text if parts is None else f"{text}; {parts}"


def _details(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    peaks = [(name, figures.get(name)) for name in ("peak", "achievable", "fastest")]
    rows = [(f"{name}, source", f"{peak['name']}; {peak['source']}") for name, peak in peaks if peak]
    wall = _parts({part: sec for part, sec in (figures.get("wall_time_sec") or {}).items() if part != "training"})
    return rows if wall is None else [*rows, ("other wall time", wall)]


def _waterfall(waterfall: Mapping[str, float], kernels: Mapping[str, float], encoding: str, details: bool) -> Table:
    table = Table(title="Where the machine went", show_header=False, title_justify="left")
    block = "█" if encoding.startswith("utf") else "#"
    width = _BAR_WIDTH_BESIDE_TEXT if details else _BAR_WIDTH
    for name, share, remedy in _shares(waterfall, kernels):
        cells = (Text(name), f"{share:7.2%}", block * round(width * min(max(share, 0), 1)))
        text = Text(remedy or "", overflow="fold") if share >= _SMALLEST_SHARE else ""
        table.add_row(*cells, *([text] if details else ()))
    return table


def _shares(waterfall: Mapping[str, float], kernels: Mapping[str, float]) -> Iterator[tuple[str, float, str | None]]:
    """The parts and, under the kernels, what these consist of: name, share, what to do."""
    shown = shown_parts(waterfall)
    for part in PARTS:
        if part.name in shown:
            is_opened = part.name == "kernels" and kernels  # what to do is said of what it consists of
            yield part.name, waterfall[part.name], None if is_opened else part.remedy
        if part.name == "kernels":
            yield from ((f"  {one.name}", kernels[one.name], one.remedy) for one in KERNELS if one.name in kernels)


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
    return None if low is None or high is None else f"{low:.4g} s a step on the fastest, {high:.4g} s on the slowest"


def _parts(seconds: Mapping[str, float] | None) -> str | None:
    parts = ", ".join(f"{value:.3g} s {part}" for part, value in (seconds or {}).items() if value > 0)
    return parts or None


def _number(value: float | None, form: str, unit: str = "") -> str | None:
    return None if value is None else f"{value:{form}}{unit}"
