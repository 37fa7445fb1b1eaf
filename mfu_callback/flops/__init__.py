"""What the model computes: its FLOPs, counted once."""

from mfu_callback.flops.count import FlopCount, count_flops
from mfu_callback.flops.counter import ForwardCounter

__all__ = ["FlopCount", "ForwardCounter", "count_flops"]
