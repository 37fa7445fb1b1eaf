"""NVIDIA's data-center devices, from Pascal on."""

from __future__ import annotations

from dataclasses import replace

from mfu_callback.peaks.tables.architectures import ADA, AMPERE, AMPERE_GA100, HOPPER, PASCAL_GP100, TURING, VOLTA
from mfu_callback.peaks.tables.device import Device

_P100_SHEET = "https://www.nvidia.com/en-us/data-center/tesla-p100/"
_P40 = "https://images.nvidia.com/content/pdf/tesla/184427-Tesla-P40-Datasheet-NV-Final-Letter-Web.pdf"
_P4 = "https://images.nvidia.com/content/pdf/tesla/184457-Tesla-P4-Datasheet-NV-Final-Letter-Web.pdf"
_V100_SHEET = "https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf"
_DGX_2 = "https://www.nvidia.com/en-us/data-center/dgx-2/"
_DGX_STATION = "https://www.nvidia.com/en-us/data-center/dgx-station/"
_T4 = "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/tesla-t4/t4-tensor-core-datasheet-951643.pdf"
_A100_SHEET = (
    "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/"
    "nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"
)
# NVIDIA's page of the A800 is gone. A cloud provider has a copy of its table.
_A800_SHEET = "https://www.ctyun.cn/developer/article/437601152262213"
_A800_ACTIVE = "https://www.nvidia.com/en-us/products/workstations/a800/"
_A30 = "https://www.nvidia.com/en-us/data-center/products/a30-gpu/"
_A40 = "https://www.nvidia.com/en-us/data-center/a40/"
_A16 = "https://www.nvidia.com/en-us/data-center/products/a16-gpu/"
_A10 = "https://www.nvidia.com/en-us/data-center/products/a10-gpu/"
_A10G = "https://d1.awsstatic.com/product-marketing/ec2/NVIDIA_AWS_A10G_DataSheet_FINAL_02_17_2022.pdf"
_A2 = "https://www.nvidia.com/en-us/data-center/products/a2/"
_L4 = "https://www.nvidia.com/en-us/data-center/l4/"
_L40 = "https://www.nvidia.com/en-us/data-center/l40/"
_L40S = "https://www.nvidia.com/en-us/data-center/l40s/"
# NVIDIA has no page for the L20, L2 and H20. A cloud provider prints the L20's rates; the press printed the table that
# NVIDIA gave to its customers.
_L20 = "https://www.alibabacloud.com/help/zh/egs/gpu-accelerated-compute-optimized-instance-families"
_CUSTOMERS_TABLE = "https://www.tomshardware.com/news/no-nvidia-isnt-breaking-gpu-sanctions-analyst"
_H100 = "https://www.nvidia.com/en-us/data-center/h100/"
_H200 = "https://www.nvidia.com/en-us/data-center/h200/"
_GH200 = "https://resources.nvidia.com/en-us-grace-cpu/grace-hopper-superchip"
_HGX = "https://www.nvidia.com/en-us/data-center/hgx/"
_GB200 = "https://www.nvidia.com/en-us/data-center/gb200-nvl72/"
_BLACKWELL_ULTRA = "https://resources.nvidia.com/en-us-blackwell-architecture/blackwell-ultra-datasheet"

_P100_PCIE = Device(
    name="P100 PCIe 16GB",
    reported=("P100-PCIE-16GB",),
    dense={"float64": 4.7, "float32": 9.3, "float16": 18.7},
    architecture=PASCAL_GP100,
    units=56,
    clock_ghz=1.303,
    memory_gb=16,
    bandwidth_gb_per_sec=732,
    source=_P100_SHEET,
)
_V100_SXM2 = Device(
    name="V100 SXM2 16GB",
    reported=("V100-SXM2-16GB",),
    dense={"float64": 7.8, "float32": 15.7, "float16": 125},
    architecture=VOLTA,
    units=80,
    clock_ghz=1.53,
    memory_gb=16,
    bandwidth_gb_per_sec=900,
    source=_V100_SHEET,
)
_V100_SXM3 = replace(
    _V100_SXM2,
    name="V100 SXM3 32GB",
    reported=("V100-SXM3-32GB",),
    dense={"float16": 2000 / 16},  # a DGX-2 has 16 and is rated 2 PFLOP/s; no other rate is printed
    memory_gb=32,
    bandwidth_gb_per_sec=None,
    source=_DGX_2,
)
_V100_PCIE = Device(
    name="V100 PCIe 16GB",
    reported=("V100-PCIE-16GB",),
    dense={"float64": 7, "float32": 14, "float16": 112},
    architecture=VOLTA,
    units=80,
    clock_ghz=1.38,
    memory_gb=16,
    bandwidth_gb_per_sec=900,
    source=_V100_SHEET,
)
_A100 = Device(
    name="A100 SXM4 40GB",
    reported=("A100-SXM4-40GB",),
    dense={"float64": 19.5, "float32": 19.5, "tf32": 156, "float16": 312, "bfloat16": 312, "int8": 624},
    architecture=AMPERE_GA100,
    units=108,
    clock_ghz=1.41,
    memory_gb=40,
    bandwidth_gb_per_sec=1555,
    source=_A100_SHEET,
)
# The A800 is an A100 with a slower NVLink.
_A800 = replace(_A100, name="A800 SXM4 40GB", reported=("A800-SXM4-40GB",), source=_A800_SHEET)
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
    source=_CUSTOMERS_TABLE,
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

NVIDIA_DATA_CENTER: tuple[Device, ...] = (
    replace(
        _P100_PCIE,
        name="P100 SXM2",
        reported=("P100-SXM2-16GB",),
        dense={"float64": 5.3, "float32": 10.6, "float16": 21.2},
        clock_ghz=1.48,
    ),
    _P100_PCIE,
    replace(_P100_PCIE, name="P100 PCIe 12GB", reported=("P100-PCIE-12GB",), memory_gb=12, bandwidth_gb_per_sec=549),
    # No fp16: the P40 and P4 compute it at 1/64 of the fp32 rate.
    Device(
        name="P40",
        reported=("P40",),
        dense={"float32": 12, "int8": 47},
        memory_gb=24,
        bandwidth_gb_per_sec=346,
        source=_P40,
    ),
    Device(
        name="P4",
        reported=("P4",),
        dense={"float32": 5.5, "int8": 22},
        memory_gb=8,
        bandwidth_gb_per_sec=192,
        source=_P4,
    ),
    _V100_SXM2,
    replace(_V100_SXM2, name="V100 SXM2 32GB", reported=("V100-SXM2-32GB",), memory_gb=32),
    _V100_SXM3,
    # A DGX-2H has 16 of its 450 W version and is rated 2.1 PFLOP/s.
    replace(
        _V100_SXM3,
        name="V100 SXM3 32GB (DGX-2H)",
        reported=("V100-SXM3-32GB-H",),
        dense={"float16": 2100 / 16},
        clock_ghz=1.597,
    ),
    # A DGX Station has four and is rated 0.5 PFLOP/s.
    replace(_V100_SXM3, name="V100 DGX Station 32GB", reported=("V100-DGXS-32GB",), source=_DGX_STATION),
    _V100_PCIE,
    replace(_V100_PCIE, name="V100 PCIe 32GB", reported=("V100-PCIE-32GB",), memory_gb=32),
    replace(
        _V100_PCIE,
        name="V100S PCIe",
        reported=("V100S-PCIE-32GB",),
        dense={"float64": 8.2, "float32": 16.4, "float16": 130},
        clock_ghz=1.597,
        memory_gb=32,
        bandwidth_gb_per_sec=1134,
    ),
    # NVIDIA no longer prints its rates. They are derived from the boost clock in TechPowerUp's database.
    replace(
        _V100_PCIE, name="V100 FHHL", reported=("V100-FHHL-16GB",), dense={}, clock_ghz=1.29, bandwidth_gb_per_sec=None
    ),
    Device(
        name="T4",
        reported=("T4",),
        dense={"float32": 8.1, "float16": 65, "int8": 130},
        architecture=TURING,
        units=40,
        clock_ghz=1.59,
        memory_gb=16,
        bandwidth_gb_per_sec=320,
        source=_T4,
    ),
    _A100,
    replace(_A100, name="A100 SXM4 40GB (PG509)", reported=("A100-PG509-200",)),
    replace(_A100, name="A100 SXM4 80GB", reported=("A100-SXM4-80GB",), memory_gb=80, bandwidth_gb_per_sec=2039),
    replace(_A100, name="A100 PCIe 40GB", reported=("A100-PCIE-40GB",)),
    replace(_A100, name="A100 PCIe 80GB", reported=("A100 80GB PCIe",), memory_gb=80, bandwidth_gb_per_sec=1935),
    _A800,
    replace(_A800, name="A800 SXM4 80GB", reported=("A800-SXM4-80GB",), memory_gb=80, bandwidth_gb_per_sec=2039),
    replace(
        _A800,
        name="A800 PCIe 80GB",
        reported=("A800 80GB PCIe", "A800 80GB PCIe LC"),
        memory_gb=80,
        bandwidth_gb_per_sec=1935,
    ),
    replace(
        _A800,
        name="A800 40GB Active",
        reported=("A800 40GB Active",),
        dense={"float32": 19.5},
        sparse={"float16": 623.8, "int8": 1247},
        source=_A800_ACTIVE,
    ),
    Device(
        name="A30",
        reported=("A30",),
        dense={"float64": 10.3, "float32": 10.3, "tf32": 82, "float16": 165, "bfloat16": 165, "int8": 330},
        architecture=AMPERE_GA100,
        units=56,
        clock_ghz=1.44,
        memory_gb=24,
        bandwidth_gb_per_sec=933,
        source=_A30,
    ),
    Device(
        name="A40",
        reported=("A40",),
        dense={"float32": 37.4, "tf32": 74.8, "float16": 149.7, "bfloat16": 149.7, "int8": 299.3},
        architecture=AMPERE,
        units=84,
        clock_ghz=1.74,
        memory_gb=48,
        bandwidth_gb_per_sec=696,
        source=_A40,
    ),
    # The device is one of the card's four GPUs.
    Device(
        name="A16",
        reported=("A16",),
        dense={"float32": 4.5, "tf32": 9, "float16": 17.9, "int8": 35.9},
        architecture=AMPERE,
        units=10,
        clock_ghz=1.755,
        memory_gb=16,
        bandwidth_gb_per_sec=200,
        source=_A16,
    ),
    Device(
        name="A10",
        reported=("A10",),
        dense={"float32": 31.2, "tf32": 62.5, "float16": 125, "bfloat16": 125, "int8": 250},
        architecture=AMPERE,
        units=72,
        clock_ghz=1.695,
        memory_gb=24,
        bandwidth_gb_per_sec=600,
        source=_A10,
    ),
    # The tensor cores of A10G, L20 and L40 are rated at half of their architecture's FLOPs per clock, also for int8.
    Device(
        name="A10G",
        reported=("A10G",),
        dense={"float32": 35, "tf32": 35, "float16": 70, "bfloat16": 70, "int8": 140},
        units=80,
        memory_gb=24,
        bandwidth_gb_per_sec=600,
        source=_A10G,
    ),
    Device(
        name="A2",
        reported=("A2",),
        dense={"float32": 4.5, "tf32": 9, "float16": 18, "bfloat16": 18, "int8": 36},
        architecture=AMPERE,
        units=10,
        clock_ghz=1.77,
        memory_gb=16,
        bandwidth_gb_per_sec=200,
        source=_A2,
    ),
    Device(
        name="L2",
        reported=("L2",),
        dense={"float32": 24.1, "tf32": 48.3, "float16": 96.5, "bfloat16": 96.5, "float8": 193, "int8": 193},
        memory_gb=24,
        bandwidth_gb_per_sec=300,
        source=_CUSTOMERS_TABLE,
    ),
    Device(
        name="L4",
        reported=("L4",),
        dense={"float32": 30.3},
        sparse={"tf32": 120, "float16": 242, "bfloat16": 242, "float8": 485, "int8": 485},
        architecture=ADA,
        units=58,
        clock_ghz=2.04,
        memory_gb=24,
        bandwidth_gb_per_sec=300,
        source=_L4,
    ),
    Device(
        name="L20",
        reported=("L20",),
        dense={"float32": 59.3, "float16": 119, "bfloat16": 119, "float8": 237, "int8": 237},
        units=92,
        memory_gb=48,
        bandwidth_gb_per_sec=864,
        source=_L20,
    ),
    Device(
        name="L40",
        reported=("L40",),
        dense={"float32": 90.5, "tf32": 90.5, "float16": 181.05, "bfloat16": 181.05, "float8": 362, "int8": 362},
        units=142,
        memory_gb=48,
        bandwidth_gb_per_sec=864,
        source=_L40,
    ),
    Device(
        name="L40S",
        reported=("L40S",),
        dense={"float32": 91.6, "tf32": 183, "float16": 362.05, "bfloat16": 362.05, "float8": 733, "int8": 733},
        architecture=ADA,
        units=142,
        clock_ghz=2.52,
        memory_gb=48,
        bandwidth_gb_per_sec=864,
        source=_L40S,
    ),
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
    # The H800's fp64 is cut and its tensor cores are not, so Hopper's FLOPs per clock do not apply to it.
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
    # The H20's printed rates are dense (148 is 15 % of the H100's 989). The same table gives 44 TFLOP/s for fp32. They
    # are left out: 78 SMs would have to run at 2.2 GHz, but their boost clock is 1.98 GHz.
    _H20_96GB,
    replace(
        _H20_96GB,
        name="H20 141GB",
        reported=("H20-3e",),
        memory_gb=141,
        bandwidth_gb_per_sec=None,
    ),
    # Before the HBM3e version, a GH200's name gives the CPU's memory (480 or 120 GB), not the GPU's 96 GB.
    _GH200_96GB,
    replace(
        _GH200_96GB,
        name="GH200 144GB",
        reported=("GH200 144G HBM3e",),
        memory_gb=144,
        bandwidth_gb_per_sec=4900,
    ),
    # NVIDIA revised Blackwell's rates: fp64 and fp32 were 40 and 80 for the B200, 45 and 90 for the GB200. These are
    # the later rates. The HGX page prints those of a board of eight GPUs, so they are divided by 8. The GB200's page
    # prints those of a superchip of two, so they are divided by 2.
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
    # Blackwell Ultra dropped most of its fp64 and int8 rates. The board's int8 is printed too coarsely (3 POP/s) to be
    # divided.
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
