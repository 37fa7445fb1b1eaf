"""Counts the FLOPs of a model while it runs."""

from mfu_callback.flops.count import count_flops
from mfu_callback.flops.counter import ATTENTIONS, COUNTERS, Attention, CounterName, FlopCounter
from mfu_callback.flops.flop_count import FlopCount
from mfu_callback.flops.rules.formulas import register_flop_formula
from mfu_callback.flops.rules.palm import palm_flops_per_token

__all__ = [
    "ATTENTIONS",
    "COUNTERS",
    "Attention",
    "CounterName",
    "FlopCount",
    "FlopCounter",
    "count_flops",
    "palm_flops_per_token",
    "register_flop_formula",
]
