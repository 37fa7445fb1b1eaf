"""NVIDIA's workstation cards and TITANs from Pascal to Ampere."""

from __future__ import annotations

from mfu_callback.peaks.tables.architectures import AMPERE, PASCAL_GP100, TURING, TURING_TU117, VOLTA
from mfu_callback.peaks.tables.device import Device

_QUADRO = "https://www.nvidia.com/content/dam/en-zz/Solutions/design-visualization/productspage/quadro/quadro-desktop/"
_GP100 = _QUADRO + "quadro-pascal-gp100-data-sheet-us-nv-704562-r1.pdf"
_GV100 = _QUADRO + "quadro-volta-gv100-data-sheet-us-nvidia-704619-r3-web.pdf"
_TITAN_V = "https://www.nvidia.com/en-us/titan/titan-v/"
_TITAN_RTX = "https://www.nvidia.com/en-us/deep-learning-ai/products/titan-rtx/"
_T400 = _QUADRO + "nvidia-t400-datasheet-1987150-r3.pdf"
_T600 = _QUADRO + "proviz-print-nvidia-T600-datasheet-us-nvidia-1670029-r5-web.pdf"
_T1000 = _QUADRO + "proviz-print-nvidia-T1000-datasheet-us-nvidia-1670054-r4-web.pdf"
_RTX_8000 = (
    "https://www.nvidia.com/content/dam/en-zz/Solutions/design-visualization/quadro-product-literature/"
    "quadro-rtx-8000-us-nvidia-946977-r1-web.pdf"
)
_RTX_A5500 = (
    "https://www.nvidia.com/content/dam/en-zz/Solutions/gtcs22/design-visualization/quadro-product-literature/"
    "proviz-nvidia-rtx-a5500-datasheet-2130578-r3-us-web.pdf"
)
_PRODUCTS = "https://www.nvidia.com/en-us/products/workstations/"


# The Quadro RTX 3000, 4000, 5000 and 6000 are missing: laptops report these names too, at other clocks.
# What a page of the RTX A series calls tensor performance is fp16 with sparsity.
WORKSTATION_BEFORE_ADA: tuple[Device, ...] = (
    Device(
        name="Quadro GP100",
        reported=("Quadro GP100",),
        architecture=PASCAL_GP100,
        units=56,
        clock_ghz=1.443,
        memory_gb=16,
        bandwidth_gb_per_sec=717,
        source=_GP100,
    ),
    # Rated at 1.447 GHz, though its boost clock is 1.627 GHz.
    Device(
        name="Quadro GV100",
        reported=("Quadro GV100",),
        dense={"float64": 7.4, "float32": 14.8, "float16": 118.5},
        architecture=VOLTA,
        units=80,
        clock_ghz=1.447,
        memory_gb=32,
        bandwidth_gb_per_sec=870,
        source=_GV100,
    ),
    # Its tensor cores are rated below its boost clock, at which they would do 119 TFLOP/s.
    Device(
        name="TITAN V",
        reported=("TITAN V",),
        dense={"float16": 110},
        architecture=VOLTA,
        units=80,
        wide_clock_ghz=1.455,
        memory_gb=12,
        bandwidth_gb_per_sec=653,
        source=_TITAN_V,
    ),
    Device(
        name="T400",
        reported=("T400",),
        architecture=TURING_TU117,
        units=6,
        clock_ghz=1.425,
        memory_gb=2,
        bandwidth_gb_per_sec=80,
        source=_T400,
    ),
    Device(
        name="T400 4GB",
        reported=("T400 4GB",),
        architecture=TURING_TU117,
        units=6,
        clock_ghz=1.425,
        memory_gb=4,
        bandwidth_gb_per_sec=80,
        source=_T400,
    ),
    Device(
        name="T600",
        reported=("T600",),
        architecture=TURING_TU117,
        units=10,
        clock_ghz=1.335,
        memory_gb=4,
        bandwidth_gb_per_sec=160,
        source=_T600,
    ),
    Device(
        name="T1000",
        reported=("T1000",),
        dense={"float32": 2.5},
        architecture=TURING_TU117,
        units=14,
        clock_ghz=1.395,
        memory_gb=4,
        bandwidth_gb_per_sec=160,
        source=_T1000,
    ),
    Device(
        name="T1000 8GB",
        reported=("T1000 8GB",),
        dense={"float32": 2.5},
        architecture=TURING_TU117,
        units=14,
        clock_ghz=1.395,
        memory_gb=8,
        bandwidth_gb_per_sec=160,
        source=_T1000,
    ),
    Device(
        name="TITAN RTX",
        reported=("TITAN RTX",),
        dense={"float16": 130},
        architecture=TURING,
        units=72,
        clock_ghz=1.77,
        memory_gb=24,
        bandwidth_gb_per_sec=672,
        source=_TITAN_RTX,
    ),
    Device(
        name="Quadro RTX 8000",
        reported=("Quadro RTX 8000",),
        dense={"float32": 16.3, "float16": 130.5},
        architecture=TURING,
        units=72,
        clock_ghz=1.77,
        memory_gb=48,
        bandwidth_gb_per_sec=672,
        source=_RTX_8000,
    ),
    Device(
        name="RTX A400",
        reported=("RTX A400",),
        sparse={"float16": 21.7},
        architecture=AMPERE,
        units=6,
        clock_ghz=1.762,
        memory_gb=4,
        bandwidth_gb_per_sec=96,
        source=_PRODUCTS + "rtx-a400/",
    ),
    Device(
        name="RTX A1000",
        reported=("RTX A1000",),
        sparse={"float16": 53.8},
        architecture=AMPERE,
        units=18,
        clock_ghz=1.462,
        memory_gb=8,
        bandwidth_gb_per_sec=192,
        source=_PRODUCTS + "rtx-a1000/",
    ),
    Device(
        name="RTX A2000",
        reported=("RTX A2000",),
        sparse={"float16": 63.9},
        architecture=AMPERE,
        units=26,
        clock_ghz=1.2,
        memory_gb=6,
        bandwidth_gb_per_sec=288,
        source=_PRODUCTS + "rtx-a2000/",
    ),
    Device(
        name="RTX A2000 12GB",
        reported=("RTX A2000 12GB",),
        sparse={"float16": 63.9},
        architecture=AMPERE,
        units=26,
        clock_ghz=1.2,
        memory_gb=12,
        bandwidth_gb_per_sec=288,
        source=_PRODUCTS + "rtx-a2000/",
    ),
    Device(
        name="RTX A4000",
        reported=("RTX A4000",),
        dense={"float32": 19.2},
        sparse={"float16": 153.4},
        architecture=AMPERE,
        units=48,
        clock_ghz=1.56,
        memory_gb=16,
        bandwidth_gb_per_sec=448,
        source=_PRODUCTS + "rtx-a4000/",
    ),
    Device(
        name="RTX A4500",
        reported=("RTX A4500",),
        dense={"float32": 23.7},
        sparse={"float16": 189.2},
        architecture=AMPERE,
        units=56,
        clock_ghz=1.65,
        memory_gb=20,
        bandwidth_gb_per_sec=640,
        source=_PRODUCTS + "rtx-a4500/",
    ),
    Device(
        name="RTX A5000",
        reported=("RTX A5000",),
        dense={"float32": 27.8},
        sparse={"float16": 222.2},
        architecture=AMPERE,
        units=64,
        clock_ghz=1.695,
        memory_gb=24,
        bandwidth_gb_per_sec=768,
        source=_PRODUCTS + "rtx-a5000/",
    ),
    Device(
        name="RTX A5500",
        reported=("RTX A5500",),
        dense={"float32": 34.1},
        sparse={"float16": 272.8},
        architecture=AMPERE,
        units=80,
        clock_ghz=1.665,
        memory_gb=24,
        bandwidth_gb_per_sec=768,
        source=_RTX_A5500,
    ),
    Device(
        name="RTX A6000",
        reported=("RTX A6000",),
        dense={"float32": 38.7, "float16": 154.8, "bfloat16": 154.8, "int8": 309.7},
        architecture=AMPERE,
        units=84,
        clock_ghz=1.8,
        memory_gb=48,
        bandwidth_gb_per_sec=768,
        source=AMPERE.source,
    ),
)
