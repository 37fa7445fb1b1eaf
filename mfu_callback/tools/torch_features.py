"""What an older torch lacks, and what is left out without it; docs/versions.md has the same table."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch

_log = logging.getLogger(__name__)
_said: set[str] = set()


class Feature(NamedTuple):
    """One row.

    Attributes:
        name: What torch lacks.
        left_out: What follows, as the end of a sentence.
        since: The version of torch that has it.
    """

    name: str
    left_out: str
    since: str


FEATURES = (
    Feature(
        "TorchDispatchMode.supports_higher_order_operators",
        "control flow of torch (cond, while_loop, scan, map) is named as not counted",
        "2.9",
    ),
    Feature(
        "torch.cuda.get_per_process_memory_fraction",
        "after a search of BatchSizeFinder this process may use the whole GPU, also if you had set a smaller share",
        "2.6",
    ),
    Feature("torch.backends.mps.get_name", "the GPU of a Mac has no name, so its peak is measured", "2.9"),
    Feature("torch.accelerator.memory_stats", "the memory tags are left out on devices other than CUDA's", "2.9"),
)
_BY_NAME = {feature.name: feature for feature in FEATURES}


def say_missing(name: str) -> None:
    """Log once in this process, on rank zero, what follows from something that this torch lacks.

    Args:
        name: The name of one of `FEATURES`.
    """
    is_other_rank = torch.distributed.is_available() and torch.distributed.is_initialized()
    if name in _said or (is_other_rank and torch.distributed.get_rank() > 0):
        return
    _said.add(name)
    feature = _BY_NAME[name]
    _log.warning(
        "torch %s has no %s: %s. Install torch %s or later.",
        torch.__version__,
        name,
        feature.left_out,
        feature.since,
    )
