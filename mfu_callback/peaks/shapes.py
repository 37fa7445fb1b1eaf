"""The matmuls that are tried on a device."""

from __future__ import annotations

from math import isqrt

from mfu_callback.peaks.sweep import Shape

_CPU_SIZES = (256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144)
_ACCELERATOR_SIZES = (1024, 2048, 4096, 6144, 8192)
# A tensor-core kernel's tile of the result; what multiplies it evenly over the multiprocessors leaves none idle.
_TILE_M, _TILE_N = 128, 256
_DEPTHS = (4096, 8192)


def shapes_for(device_type: str, multiprocessors: int | None = None) -> list[Shape]:
    """Matmuls of growing size for a device: squares, and tiles that fill its multiprocessors a whole number of times.

    Each is there twice, the right matrix as it is and transposed.

    Args:
        device_type: "cpu", "cuda", ...
        multiprocessors: How many the device has, where the driver says it.
    """
    sizes = _CPU_SIZES if device_type == "cpu" else _ACCELERATOR_SIZES
    shapes = [Shape(size, size, size) for size in sizes]
    if multiprocessors is not None:
        shapes += _whole_waves(multiprocessors)
    both = [shape._replace(transposed=transposed) for shape in shapes for transposed in (False, True)]
    return sorted(both, key=lambda shape: shape.flops)


def _whole_waves(multiprocessors: int) -> list[Shape]:
    rows = next(i for i in range(isqrt(multiprocessors), 0, -1) if multiprocessors % i == 0)
    columns = multiprocessors // rows
    # The tiles are twice as wide as high, so the larger factor counts those on top of each other.
    return [Shape(_TILE_M * columns * waves, depth, _TILE_N * rows * waves) for waves in (1, 2, 4) for depth in _DEPTHS]
