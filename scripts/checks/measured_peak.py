"""Checks that measure_peak agrees with a plain loop of matmuls, and with itself after a pause.

First, calls of the sweep's own kind and calls of a straight (plain) loop take turns, at the shape that a sweep found
fastest. The machine may change its speed, but hardly between two successive calls. Then the peak is measured again
after a pause. The two peaks agree within 10 %, or the kept one is marked as noisy. The user's own measured peaks are
not changed.
"""

from __future__ import annotations

import argparse
import platform
import re
import shlex
import sys
import time
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch

from mfu_callback import Peak, measure_peak
from mfu_callback.peaks.cache import DIRECTORY_VARIABLE, CacheKey, keep_best
from mfu_callback.peaks.call_timers import call_timer_for
from mfu_callback.peaks.measure import matmul_of
from mfu_callback.peaks.sweep import Shape

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    """Compare and print."""
    arguments = parse_arguments()
    device, dtype = torch.device(arguments.device), DTYPES[arguments.dtype]
    print(shlex.join(["python", *sys.argv]))
    print(f"{platform.platform()}, torch {torch.__version__}, {torch.get_num_threads()} threads, {device}, {dtype}")
    first = measure_peak(device, dtype, use_cache=False)
    print_peak("first", first)
    compare_with_loop(shape_of(first), device, dtype, pairs=arguments.pairs)
    time.sleep(arguments.pause)
    second = measure_peak(device, dtype, use_cache=False)
    print_peak(f"second, {arguments.pause:g} s later", second)
    high, low = max(first.flops_per_sec, second.flops_per_sec), min(first.flops_per_sec, second.flops_per_sec)
    print(f"higher over lower: {high / low:.3f}; the cache keeps {kept_of(first, second)}")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=60, help="calls of each kind (default: %(default)s)")
    parser.add_argument("--pause", type=float, default=120, help="seconds between the two peaks (default: %(default)s)")
    return parser.parse_args()


def compare_with_loop(shape: Shape, device: torch.device, dtype: torch.dtype, *, pairs: int) -> None:
    """Time calls of our kind and calls of a straight loop in turns, and print the ratio of their rates."""
    ours, timer = matmul_of(shape, device, dtype), call_timer_for(device)
    left = torch.randn(shape.m, shape.k, device=device).to(dtype)
    right = torch.randn(shape.k, shape.n, device=device).to(dtype)
    right = right.t().contiguous().t() if shape.transposed else right
    product = torch.empty(shape.m, shape.n, device=device, dtype=dtype)

    def straight() -> float:
        start = time.perf_counter()
        torch.matmul(left, right, out=product)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - start

    kinds = {"ours": lambda: timer.seconds_of(ours, 1)[0], "straight": straight}
    seconds = {name: np.zeros(pairs) for name in kinds}
    for call in kinds.values():
        call()
    for pair in range(pairs):
        for name in sorted(kinds, reverse=bool(pair % 2)):
            seconds[name][pair] = kinds[name]()
    ratios = seconds["straight"] / seconds["ours"]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    rates = ", ".join(f"{name} {shape.flops / np.median(values) / 1e9:.1f}" for name, values in seconds.items())
    print(f"{pairs} pairs at {shape}, median GFLOP/s: {rates}")
    print(f"our rate over the straight loop's, pair by pair: median {middle:.3f}, quartiles {low:.3f} to {high:.3f}")


def shape_of(peak: Peak) -> Shape:
    """Returns the shape that the source of a measured peak names."""
    m, k, n = map(int, re.findall(r"(\d+) x (\d+) x (\d+)", peak.source)[0])
    return Shape(m, k, n, transposed=" transposed " in peak.source)


def kept_of(first: Peak, second: Peak) -> Peak:
    """Returns the peak that the cache would keep of two."""
    with TemporaryDirectory() as directory, patch.dict("os.environ", {DIRECTORY_VARIABLE: directory}):
        key = CacheKey.of(torch.device("cpu"), first.dtype)
        keep_best(first, key)
        return keep_best(second, key)


def print_peak(what: str, peak: Peak) -> None:
    """Print one measured peak."""
    print(f"{what}: {peak}, {peak.source}")


if __name__ == "__main__":
    main()
