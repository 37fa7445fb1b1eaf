"""Dense peak rates from datasheets, one row a device.

Add a device by adding a row: the tokens of the name that the driver reports (see `find.py`), its dense rates in
TFLOP/s by dtype, and where they are written. Tensor-core rates where there are tensor cores, with accumulation in
fp32, which is what training uses. A dtype that the source does not give is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device's rates.

    Attributes:
        name: The device as its vendor names it.
        tokens: The words of the reported name that tell this device from all others; one set for each spelling.
        tflops_per_sec: Dense rates in 1e12 FLOP/s by the name of the dtype; "tf32" is fp32 on the tensor cores.
        source: The URL of the vendor's datasheet or whitepaper.
    """

    name: str
    tokens: tuple[frozenset[str], ...]
    tflops_per_sec: dict[str, float] = field(hash=False)
    source: str


def _names(*spellings: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(spelling.split()) for spelling in spellings)


_HOPPER = "https://resources.nvidia.com/en-us-tensor-core/gtc22-whitepaper-hopper"
_H100 = "https://www.nvidia.com/en-us/data-center/h100/"
_A100 = (
    "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/"
    "nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"
)
_L4 = "https://www.nvidia.com/en-us/data-center/l4/"
_T4 = "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/tesla-t4/t4-tensor-core-datasheet-951643.pdf"
_A10G = "https://d1.awsstatic.com/product-marketing/ec2/NVIDIA_AWS_A10G_DataSheet_FINAL_02_17_2022.pdf"
_GA102 = "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.1.pdf"

DEVICES: tuple[Device, ...] = (
    Device(
        name="H100 SXM",
        tokens=_names("h100 hbm3", "h100 sxm5"),
        # The data sheet prints the tensor-core rates with sparsity: 989, 1,979 and 1,979; half of that is dense.
        tflops_per_sec={"float64": 67, "float32": 67, "tf32": 494.5, "float16": 989.5, "bfloat16": 989.5},
        source=_H100,
    ),
    Device(
        name="H100 PCIe",
        tokens=_names("h100 pcie"),
        tflops_per_sec={"float64": 51.2, "float32": 51.2, "tf32": 378, "float16": 756, "bfloat16": 756},
        source=_HOPPER,
    ),
    Device(
        name="H100 NVL",
        tokens=_names("h100 nvl"),
        # With sparsity: 835, 1,671 and 1,671.
        tflops_per_sec={"float64": 60, "float32": 60, "tf32": 417.5, "float16": 835.5, "bfloat16": 835.5},
        source=_H100,
    ),
    Device(
        name="A100",
        tokens=_names("a100 sxm4", "a100 pcie", "a100 pg509 200"),
        tflops_per_sec={"float64": 19.5, "float32": 19.5, "tf32": 156, "float16": 312, "bfloat16": 312},
        source=_A100,
    ),
    Device(
        name="A10G",
        tokens=_names("a10g"),
        tflops_per_sec={"float32": 35, "tf32": 35, "float16": 70, "bfloat16": 70},
        source=_A10G,
    ),
    Device(
        name="L4",
        tokens=_names("l4"),
        # With sparsity: 120, 242 and 242.
        tflops_per_sec={"float32": 30.3, "tf32": 60, "float16": 121, "bfloat16": 121},
        source=_L4,
    ),
    Device(
        name="T4",
        tokens=_names("t4"),
        tflops_per_sec={"float32": 8.1, "float16": 65},
        source=_T4,
    ),
    Device(
        name="GeForce RTX 3080",
        tokens=_names("rtx 3080"),
        tflops_per_sec={"float32": 29.8, "tf32": 29.8, "float16": 59.5, "bfloat16": 59.5},
        source=_GA102,
    ),
    Device(
        name="GeForce RTX 3090",
        tokens=_names("rtx 3090"),
        tflops_per_sec={"float32": 35.6, "tf32": 35.6, "float16": 71, "bfloat16": 71},
        source=_GA102,
    ),
)
