"""The largest batch that fits, found before fit."""

from mfu_callback.finder.callback import BatchSizeFinder, BatchSizeResult
from mfu_callback.finder.trial import Trial

__all__ = ["BatchSizeFinder", "BatchSizeResult", "Trial"]
