"""Finds the largest batch that fits into memory, before a run."""

from mfu_callback.finder.callback import BatchSizeFinder
from mfu_callback.finder.find_batch_size import find_batch_size
from mfu_callback.finder.prediction.memory import MemoryPrediction
from mfu_callback.finder.prediction.predict import (
    BatchSizePrediction,
    PredictionError,
    predict_batch_size,
    predict_memory,
)
from mfu_callback.finder.result import BatchSizeResult
from mfu_callback.finder.sweep import SweepPoint
from mfu_callback.finder.trials.trial import Trial

__all__ = [
    "BatchSizeFinder",
    "BatchSizePrediction",
    "BatchSizeResult",
    "MemoryPrediction",
    "PredictionError",
    "SweepPoint",
    "Trial",
    "find_batch_size",
    "predict_batch_size",
    "predict_memory",
]
