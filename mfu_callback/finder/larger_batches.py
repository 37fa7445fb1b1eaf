"""Tells of a batch in training that is larger than what was tried."""

from __future__ import annotations

from typing import Any

from mfu_callback.finder.result import BatchSizeResult
from mfu_callback.lightning.namespaces import rank_zero_warn
from mfu_callback.meter.samples import count_samples
from mfu_callback.meter.tokens import count_tokens


def warn_of_larger(batch: Any, result: BatchSizeResult) -> bool:
    """Warn if a batch has a longer sample, or more tokens, than any that was tried; return whether it has.

    Args:
        batch: A batch of training.
        result: The result of a search by tokens; of another one, nothing is known of lengths.
    """
    if result.length is None:
        return False
    tokens, samples = count_tokens(batch), count_samples(batch)
    if not tokens or not samples or (tokens <= result.batch_size * result.length and tokens <= samples * result.length):
        return False
    remedy = (
        "worst_case= a batch of the longest samples, or the batch sampler the `lengths` of all samples"
        if tokens > samples * result.length
        else "the batch sampler a max_tokens that counts padding: samples x the longest of the batch"
    )
    rank_zero_warn(
        f"A batch has {samples:,} samples of {tokens // samples:,} tokens. BatchSizeFinder tried up to"
        f" {result.batch_size:,} samples of {result.length:,} tokens, so that this batch may need more memory than was"
        f" tried. Give {remedy}."
    )
    return True
