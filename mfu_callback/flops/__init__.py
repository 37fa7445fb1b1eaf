"""What the model computes: its FLOPs, counted while it runs."""

from mfu_callback.flops.count import count_flops
from mfu_callback.flops.counter import COUNTERS, FlopCounter
from mfu_callback.flops.flop_count import FlopCount

__all__ = ["COUNTERS", "FlopCount", "FlopCounter", "count_flops"]
