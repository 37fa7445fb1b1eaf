"""Tokens/sec and MFU of any Lightning training run, and where the rest of the machine went."""

from mfu_callback.callback import MFUCallback
from mfu_callback.finder import BatchSizeFinder, find_batch_size, predict_batch_size, predict_memory
from mfu_callback.flops import FlopCount, FlopCounter, count_flops, palm_flops_per_token
from mfu_callback.metrics import model_flops_utilization
from mfu_callback.peaks import Peak, find_peak, measure_peak
from mfu_callback.tokens import count_tokens

__all__ = [
    "BatchSizeFinder",
    "FlopCount",
    "FlopCounter",
    "MFUCallback",
    "Peak",
    "count_flops",
    "count_tokens",
    "find_batch_size",
    "find_peak",
    "measure_peak",
    "model_flops_utilization",
    "palm_flops_per_token",
    "predict_batch_size",
    "predict_memory",
]
