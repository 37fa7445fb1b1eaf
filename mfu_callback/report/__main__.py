"""The command `python -m mfu_callback.report`: the figures of the runs in a log directory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from mfu_callback.logs.directory import read_runs
from mfu_callback.logs.figures import figures_of
from mfu_callback.logs.run_log import RunLog
from mfu_callback.report.compare import compare, comparison_table
from mfu_callback.report.page.html_file import write_page
from mfu_callback.report.pick import pick_run
from mfu_callback.report.tables import print_figures, runs_table
from mfu_callback.tools.command import Output, run_command

_PROGRAM = "python -m mfu_callback.report"
_WIDTH_OF_A_FILE = 160  # if the output is not a terminal
_TOO_LOW = 1  # the exit status


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Print the figures of the runs in a log directory: MFU, tokens/s and where the rest of the machine"
        " went. Reads what MFUCallback has logged to TensorBoard (event files) or with Lightning's CSVLogger.",
        epilog="Exit status: 0; 1 with --fail-below-mfu if the run's MFU is lower or unknown; 2 if nothing could be"
        " read or written.",
    )
    parser.add_argument("logdir", type=Path, metavar="LOGDIR", help="the directory of one run, or of many")
    parser.add_argument(
        "--run", metavar="NAME", help="the run to look into, as the table names it (default: the latest)"
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="LOGDIR2",
        help="compare the run with one of this directory: the facts that differ, the seconds by part, and the part"
        " that explains the difference",
    )
    parser.add_argument("--compare-run", metavar="NAME", help="which run of LOGDIR2 (default: the latest)")
    parser.add_argument(
        "--fail-below-mfu", type=_share, metavar="MFU", help="exit with 1 if the run's MFU is lower: 0.4, say"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with all runs and their charts")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.compare_run is not None and options.compare is None:
        parser.error("--compare-run names a run of LOGDIR2: give --compare LOGDIR2 too")
    return run_command(_PROGRAM, lambda: _run(options), (OSError, LookupError, ModuleNotFoundError))


def _run(options: argparse.Namespace) -> int:
    console = Output(_WIDTH_OF_A_FILE)
    runs = _read(options.logdir)
    run = pick_run(runs, options.run, options.logdir)
    figures = figures_of(run)
    _print_runs(runs, console)
    _print_run(run, figures, console)
    shown, notes = list(runs), list[str]()
    if options.compare is not None:
        others = _read(options.compare)
        other = pick_run(others, options.compare_run, options.compare)
        comparison = compare(figures_of(other), figures)
        names = (f"{options.compare}/{other.name}", f"{options.logdir}/{run.name}")
        console.print(comparison_table(comparison, names))
        console.print(Text(comparison.sentence()))
        if not options.compare.samefile(options.logdir):
            shown += [replace(one, name=f"{options.compare}/{one.name}") for one in others]
        notes.append(f"{names[1]} against {names[0]}: {comparison.sentence()}")
    if options.html is not None:
        write_page(options.html, shown, title=f"MFU of {options.logdir}", notes=notes)
        console.print(Text(f"Written: {options.html}"))
    return _status(run.name, figures.get("mfu"), options.fail_below_mfu)


def _read(directory: Path) -> list[RunLog]:
    runs = read_runs(directory)
    for run in runs:
        for problem in run.problems:
            print(f"{_PROGRAM}: {run.name}: {problem}", file=sys.stderr)
    return runs


def _print_runs(runs: Sequence[RunLog], console: Console) -> None:
    logged = [run for run in runs if run.has_values]
    if len(logged) > 1:
        console.print(runs_table([(run.name, figures_of(run)) for run in logged]))
    if len(logged) < len(runs):
        without = ", ".join(run.name for run in runs if not run.has_values)
        console.print(Text(f"Without a value of MFUCallback: {without}"))


def _print_run(run: RunLog, figures: Mapping[str, Any], console: Console) -> None:
    print_figures(figures, title=f"Run {run.name}, {_how_far(run, figures)}", console=console, details=True)


def _how_far(run: RunLog, figures: Mapping[str, Any]) -> str:
    if figures.get("steps"):
        return f"{figures['steps']:,} steps"
    is_measured = run.scalars or "steps" in (run.record or {})
    return "not ended yet or cut short" if is_measured else "not measured: it had a BatchSizeFinder and no MFUCallback"


def _status(name: str, mfu: float | None, least_mfu: float | None) -> int:
    if least_mfu is None or (mfu is not None and mfu >= least_mfu):
        return 0
    is_what = "unknown" if mfu is None else f"{mfu:.4g}"
    said = f"the MFU of {name} is {is_what}, and --fail-below-mfu asks for {least_mfu:g}"
    print(f"{_PROGRAM}: {said}", file=sys.stderr)
    return _TOO_LOW


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no fraction of the peak: 0.4 is 40 %%")
    return share


if __name__ == "__main__":
    sys.exit(main())
