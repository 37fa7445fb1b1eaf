"""NVIDIA's data-centre devices since Hopper."""

from __future__ import annotations

from dataclasses import replace

from mfu_callback.peaks.tables.architectures import HOPPER
from mfu_callback.peaks.tables.device import Device

_H100 = "https://www.nvidia.com/en-us/data-center/h100/"
_H200 = "https://www.nvidia.com/en-us/data-center/h200/"
_GH200 = "https://resources.nvidia.com/en-us-grace-cpu/grace-hopper-superchip"
# NVIDIA has no page for the H20: the press printed the table that it gave to its customers.
_H20 = "https://www.tomshardware.com/news/no-nvidia-isnt-breaking-gpu-sanctions-analyst"
_HGX = "https://www.nvidia.com/en-us/data-center/hgx/"
_GB200 = "https://www.nvidia.com/en-us/data-center/gb200-nvl72/"
_BLACKWELL_ULTRA = "https://resources.nvidia.com/en-us-blackwell-architecture/blackwell-ultra-datasheet"

_H100_SXM = Device(
    name="H100 SXM",
    reported=("H100 80GB HBM3",),
    dense={"float64": 67, "float32": 67},
    sparse={"tf32": 989, "float16": 1979, "bfloat16": 1979, "float8": 3958, "int8": 3958},
    architecture=HOPPER,
    units=132,
    clock_ghz=1.83,
    wide_clock_ghz=1.98,
    memory_gb=80,
    bandwidth_gb_per_sec=3350,
    source=_H100,
)
_H100_NVL = Device(
    name="H100 NVL",
    reported=("H100 NVL",),
    dense={"float64": 60, "float32": 60},
    sparse={"tf32": 835, "float16": 1671, "bfloat16": 1671, "float8": 3341, "int8": 3341},
    architecture=HOPPER,
    units=132,
    wide_clock_ghz=1.785,
    memory_gb=94,
    bandwidth_gb_per_sec=3900,
    source=_H100,
)
_H20_96GB = Device(
    name="H20",
    reported=("H20",),
    dense={"float64": 1, "tf32": 74, "float16": 148, "bfloat16": 148, "float8": 296, "int8": 296},
    units=78,
    memory_gb=96,
    bandwidth_gb_per_sec=4000,
    source=_H20,
)
_GH200_96GB = Device(
    name="GH200 96GB",
    reported=("GH200 480GB", "GH200 120GB"),
    dense={
        "float64": 67,
        "float32": 67,
        "tf32": 494,
        "float16": 990,
        "bfloat16": 990,
        "float8": 1979,
        "int8": 1979,
    },
    architecture=HOPPER,
    units=132,
    clock_ghz=1.83,
    wide_clock_ghz=1.98,
    memory_gb=96,
    bandwidth_gb_per_sec=4000,
    source=_GH200,
)

DATA_CENTER: tuple[Device, ...] = (
    _H100_SXM,
    Device(
        name="H100 PCIe",
        reported=("H100 PCIe",),
        dense={
            "float64": 51.2,
            "float32": 51.2,
            "tf32": 378,
            "float16": 756,
            "bfloat16": 756,
            "float8": 1513,
            "int8": 1513,
        },
        architecture=HOPPER,
        units=114,
        clock_ghz=1.62,
        wide_clock_ghz=1.755,
        memory_gb=80,
        bandwidth_gb_per_sec=2000,
        source=HOPPER.source,
    ),
    _H100_NVL,
    # The H800's fp64 is cut and its tensor cores are not, so that it is not of Hopper's rates per clock.
    Device(
        name="H800 SXM",
        reported=("H800", "H800 80GB HBM3"),
        dense={"float64": 1, "float32": 67},
        sparse={"tf32": 989, "float16": 1979, "bfloat16": 1979, "float8": 3958, "int8": 3958},
        units=132,
        memory_gb=80,
        bandwidth_gb_per_sec=3350,
        source="https://www.qiangchuan.com/item/7228.html",  # a reseller's copy of NVIDIA's table, which is gone
    ),
    Device(
        name="H800 PCIe",
        reported=("H800 PCIe",),
        dense={"float64": 0.8, "float32": 51},
        sparse={"tf32": 756, "float16": 1513, "bfloat16": 1513, "float8": 3026, "int8": 3026},
        units=114,
        memory_gb=80,
        bandwidth_gb_per_sec=2000,
        source="https://lenovopress.lenovo.com/lp1814",
    ),
    replace(
        _H100_SXM,
        name="H200 SXM",
        reported=("H200",),
        memory_gb=141,
        bandwidth_gb_per_sec=4800,
        source=_H200,
    ),
    replace(
        _H100_NVL,
        name="H200 NVL",
        reported=("H200 NVL",),
        memory_gb=141,
        bandwidth_gb_per_sec=4800,
        source=_H200,
    ),
    # The H20's rates are dense as printed (148 is 15 % of the H100's 989). The 44 TFLOP/s that the same table gives
    # for fp32 are left out: 78 SMs would have to run at 2.2 GHz, and their boost clock is 1.98 GHz.
    _H20_96GB,
    replace(
        _H20_96GB,
        name="H20 141GB",
        reported=("H20-3e",),
        memory_gb=141,
        bandwidth_gb_per_sec=None,
    ),
    # A GH200's driver spells the processor's memory (480 or 120 GB), not the GPU's 96 GB, up to its HBM3e version.
    _GH200_96GB,
    replace(
        _GH200_96GB,
        name="GH200 144GB",
        reported=("GH200 144G HBM3e",),
        memory_gb=144,
        bandwidth_gb_per_sec=4900,
    ),
    # NVIDIA revised Blackwell's rates: B200's fp64 and fp32 from 40 and 80, GB200's from 45 and 90. These are the later
    # ones. The HGX page prints a board of eight GPUs, the GB200's a superchip of two: an eighth and a half of that.
    Device(
        name="B200",
        reported=("B200",),
        dense={"float64": 296 / 8, "float32": 600 / 8},
        sparse={
            "tf32": 18_000 / 8,
            "float16": 36_000 / 8,
            "bfloat16": 36_000 / 8,
            "float8": 72_000 / 8,
            "int8": 72_000 / 8,
        },
        units=148,
        memory_gb=180,
        bandwidth_gb_per_sec=8000,
        source=_HGX,
    ),
    Device(
        name="GB200",
        reported=("GB200",),
        dense={"float64": 80 / 2, "float32": 160 / 2},
        sparse={
            "tf32": 5000 / 2,
            "float16": 10_000 / 2,
            "bfloat16": 10_000 / 2,
            "float8": 20_000 / 2,
            "int8": 20_000 / 2,
        },
        units=152,
        memory_gb=186,
        bandwidth_gb_per_sec=8000,
        source=_GB200,
    ),
    # Blackwell Ultra gave up most of fp64 and int8. The board's int8 is printed too coarsely (3 POP/s) to be divided.
    Device(
        name="B300",
        reported=("B300 SXM6 AC",),
        dense={"float64": 10 / 8, "float32": 600 / 8},
        sparse={"tf32": 18_000 / 8, "float16": 36_000 / 8, "bfloat16": 36_000 / 8, "float8": 72_000 / 8},
        units=148,
        memory_gb=270,
        bandwidth_gb_per_sec=7700,
        source=_HGX,
    ),
    Device(
        name="GB300",
        reported=("GB300",),
        dense={"float64": 1.3, "float32": 80},
        sparse={"tf32": 2500, "float16": 5000, "bfloat16": 5000, "float8": 10_000, "int8": 330},
        units=152,
        memory_gb=279,
        bandwidth_gb_per_sec=8000,
        source=_BLACKWELL_ULTRA,
    ),
)
