"""NVIDIA's desktop GeForce cards of Turing and Ampere."""

from __future__ import annotations

from mfu_callback.peaks.architectures import AMPERE_GEFORCE, TURING_GEFORCE
from mfu_callback.peaks.device import Device

_TURING = (
    "https://images.nvidia.com/aem-dam/en-zz/Solutions/design-visualization/technologies/turing-architecture/"
    "NVIDIA-Turing-Architecture-Whitepaper.pdf"
)
_GA102 = "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.1.pdf"
_RTX_BLACKWELL = (
    "https://images.nvidia.com/aem-dam/Solutions/geforce/blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf"
)
# NVIDIA's table of the cores and boost clocks of every card, for those whose tensor rates it does not print.
_CARDS = "https://www.nvidia.com/en-us/geforce/graphics-cards/compare/"


# A plain RTX 2060, 2070 or 2080 is missing: laptops report these names too, at other clocks.
GEFORCE_BEFORE_ADA: tuple[Device, ...] = (
    Device(
        name="RTX 2060 SUPER",
        reported=("GeForce RTX 2060 SUPER",),
        architecture=TURING_GEFORCE,
        units=34,
        clock_ghz=1.65,
        memory_gb=8,
        bandwidth_gb_per_sec=448,
        source=_CARDS,
    ),
    Device(
        name="RTX 2070 SUPER",
        reported=("GeForce RTX 2070 SUPER",),
        architecture=TURING_GEFORCE,
        units=40,
        clock_ghz=1.77,
        memory_gb=8,
        bandwidth_gb_per_sec=448,
        source=_CARDS,
    ),
    Device(
        name="RTX 2080 SUPER",
        reported=("GeForce RTX 2080 SUPER",),
        architecture=TURING_GEFORCE,
        units=48,
        clock_ghz=1.815,
        memory_gb=8,
        bandwidth_gb_per_sec=496,
        source=_CARDS,
    ),
    # Rated at the reference clock; the whitepaper also has the Founders Edition's, 1.635 GHz.
    Device(
        name="RTX 2080 Ti",
        reported=("GeForce RTX 2080 Ti",),
        dense={"float32": 13.4, "float16": 53.8, "int8": 215.2},
        architecture=TURING_GEFORCE,
        units=68,
        clock_ghz=1.545,
        memory_gb=11,
        bandwidth_gb_per_sec=616,
        source=_TURING,
    ),
    Device(
        name="RTX 3050 8GB",
        reported=("GeForce RTX 3050",),
        architecture=AMPERE_GEFORCE,
        units=20,
        clock_ghz=1.777,
        memory_gb=8,
        bandwidth_gb_per_sec=224,
        source=_CARDS,
    ),
    Device(
        name="RTX 3050 6GB",
        reported=("GeForce RTX 3050",),
        architecture=AMPERE_GEFORCE,
        units=18,
        clock_ghz=1.47,
        memory_gb=6,
        bandwidth_gb_per_sec=168,
        source=_CARDS,
    ),
    Device(
        name="RTX 3050 OEM",
        reported=("GeForce RTX 3050 OEM",),
        architecture=AMPERE_GEFORCE,
        units=18,
        clock_ghz=1.755,
        memory_gb=8,
        bandwidth_gb_per_sec=224,
        source=_CARDS,
    ),
    # One name has 12 GB at 360 GB/s or 8 GB at 240 GB/s.
    Device(
        name="RTX 3060",
        reported=("GeForce RTX 3060",),
        architecture=AMPERE_GEFORCE,
        units=28,
        clock_ghz=1.777,
        source=_CARDS,
    ),
    # One name has GDDR6 at 448 GB/s or GDDR6X at 608 GB/s.
    Device(
        name="RTX 3060 Ti",
        reported=("GeForce RTX 3060 Ti",),
        architecture=AMPERE_GEFORCE,
        units=38,
        clock_ghz=1.665,
        memory_gb=8,
        source=_CARDS,
    ),
    Device(
        name="RTX 3070",
        reported=("GeForce RTX 3070",),
        dense={"float32": 20.3, "float16": 40.6, "bfloat16": 40.6},
        architecture=AMPERE_GEFORCE,
        units=46,
        clock_ghz=1.725,
        memory_gb=8,
        bandwidth_gb_per_sec=448,
        source=_GA102,
    ),
    Device(
        name="RTX 3070 Ti",
        reported=("GeForce RTX 3070 Ti",),
        architecture=AMPERE_GEFORCE,
        units=48,
        clock_ghz=1.77,
        memory_gb=8,
        bandwidth_gb_per_sec=608,
        source=_CARDS,
    ),
    Device(
        name="RTX 3080 10GB",
        reported=("GeForce RTX 3080",),
        dense={"float32": 29.8, "float16": 59.5, "bfloat16": 59.5},
        architecture=AMPERE_GEFORCE,
        units=68,
        clock_ghz=1.71,
        memory_gb=10,
        bandwidth_gb_per_sec=760,
        source=_GA102,
    ),
    Device(
        name="RTX 3080 12GB",
        reported=("GeForce RTX 3080",),
        architecture=AMPERE_GEFORCE,
        units=70,
        clock_ghz=1.71,
        memory_gb=12,
        bandwidth_gb_per_sec=912,
        is_variant=True,
        source=_CARDS,
    ),
    Device(
        name="RTX 3080 Ti",
        reported=("GeForce RTX 3080 Ti",),
        architecture=AMPERE_GEFORCE,
        units=80,
        clock_ghz=1.665,
        memory_gb=12,
        bandwidth_gb_per_sec=912,
        source=_CARDS,
    ),
    Device(
        name="RTX 3090",
        reported=("GeForce RTX 3090",),
        dense={"float32": 35.6, "float16": 71.2, "bfloat16": 71.2},
        architecture=AMPERE_GEFORCE,
        units=82,
        clock_ghz=1.695,
        memory_gb=24,
        bandwidth_gb_per_sec=936,
        source=_RTX_BLACKWELL,
    ),
    Device(
        name="RTX 3090 Ti",
        reported=("GeForce RTX 3090 Ti",),
        architecture=AMPERE_GEFORCE,
        units=84,
        clock_ghz=1.86,
        memory_gb=24,
        bandwidth_gb_per_sec=1008,
        source=_CARDS,
    ),
)
