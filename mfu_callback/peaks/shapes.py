"""The shapes of the matmuls that a sweep tries on a device."""

from __future__ import annotations

from math import isqrt

from mfu_callback.peaks.sweep import Shape

_CPU_SIZES = (256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144)
_ACCELERATOR_SIZES = (1024, 2048, 4096, 6144, 8192)
# A tensor-core kernel's tile of the result. If the tiles divide evenly among the multiprocessors, none is idle.
_TILE_M, _TILE_N = 128, 256
_DEPTHS = (4096, 8192)


def shapes_for(device_type: str, multiprocessors: int | None = None) -> list[Shape]:
    """Matmuls of growing size for a device: squares, and results whose tiles divide evenly among its multiprocessors.

    Each shape occurs twice, with and without a transposed right matrix.

    Args:
        device_type: "cpu", "cuda", ...
        multiprocessors: The device's number of multiprocessors; None if the driver does not report it.
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
    # A tile is twice as wide as high, so the larger factor is the number of tiles stacked vertically.
    return [Shape(_TILE_M * columns * waves, depth, _TILE_N * rows * waves) for waves in (1, 2, 4) for depth in _DEPTHS]
