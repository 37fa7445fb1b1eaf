"""Two processes exchange windows: `exchange_run.py DIRECTORY HOW`; the second begins once the first has gone on.

If a process waited for the other where it sends, both would wait forever.
"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from mfu_callback.loops.process_group import ProcessGroup
from mfu_callback.meter.exchange import Exchange
from mfu_callback.meter.totals import Totals

WINDOWS = 3


def main() -> None:
    """Exchange some windows and save what this process has read, and when it had gone on."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    store = dist.distributed_c10d._get_default_store()
    exchange = Exchange(ProcessGroup(), torch.device("cpu"))
    read = [exchange.take()]
    for window in range(WINDOWS):
        if rank == 1:
            store.wait([f"first went on {window}"])
        exchange.begin(Totals(steps=1, tokens=10 * window + rank), f"window {window}")
        if rank == 0:
            store.set(f"first went on {window}", "yes")
        dist.barrier()  # as the gradients of a later step would
        place, totals = exchange.take()
        read.append((place, [one.tokens for one in totals]))
    torch.save(read, Path(sys.argv[1]) / f"{sys.argv[2]}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
