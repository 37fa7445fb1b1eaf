"""Intel's GPUs and Gaudi accelerators."""

from __future__ import annotations

from mfu_callback.peaks.tables.architectures import XE2_HPG, XE_HPC
from mfu_callback.peaks.tables.device import Device

_SKU = "https://www.intel.com/content/www/us/en/products/sku"

INTEL: tuple[Device, ...] = (
    Device(
        name="Data Center GPU Max 1100",
        reported=("Data Center GPU Max 1100",),
        architecture=XE_HPC,
        units=56,
        clock_ghz=1.55,
        memory_gb=48,
        bandwidth_gb_per_sec=1228.8,
        source=f"{_SKU}/232876/intel-data-center-gpu-max-1100/specifications.html",
    ),
    # Each of the two stacks is a device.
    Device(
        name="Data Center GPU Max 1550 (one of two stacks)",
        reported=("Data Center GPU Max 1550",),
        architecture=XE_HPC,
        units=128 // 2,
        clock_ghz=1.6,
        memory_gb=128 / 2,
        bandwidth_gb_per_sec=3276.8 / 2,
        source=f"{_SKU}/232873/intel-data-center-gpu-max-1550/specifications.html",
    ),
    Device(
        name="Arc B570",
        reported=("Arc(TM) B570 Graphics",),
        dense={"int8": 203},
        architecture=XE2_HPG,
        units=18,
        clock_ghz=2.75,
        memory_gb=10,
        bandwidth_gb_per_sec=380,
        source=f"{_SKU}/241676/intel-arc-b570-graphics/specifications.html",
    ),
    Device(
        name="Arc B580",
        reported=("Arc(TM) B580 Graphics",),
        dense={"int8": 233},
        architecture=XE2_HPG,
        units=20,
        clock_ghz=2.85,
        memory_gb=12,
        bandwidth_gb_per_sec=456,
        source=f"{_SKU}/241598/intel-arc-b580-graphics/specifications.html",
    ),
    Device(
        name="Arc Pro B50",
        reported=("Arc(TM) Pro B50 Graphics",),
        dense={"int8": 170},
        architecture=XE2_HPG,
        units=16,
        clock_ghz=2.6,
        memory_gb=16,
        bandwidth_gb_per_sec=224,
        source=f"{_SKU}/242615/intel-arc-pro-b50-graphics/specifications.html",
    ),
    Device(
        name="Arc Pro B60",
        reported=("Arc(TM) Pro B60 Graphics",),
        dense={"float32": 12.28, "int8": 197},
        architecture=XE2_HPG,
        units=20,
        clock_ghz=2.4,
        memory_gb=24,
        bandwidth_gb_per_sec=456,
        source=f"{_SKU}/243916/intel-arc-pro-b60-graphics/specifications.html",
    ),
    Device(
        name="Arc Pro B70",
        reported=("Arc(TM) Pro B70 Graphics",),
        dense={"int8": 367},
        architecture=XE2_HPG,
        units=32,
        clock_ghz=2.8,
        memory_gb=32,
        bandwidth_gb_per_sec=608,
        source=f"{_SKU}/245797/intel-arc-pro-b70-graphics/specifications.html",
    ),
    Device(
        name="Gaudi 2",
        reported=("GAUDI2",),
        dense={"bfloat16": 432, "float8": 865},
        memory_gb=96,
        bandwidth_gb_per_sec=2450,
        source="https://www.intel.com/content/www/us/en/content-details/839363/intel-gaudi-2-ai-accelerators-white-paper.html",
    ),
    # The revised rates. At launch the white paper had 1835, for a clock of 1.75 GHz at which devices do not run.
    Device(
        name="Gaudi 3",
        reported=("GAUDI3",),
        dense={"float16": 459, "bfloat16": 1678, "float8": 1678},
        memory_gb=128,
        bandwidth_gb_per_sec=3700,
        source="https://www.intel.com/content/www/us/en/content-details/817486/intel-gaudi-3-ai-accelerator-white-paper.html",
    ),
)
