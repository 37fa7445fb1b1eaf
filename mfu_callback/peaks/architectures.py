"""What one unit of each family of devices does in a clock, from the vendors' whitepapers.

A multiply-accumulate counts 2. Tensor-core rates are dense and accumulate in fp32, which is what training uses: half
of the rate with accumulation in fp16 on GeForce, the same on the data centre's and the workstations' devices.
"""

from __future__ import annotations

from mfu_callback.peaks.device import Architecture

_PASCAL = "https://images.nvidia.com/content/pdf/tesla/whitepaper/pascal-architecture-whitepaper.pdf"
_VOLTA = "https://images.nvidia.com/content/volta-architecture/pdf/volta-architecture-whitepaper.pdf"
_TURING = (
    "https://images.nvidia.com/aem-dam/en-zz/Solutions/design-visualization/technologies/turing-architecture/"
    "NVIDIA-Turing-Architecture-Whitepaper.pdf"
)
_A100 = "https://images.nvidia.com/aem-dam/en-zz/Solutions/data-center/nvidia-ampere-architecture-whitepaper.pdf"
_GA102 = "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.1.pdf"
_HOPPER = "https://resources.nvidia.com/en-us-tensor-core/gtc22-whitepaper-hopper"
_ADA = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
_RTX_BLACKWELL = (
    "https://images.nvidia.com/aem-dam/Solutions/geforce/blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf"
)
_RTX_BLACKWELL_PRO = (
    "https://www.nvidia.com/content/dam/en-zz/Solutions/design-visualization/quadro-product-literature/pdf/"
    "NVIDIA-RTX-Blackwell-PRO-GPU-Architecture-v1_1.pdf"
)

PASCAL_GP100 = Architecture(
    name="Pascal (GP100)", flops_per_clock={"float64": 64, "float32": 128, "float16": 256}, source=_PASCAL
)
VOLTA = Architecture(name="Volta", flops_per_clock={"float64": 64, "float32": 128, "float16": 1024}, source=_VOLTA)
TURING_GEFORCE = Architecture(
    name="Turing (GeForce)",
    flops_per_clock={"float64": 4, "float32": 128, "float16": 512, "int8": 2048},
    source=_TURING,
)
TURING = Architecture(
    name="Turing", flops_per_clock={"float64": 4, "float32": 128, "float16": 1024, "int8": 2048}, source=_TURING
)
AMPERE_GA100 = Architecture(
    name="Ampere (GA100)",
    flops_per_clock={"float64": 128, "float32": 128, "tf32": 1024, "float16": 2048, "bfloat16": 2048, "int8": 4096},
    source=_A100,
)
AMPERE_GEFORCE = Architecture(
    name="Ampere (GeForce)",
    flops_per_clock={"float64": 4, "float32": 256, "tf32": 256, "float16": 512, "bfloat16": 512, "int8": 2048},
    source=_GA102,
)
AMPERE = Architecture(
    name="Ampere (GA10x)",
    flops_per_clock={"float64": 4, "float32": 256, "tf32": 512, "float16": 1024, "bfloat16": 1024, "int8": 2048},
    source=_GA102,
)
HOPPER = Architecture(
    name="Hopper",
    flops_per_clock={
        "float64": 256,
        "float32": 256,
        "tf32": 2048,
        "float16": 4096,
        "bfloat16": 4096,
        "float8": 8192,
        "int8": 8192,
    },
    source=_HOPPER,
)
ADA_GEFORCE = Architecture(
    name="Ada (GeForce)",
    flops_per_clock={
        "float64": 4,
        "float32": 256,
        "tf32": 256,
        "float16": 512,
        "bfloat16": 512,
        "float8": 1024,
        "int8": 2048,
    },
    source=_ADA,
)
ADA = Architecture(
    name="Ada",
    flops_per_clock={
        "float64": 4,
        "float32": 256,
        "tf32": 512,
        "float16": 1024,
        "bfloat16": 1024,
        "float8": 2048,
        "int8": 2048,
    },
    source=_ADA,
)
# Its fp8 is not given: half of its int8 with plain instructions, by the whitepaper, and all of it with block scaling.
BLACKWELL_GEFORCE = Architecture(
    name="Blackwell (GeForce)",
    flops_per_clock={
        "float64": 4,
        "float32": 256,
        "tf32": 256,
        "float16": 512,
        "bfloat16": 512,
        "int8": 2048,
    },
    source=_RTX_BLACKWELL,
)
BLACKWELL_PRO = Architecture(
    name="Blackwell (RTX PRO)",
    flops_per_clock={
        "float64": 4,
        "float32": 256,
        "tf32": 512,
        "float16": 1024,
        "bfloat16": 1024,
        "float8": 2048,
        "int8": 2048,
    },
    source=_RTX_BLACKWELL_PRO,
)
# Turing's smallest chip has no tensor cores. Its fp16 is not given: twice its fp32, but with accumulation in fp16.
TURING_TU117 = Architecture(
    name="Turing (TU117)",
    flops_per_clock={"float64": 4, "float32": 128},
    source="https://docs.nvidia.com/cuda/cuda-c-programming-guide/#arithmetic-instructions",
)
