"""Compare our look-up of a device's peak with those of Lightning and torchtitan, on names as drivers report them.

    python scripts/comparisons/peaks.py             # how many each gets right
    python scripts/comparisons/peaks.py --names     # every name with every answer

An answer is right if it is within 2 % of the rate in peak_parts/device_names.py, or if it is None and the name does not
determine a rate. Lightning asks the driver for the name; this script answers in its place. Lightning looks TPUs up
elsewhere, so they are left out of its count. torchtitan is optional: `pip install --no-deps torchtitan`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table

from mfu_callback import find_peak
from scripts.comparisons.peak_parts.device_names import NAMES, Named

LookUp = Callable[[Named], float | None]
_TOLERANCE = 0.02
_KINDS = ("right", "wrong", "missing")


def ours(named: Named) -> float | None:
    """The answer of this package, in FLOP/s."""
    peak = find_peak(named.name, getattr(torch, named.dtype))
    return None if peak is None else peak.flops_per_sec


def lightnings(named: Named) -> float | None:
    """The answer of lightning.fabric, in FLOP/s; an exception is no answer."""
    from lightning.fabric.utilities.throughput import get_available_flops

    with patch("torch.cuda.get_device_name", lambda device: named.name), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return get_available_flops(torch.device("cuda", 0), getattr(torch, named.dtype))
        except Exception:
            return None


def torchtitans(named: Named) -> float | None:
    """The answer of torchtitan, in FLOP/s; it gives one for every name."""
    from torchtitan.tools.utils import get_peak_flops

    no_lspci = patch("torchtitan.tools.utils.subprocess.run", side_effect=FileNotFoundError)
    with no_lspci, patch("torch.xpu.get_device_properties") as properties:
        properties.return_value.max_compute_units = 512  # of one stack of a Max 1550
        return float(get_peak_flops(named.name))


def judged(named: Named, answer: float | None) -> str:
    """Whether an answer is "right" or "wrong", or "missing" if there is a rate but no answer."""
    if named.tflops_per_sec is None:
        return "right" if answer is None else "wrong"
    if answer is None:
        return "missing"
    return "right" if abs(answer / (named.tflops_per_sec * 1e12) - 1) <= _TOLERANCE else "wrong"


def summary_table(look_ups: dict[str, LookUp]) -> Table:
    """Returns the table of right answers of each look-up, separately for names with and without a rate."""
    table = Table(title=f"{len(NAMES)} device names, dense bf16 (fp16 where there is no bf16)", title_justify="left")
    table.add_column("look-up")
    heads = ("right", "wrong", "missing", "rightly None", "a rate that is\nnot in the name")
    for head in ("names", *heads):
        table.add_column(head, justify="right")
    for name, look_up in look_ups.items():
        asked = names_for(name)
        rated = Counter(judged(named, look_up(named)) for named in asked if named.tflops_per_sec is not None)
        unrated = Counter(judged(named, look_up(named)) for named in asked if named.tflops_per_sec is None)
        counts = [len(asked), *(rated[kind] for kind in _KINDS), unrated["right"], unrated["wrong"]]
        table.add_row(name, *map(str, counts))
    return table


def names_table(look_ups: dict[str, LookUp]) -> Table:
    """Returns the table of all names with the expected rate and every answer, wrong ones marked."""
    table = Table(title="TFLOP/s")
    for head in ("name", "dtype", "expected", *look_ups):
        table.add_column(head, justify="left" if head in ("name", "dtype") else "right")
    for named in NAMES:
        cells = [_cell(named, look_up(named)) for look_up in look_ups.values()]
        expected = "-" if named.tflops_per_sec is None else f"{named.tflops_per_sec:g}"
        table.add_row(named.name or "(empty)", named.dtype, expected, *cells)
    return table


def names_for(look_up: str) -> list[Named]:
    """Returns the names that a look-up can be asked about."""
    return [named for named in NAMES if not (look_up.startswith("lightning") and named.name.startswith("TPU"))]


def _cell(named: Named, answer: float | None) -> str:
    text = "-" if answer is None else f"{answer / 1e12:.4g}"
    return text if judged(named, answer) == "right" else f"{text} {judged(named, answer)}"


def make_look_ups() -> dict[str, LookUp]:
    """Returns the look-ups that are installed, by name and version."""
    look_ups: dict[str, LookUp] = {
        f"mfu-callback {version('mfu-callback')}": ours,
        f"lightning {version('lightning')}": lightnings,
    }
    try:
        import torchtitan.tools.utils  # noqa: F401
    except ImportError as error:
        print(f"torchtitan is left out: {error}", file=sys.stderr)
    else:
        logging.disable(logging.WARNING)
        look_ups[f"torchtitan {version('torchtitan')}"] = torchtitans
    return look_ups


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--names", action="store_true", help="print every name with every answer")
    options = parser.parse_args(arguments)
    look_ups = make_look_ups()
    console = Console(width=None if sys.stdout.isatty() else 160)
    if options.names:
        console.print(names_table(look_ups))
    console.print(summary_table(look_ups))
    return 0


if __name__ == "__main__":
    sys.exit(main())
