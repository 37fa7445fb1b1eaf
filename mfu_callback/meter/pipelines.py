"""Notices the trial in which ``torch.distributed.pipelining`` learns the shapes between its stages."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from mfu_callback.tools.brackets import Brackets

_MODULE = "torch.distributed.pipelining.stage"
_TRIALS = ("_forward_metadata_inference", "_shape_inference")  # the second in an older torch


class PipelineTrial:
    """Notices a trial while its ``with`` block runs.

    Before its first micro-batch, a pipeline runs one more through each stage, forward and backward, and keeps nothing
    but the shapes. That work looks like the model's, but it comes once and not in every step.

    Attributes:
        was_seen: Whether a stage ran a trial.
    """

    def __init__(self) -> None:
        self.was_seen = False
        self._brackets = Brackets()

    def __enter__(self) -> PipelineTrial:
        module = sys.modules.get(_MODULE)  # a model without a pipeline need not import it
        stage: Any = getattr(module, "PipelineStage", None)
        for trial in _TRIALS:
            if hasattr(stage, trial):
                self._brackets.put_on_class(stage, trial, self._noticed)
        return self

    def __exit__(self, *exception: object) -> None:
        self._brackets.remove()

    def _noticed(self, run: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(run)
        def noticed(*args: Any, **kwargs: Any) -> Any:
            self.was_seen = True
            return run(*args, **kwargs)

        return noticed
