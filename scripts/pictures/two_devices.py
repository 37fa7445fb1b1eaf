"""Trains the run on two devices that the pictures show, the second of which waits for its data.

Started by `scripts/pictures/draw.py` as `python -m torch.distributed.run --nproc-per-node 2 -m
scripts.pictures.two_devices LOGDIR NAME STEPS`.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from scripts.pictures.draw import train

_WAIT_SEC = 0.03  # for each sample


def main() -> int:
    """Train this process's part and return the exit status."""
    logdir, name, steps = sys.argv[1:]
    warnings.filterwarnings("ignore")
    is_slow = os.environ["RANK"] == "1"
    train(Path(logdir), name, int(steps), batch_size=2, wait_sec=_WAIT_SEC if is_slow else 1e-9, devices=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
