"""The peaks and the best results of the notebook that `bench.py` replaces, for comparison.

The peaks are the vector units' rates. Tensor cores are up to ten times as fast, so an MFU relative to these peaks is
too high.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from gpt import GPT, SIZES
from mfu_callback import count_flops, find_peak, model_flops_utilization

DEVICE = "NVIDIA A100-SXM4-40GB"  # of the results; every A100 has the same rates
BATCH_SIZE, CONTEXT_LENGTH = 2, 1024  # of the FLOPs that it counted


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorPeak:
    """The rates of one device in 1e12 FLOP/s, as in the replaced notebook."""

    words: frozenset[str]
    float32: float
    float16: float
    bfloat16: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The best result of one size on an A100 in bfloat16, with the backward pass.

    The forward FLOPs are those of a batch of 2 x 1024 tokens, counted by thop. The notebook printed two digits of them.
    """

    size: str
    forward_flops: int
    batch_size: int
    tokens_per_sec: float
    mfu: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """A result of the notebook's with one thing after the other put right; its tokens/s stay as they are.

    Attributes:
        mfu_of_peak: Its MFU with the peak of the datasheet in place of the vector units' rate.
        mfu: The same, with the complete count in place of thop's.
    """

    mfu_of_peak: float
    mfu: float


VECTOR_PEAKS: tuple[VectorPeak, ...] = tuple(
    VectorPeak(words=frozenset(words.split()), float32=float32, float16=float16, bfloat16=bfloat16)
    for words, float32, float16, bfloat16 in (
        ("h100", 51.22, 204.9, 204.9),
        ("l4", 30.29, 30.29, 30.29),
        ("t4", 8.1, 65.13, 65.13),
        ("a10g", 31.52, 31.52, 31.52),
        ("a100", 19.49, 77.97, 77.97),
        ("rtx 3080", 29.77, 29.77, 29.77),
        ("rtx 3090", 35.58, 35.58, 35.58),
    )
)

RESULTS: tuple[Result, ...] = (
    Result(size="gpt-small", forward_flops=505_987_203_072, batch_size=24, tokens_per_sec=62568.34, mfu=0.5948),
    Result(size="gpt-medium", forward_flops=1_447_743_717_376, batch_size=7, tokens_per_sec=22536.25, mfu=0.6130),
    Result(size="gpt-large", forward_flops=3_162_594_344_960, batch_size=8, tokens_per_sec=12465.21, mfu=0.7406),
    Result(size="gpt-xl", forward_flops=6_369_162_035_200, batch_size=4, tokens_per_sec=6779.92, mfu=0.8113),
)


def vector_peak(device_name: str, dtype: torch.dtype) -> int | None:
    """Returns the replaced notebook's peak of a device in FLOP/s, or None if it had none."""
    words = set(re.findall(r"[a-z0-9]+", device_name.lower()))
    rows = [row for row in VECTOR_PEAKS if row.words <= words and not words & {"ti", "super", "laptop", "mig"}]
    rate = getattr(rows[0], str(dtype).removeprefix("torch."), None) if len(rows) == 1 else None
    return None if rate is None else round(rate * 1e12)


def recomputed(result: Result, complete_flops: int, peak_flops_per_sec: float) -> Recomputed:
    """Returns a result with the true peak and the complete count.

    Args:
        result: A row of the notebook's.
        complete_flops: All forward FLOPs of a batch of 2 x 1024 tokens.
        peak_flops_per_sec: The device's dense peak.
    """
    tokens = BATCH_SIZE * CONTEXT_LENGTH
    by_count = (
        model_flops_utilization(
            tokens_per_sec=result.tokens_per_sec,
            flops_per_token=3 * forward_flops / tokens,
            peak_flops_per_sec=peak_flops_per_sec,
        )
        for forward_flops in (result.forward_flops, complete_flops)
    )
    return Recomputed(mfu_of_peak=next(by_count), mfu=next(by_count))


def complete_flops(size: str) -> int:
    """Returns all forward FLOPs of a size on the notebook's batch, counted on the meta device."""
    with torch.device("meta"):
        return count_flops(GPT(SIZES[size]), torch.zeros(BATCH_SIZE, CONTEXT_LENGTH, dtype=torch.long)).forward


def true_peak() -> float:
    """Returns the dense bfloat16 peak of the device of the results, in FLOP/s."""
    peak = find_peak(DEVICE, torch.bfloat16)
    assert peak is not None, f"the table of peaks has no {DEVICE}"
    return peak.flops_per_sec
