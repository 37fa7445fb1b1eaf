"""NVIDIA's workstation cards of Ada and Blackwell."""

from __future__ import annotations

from mfu_callback.peaks.tables.architectures import ADA, BLACKWELL_PRO
from mfu_callback.peaks.tables.device import Device

_PRODUCTS = "https://www.nvidia.com/en-us/products/workstations/"
_RTX_PRO_5000 = (
    "https://www.nvidia.com/content/dam/en-zz/Solutions/products/workstations/professional-desktop-gpus/"
    "rtx-pro-5000-blackwell/workstation-datasheet-blackwell-rtx-pro-5000-gtc25-spring-nvidia-3658700.pdf"
)
_RTX_PRO_5000_72GB = "https://blogs.nvidia.com/blog/rtx-pro-5000-72gb-blackwell-gpu/"
_RTX_PRO_6000_SERVER = "https://www.nvidia.com/en-us/data-center/rtx-pro-6000-blackwell-server-edition/"


# What a page of Ada's cards calls tensor performance is fp8 with sparsity. For Blackwell's it is AI TOPS, fp4 with
# sparsity: 8192 in a clock and SM, from which comes the clock of the RTX PRO 4000 SFF, 4500 and 5000.
# The RTX 6000D is missing: no source tells whether its tensor cores are slowed like those of the RTX 5090 D.
WORKSTATION: tuple[Device, ...] = (
    Device(
        name="RTX 2000 Ada Generation",
        reported=("RTX 2000 Ada Generation",),
        sparse={"float8": 191.9},
        architecture=ADA,
        units=22,
        clock_ghz=2.13,
        memory_gb=16,
        bandwidth_gb_per_sec=224,
        source=_PRODUCTS + "rtx-2000/",
    ),
    Device(
        name="RTX 4000 SFF Ada Generation",
        reported=("RTX 4000 SFF Ada Generation",),
        dense={"float32": 19.2},
        sparse={"float8": 306.8},
        architecture=ADA,
        units=48,
        clock_ghz=1.56,
        memory_gb=20,
        bandwidth_gb_per_sec=280,
        source=_PRODUCTS + "rtx-4000-sff/",
    ),
    # Its tensor performance is printed as 327.6 TFLOP/s: 427.6 follow from its clock, as from its fp32 rate.
    Device(
        name="RTX 4000 Ada Generation",
        reported=("RTX 4000 Ada Generation",),
        dense={"float32": 26.7},
        architecture=ADA,
        units=48,
        clock_ghz=2.175,
        memory_gb=20,
        bandwidth_gb_per_sec=360,
        source=_PRODUCTS + "rtx-4000/",
    ),
    Device(
        name="RTX 4500 Ada Generation",
        reported=("RTX 4500 Ada Generation",),
        dense={"float32": 39.6},
        sparse={"float8": 634.0},
        architecture=ADA,
        units=60,
        clock_ghz=2.58,
        memory_gb=24,
        bandwidth_gb_per_sec=432,
        source=_PRODUCTS + "rtx-4500/",
    ),
    Device(
        name="RTX 5000 Ada Generation",
        reported=("RTX 5000 Ada Generation",),
        dense={"float32": 65.3},
        sparse={"float8": 1044.4},
        architecture=ADA,
        units=100,
        clock_ghz=2.55,
        memory_gb=32,
        bandwidth_gb_per_sec=576,
        source=_PRODUCTS + "rtx-5000/",
    ),
    Device(
        name="RTX 5880 Ada Generation",
        reported=("RTX 5880 Ada Generation",),
        dense={"float32": 69.3},
        sparse={"float8": 1108.4},
        architecture=ADA,
        units=110,
        clock_ghz=2.46,
        memory_gb=48,
        source=_PRODUCTS + "rtx-5880/",
    ),
    Device(
        name="RTX 6000 Ada Generation",
        reported=("RTX 6000 Ada Generation",),
        dense={"float32": 91.1},
        sparse={"float8": 1457.0},
        architecture=ADA,
        units=142,
        clock_ghz=2.505,
        memory_gb=48,
        bandwidth_gb_per_sec=960,
        source=_PRODUCTS + "rtx-6000/",
    ),
    Device(
        name="RTX PRO 2000 Blackwell",
        reported=("RTX PRO 2000 Blackwell",),
        architecture=BLACKWELL_PRO,
        units=34,
        clock_ghz=1.957,
        memory_gb=16,
        bandwidth_gb_per_sec=288,
        source=_PRODUCTS + "professional-desktop-gpus/rtx-pro-2000/",
    ),
    Device(
        name="RTX PRO 4000 Blackwell SFF Edition",
        reported=("RTX PRO 4000 Blackwell SFF Edition",),
        architecture=BLACKWELL_PRO,
        units=70,
        clock_ghz=1.343,
        memory_gb=24,
        bandwidth_gb_per_sec=432,
        source=_PRODUCTS + "professional-desktop-gpus/rtx-pro-4000-sff/",
    ),
    Device(
        name="RTX PRO 4000 Blackwell",
        reported=("RTX PRO 4000 Blackwell",),
        architecture=BLACKWELL_PRO,
        units=70,
        clock_ghz=2.055,
        memory_gb=24,
        bandwidth_gb_per_sec=672,
        source=_PRODUCTS + "professional-desktop-gpus/rtx-pro-4000/",
    ),
    Device(
        name="RTX PRO 4500 Blackwell",
        reported=("RTX PRO 4500 Blackwell",),
        architecture=BLACKWELL_PRO,
        units=82,
        clock_ghz=2.511,
        memory_gb=32,
        bandwidth_gb_per_sec=896,
        source=_PRODUCTS + "professional-desktop-gpus/rtx-pro-4500/",
    ),
    Device(
        name="RTX PRO 5000 Blackwell",
        reported=("RTX PRO 5000 Blackwell",),
        dense={"float32": 65},
        architecture=BLACKWELL_PRO,
        units=110,
        clock_ghz=2.29,
        memory_gb=48,
        bandwidth_gb_per_sec=1344,
        source=_RTX_PRO_5000,
    ),
    Device(
        name="RTX PRO 5000 72GB Blackwell",
        reported=("RTX PRO 5000 72GB Blackwell",),
        architecture=BLACKWELL_PRO,
        units=110,
        clock_ghz=2.377,
        memory_gb=72,
        bandwidth_gb_per_sec=1344,
        source=_RTX_PRO_5000_72GB,
    ),
    Device(
        name="RTX PRO 6000 Blackwell Workstation Edition",
        reported=("RTX PRO 6000 Blackwell Workstation Edition",),
        dense={"float32": 126.0, "tf32": 251.9, "float16": 503.8, "bfloat16": 503.8, "float8": 1007.6, "int8": 1007.6},
        architecture=BLACKWELL_PRO,
        units=188,
        clock_ghz=2.617,
        memory_gb=96,
        bandwidth_gb_per_sec=1792,
        source=BLACKWELL_PRO.source,
    ),
    Device(
        name="RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        reported=("RTX PRO 6000 Blackwell Max-Q Workstation Edition",),
        dense={"float32": 109.7, "float16": 438.9, "bfloat16": 438.9},
        architecture=BLACKWELL_PRO,
        units=188,
        clock_ghz=2.28,
        memory_gb=96,
        bandwidth_gb_per_sec=1792,
        source=BLACKWELL_PRO.source,
    ),
    # The page rounds the other rates to one or two digits, such as 1 PFLOP/s at fp16 with sparsity.
    Device(
        name="RTX PRO 6000 Blackwell Server Edition",
        reported=("RTX PRO 6000 Blackwell Server Edition",),
        dense={"tf32": 234},
        architecture=BLACKWELL_PRO,
        units=188,
        clock_ghz=2.43,
        memory_gb=96,
        bandwidth_gb_per_sec=1597,
        source=_RTX_PRO_6000_SERVER,
    ),
)
