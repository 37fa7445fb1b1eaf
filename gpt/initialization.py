"""Draws weights with all of the CPU's threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

_CHUNK = 1 << 20  # weights drawn by one thread at a time


def fill_normal(weight: Tensor, std: float) -> None:
    """Fill a weight with normal noise that the global generator seeds; on the CPU, with all of torch's threads.

    Each chunk has its own generator, so the numbers do not depend on the number of threads.
    """
    # Only plain CPU parameters can be filled in chunks; fake and distributed tensors have other types.
    if weight.device.type != "cpu" or type(weight) is not nn.Parameter:
        weight.normal_(0.0, std)
        return
    chunks: tuple[Tensor, ...] = weight.detach().view(-1).split(_CHUNK)  # type: ignore[no-untyped-call]
    first_seed = int(torch.randint(2**31, (), device="cpu"))  # a generator uses only 32 bits of its seed
    seeds = range(first_seed, first_seed + len(chunks))

    def fill(chunk: Tensor, seed: int) -> None:
        chunk.normal_(0.0, std, generator=torch.Generator().manual_seed(seed))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(fill, chunks, seeds))
