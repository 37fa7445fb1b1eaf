"""The peak of a device, from a datasheet or measured."""

from mfu_callback.peaks.find import find_peak
from mfu_callback.peaks.measure import measure_peak
from mfu_callback.peaks.peak import Peak
from mfu_callback.peaks.resolve import PeakArgument, Resolution, resolve_peak

__all__ = ["Peak", "PeakArgument", "Resolution", "find_peak", "measure_peak", "resolve_peak"]
