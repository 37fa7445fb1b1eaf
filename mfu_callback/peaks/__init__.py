"""The peak of a device, from a datasheet or measured."""

from mfu_callback.peaks.dtype_rates import DtypeRate, rates_in_training
from mfu_callback.peaks.find import find_peak
from mfu_callback.peaks.hints import Hint, fastest_peak, hints_for
from mfu_callback.peaks.measure import measure_peak
from mfu_callback.peaks.peak import Peak
from mfu_callback.peaks.resolve import PeakArgument, Resolution, resolve_peak

__all__ = [
    "DtypeRate",
    "Hint",
    "Peak",
    "PeakArgument",
    "Resolution",
    "fastest_peak",
    "find_peak",
    "hints_for",
    "measure_peak",
    "rates_in_training",
    "resolve_peak",
]
