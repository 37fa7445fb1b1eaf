"""Measures what `import mfu_callback` takes beyond torch and Lightning.

    python scripts/checks/import_time.py

Each round is a process of its own, which imports torch and Lightning first. Processor time is taken, which other
programs on the machine lengthen less than the time on the clock. A round before them all lets Python keep its compiled
files. Exits with 1 if the import takes longer than --most-ms.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.table import Table

IMPORTS = ("import mfu_callback", "from mfu_callback import MFUCallback", "from mfu_callback import *")
_PROCESS = """
import json, sys, time
import torch, lightning.pytorch
start = time.process_time()
exec(sys.argv[1])
print(json.dumps(1e3 * (time.process_time() - start)))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurement; returns 1 if the import takes too long, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="processes for each import (default: %(default)s)")
    parser.add_argument(
        "--most-ms", type=float, default=50.0, help="longest median of `import mfu_callback` (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    import_ms(IMPORTS[-1])
    taken_ms = {code: [import_ms(code) for _ in range(options.rounds)] for code in IMPORTS}
    table = Table("after torch and Lightning", "median, ms", "least, ms")
    for code, values in taken_ms.items():
        table.add_row(code, f"{median(values):.1f}", f"{min(values):.1f}")
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    return int(median(taken_ms[IMPORTS[0]]) > options.most_ms)


def import_ms(code: str) -> float:
    """Milliseconds of processor time that an import takes in a new process, after torch and Lightning."""
    command = [sys.executable, "-W", "ignore", "-c", _PROCESS, code]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=variables)
    return float(json.loads(done.stdout))


if __name__ == "__main__":
    sys.exit(main())
