"""Tokens/sec and MFU of any Lightning training run, and where the rest of the machine went."""

from mfu_callback.callback import MFUCallback
from mfu_callback.finder import BatchSizeFinder
from mfu_callback.flops import FlopCount, count_flops
from mfu_callback.metrics import model_flops_utilization
from mfu_callback.peaks import Peak, find_peak, measure_peak
from mfu_callback.tokens import count_tokens

__all__ = [
    "BatchSizeFinder",
    "FlopCount",
    "MFUCallback",
    "Peak",
    "count_flops",
    "count_tokens",
    "find_peak",
    "measure_peak",
    "model_flops_utilization",
]
