"""NVIDIA's desktop GeForce cards of Ada and Blackwell."""

from __future__ import annotations

from mfu_callback.peaks.tables.architectures import ADA_GEFORCE, BLACKWELL_GEFORCE
from mfu_callback.peaks.tables.device import Device

_4090_D = "https://www.nvidia.cn/geforce/graphics-cards/40-series/rtx-4090-d/"
# NVIDIA's table of the cores and boost clocks of every card, for those whose tensor rates it does not print.
_CARDS = "https://www.nvidia.com/en-us/geforce/graphics-cards/compare/"


# Ada's rates at fp8 are those of accumulation in fp32, as version 2.02 of the whitepaper corrected them. Blackwell's
# are not here: its whitepaper prints half the rate for accumulation in fp32 too, but its block-scaled instructions
# accumulate in fp32 at the full one, and cuBLASLt reaches it.
# The RTX 5090 D and its v2 are missing: their tensor cores are slowed, and NVIDIA prints by how much at fp4 alone.
GEFORCE: tuple[Device, ...] = (
    Device(
        name="RTX 4060",
        reported=("GeForce RTX 4060",),
        architecture=ADA_GEFORCE,
        units=24,
        clock_ghz=2.46,
        memory_gb=8,
        bandwidth_gb_per_sec=272,
        source=_CARDS,
    ),
    # One name has 8 or 16 GB.
    Device(
        name="RTX 4060 Ti",
        reported=("GeForce RTX 4060 Ti",),
        architecture=ADA_GEFORCE,
        units=34,
        clock_ghz=2.535,
        bandwidth_gb_per_sec=288,
        source=_CARDS,
    ),
    # One name has GDDR6X at 504 GB/s or GDDR6 at 480 GB/s.
    Device(
        name="RTX 4070",
        reported=("GeForce RTX 4070",),
        architecture=ADA_GEFORCE,
        units=46,
        clock_ghz=2.475,
        memory_gb=12,
        source=_CARDS,
    ),
    Device(
        name="RTX 4070 SUPER",
        reported=("GeForce RTX 4070 SUPER",),
        architecture=ADA_GEFORCE,
        units=56,
        clock_ghz=2.475,
        memory_gb=12,
        bandwidth_gb_per_sec=504,
        source=_CARDS,
    ),
    Device(
        name="RTX 4070 Ti",
        reported=("GeForce RTX 4070 Ti",),
        architecture=ADA_GEFORCE,
        units=60,
        clock_ghz=2.61,
        memory_gb=12,
        bandwidth_gb_per_sec=504,
        source=_CARDS,
    ),
    Device(
        name="RTX 4070 Ti SUPER",
        reported=("GeForce RTX 4070 Ti SUPER",),
        architecture=ADA_GEFORCE,
        units=66,
        clock_ghz=2.61,
        memory_gb=16,
        bandwidth_gb_per_sec=672,
        source=_CARDS,
    ),
    Device(
        name="RTX 4080",
        reported=("GeForce RTX 4080",),
        dense={"float32": 48.7, "float16": 97.5, "bfloat16": 97.5},
        architecture=ADA_GEFORCE,
        units=76,
        clock_ghz=2.505,
        memory_gb=16,
        bandwidth_gb_per_sec=717,
        source=ADA_GEFORCE.source,
    ),
    Device(
        name="RTX 4080 SUPER",
        reported=("GeForce RTX 4080 SUPER",),
        architecture=ADA_GEFORCE,
        units=80,
        clock_ghz=2.55,
        memory_gb=16,
        bandwidth_gb_per_sec=736,
        source=_CARDS,
    ),
    Device(
        name="RTX 4090",
        reported=("GeForce RTX 4090",),
        dense={"float32": 82.6, "float16": 165.2, "bfloat16": 165.2, "float8": 330.3, "int8": 660.6},
        architecture=ADA_GEFORCE,
        units=128,
        clock_ghz=2.52,
        memory_gb=24,
        bandwidth_gb_per_sec=1008,
        source=ADA_GEFORCE.source,
    ),
    Device(
        name="RTX 4090 D",
        reported=("GeForce RTX 4090 D",),
        architecture=ADA_GEFORCE,
        units=114,
        clock_ghz=2.52,
        memory_gb=24,
        bandwidth_gb_per_sec=1008,
        source=_4090_D,
    ),
    Device(
        name="RTX 5050",
        reported=("GeForce RTX 5050",),
        architecture=BLACKWELL_GEFORCE,
        units=20,
        clock_ghz=2.572,
        memory_gb=8,
        bandwidth_gb_per_sec=320,
        source=_CARDS,
    ),
    Device(
        name="RTX 5060",
        reported=("GeForce RTX 5060",),
        architecture=BLACKWELL_GEFORCE,
        units=30,
        clock_ghz=2.497,
        memory_gb=8,
        bandwidth_gb_per_sec=448,
        source=_CARDS,
    ),
    # One name has 8 or 16 GB.
    Device(
        name="RTX 5060 Ti",
        reported=("GeForce RTX 5060 Ti",),
        architecture=BLACKWELL_GEFORCE,
        units=36,
        clock_ghz=2.572,
        bandwidth_gb_per_sec=448,
        source=_CARDS,
    ),
    Device(
        name="RTX 5070",
        reported=("GeForce RTX 5070",),
        dense={"float32": 30.9, "float16": 61.7, "bfloat16": 61.7, "int8": 246.9},
        architecture=BLACKWELL_GEFORCE,
        units=48,
        clock_ghz=2.512,
        memory_gb=12,
        bandwidth_gb_per_sec=672,
        source=BLACKWELL_GEFORCE.source,
    ),
    Device(
        name="RTX 5070 Ti",
        reported=("GeForce RTX 5070 Ti",),
        dense={"float16": 87.9, "bfloat16": 87.9},
        architecture=BLACKWELL_GEFORCE,
        units=70,
        clock_ghz=2.452,
        memory_gb=16,
        bandwidth_gb_per_sec=896,
        source=BLACKWELL_GEFORCE.source,
    ),
    Device(
        name="RTX 5080",
        reported=("GeForce RTX 5080",),
        dense={"float16": 112.6, "bfloat16": 112.6},
        architecture=BLACKWELL_GEFORCE,
        units=84,
        clock_ghz=2.617,
        memory_gb=16,
        bandwidth_gb_per_sec=960,
        source=BLACKWELL_GEFORCE.source,
    ),
    Device(
        name="RTX 5090",
        reported=("GeForce RTX 5090",),
        dense={"float32": 104.8, "float16": 209.5, "bfloat16": 209.5, "int8": 838},
        architecture=BLACKWELL_GEFORCE,
        units=170,
        clock_ghz=2.407,
        memory_gb=32,
        bandwidth_gb_per_sec=1792,
        source=BLACKWELL_GEFORCE.source,
    ),
)
