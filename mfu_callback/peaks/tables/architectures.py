"""The FLOPs per clock of one unit in each family of devices, from the vendors' whitepapers.

A multiply-accumulate counts as 2. Tensor-core rates are dense and with accumulation in fp32, which training uses. On
GeForce cards this is half of the rate with accumulation in fp16; on data-center and workstation devices the two are
equal.
"""

from __future__ import annotations

from dataclasses import replace

from mfu_callback.peaks.tables.device import Architecture

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
# No fp8: by the whitepaper it is half of the int8 rate with plain instructions, but with block scaling it is equal.
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
BLACKWELL_PRO = replace(ADA, name="Blackwell (RTX PRO)", source=_RTX_BLACKWELL_PRO)
# Turing's smallest chip has no tensor cores. No fp16: its rate is twice that of fp32, but accumulates in fp16.
TURING_TU117 = Architecture(
    name="Turing (TU117)",
    flops_per_clock={"float64": 4, "float32": 128},
    source="https://docs.nvidia.com/cuda/cuda-c-programming-guide/#arithmetic-instructions",
)

# AMD's rates are per compute unit (CU), and those of the matrix cores if the family has them for the dtype.
_CDNA = "https://www.amd.com/content/dam/amd/en/documents/instinct-business-docs/white-papers/amd-cdna-white-paper.pdf"
_CDNA_2 = (
    "https://www.amd.com/content/dam/amd/en/documents/instinct-business-docs/white-papers/amd-cdna2-white-paper.pdf"
)
_CDNA_3 = "https://www.amd.com/content/dam/amd/en/documents/instinct-tech-docs/white-papers/amd-cdna-3-white-paper.pdf"
_CDNA_4 = (
    "https://www.amd.com/content/dam/amd/en/documents/instinct-tech-docs/white-papers/"
    "amd-cdna-4-architecture-whitepaper.pdf"
)
_RDNA = "https://gpuopen.com/learn/using_matrix_core_amd_rdna4"
_XE = "https://www.intel.com/content/www/us/en/docs/oneapi/optimization-guide-gpu/2025-0/intel-xe-gpu-architecture.html"

CDNA = Architecture(
    name="CDNA",
    flops_per_clock={"float64": 64, "float32": 256, "float16": 1024, "bfloat16": 512, "int8": 1024},
    source=_CDNA,
    unit="CUs",
)
CDNA_2 = Architecture(
    name="CDNA 2",
    flops_per_clock={"float64": 256, "float32": 256, "float16": 1024, "bfloat16": 1024, "int8": 1024},
    source=_CDNA_2,
    unit="CUs",
)
CDNA_3 = Architecture(
    name="CDNA 3",
    flops_per_clock={
        "float64": 256,
        "float32": 256,
        "tf32": 1024,
        "float16": 2048,
        "bfloat16": 2048,
        "float8": 4096,
        "int8": 4096,
    },
    source=_CDNA_3,
    unit="CUs",
    is_divisible=True,
)
# CDNA 4 has no tf32: libraries compute it as several bf16 matmuls, at a rate that no source prints.
CDNA_4 = Architecture(
    name="CDNA 4",
    flops_per_clock={
        "float64": 128,
        "float32": 256,
        "float16": 4096,
        "bfloat16": 4096,
        "float8": 8192,
        "int8": 8192,
    },
    source=_CDNA_4,
    unit="CUs",
    is_divisible=True,
    composes_tf32=True,
)
# The multiprocessors that ROCm reports for RDNA are workgroup processors (WGPs) of two CUs.
RDNA_3 = Architecture(
    name="RDNA 3",
    flops_per_clock={"float64": 16, "float32": 512, "float16": 1024, "bfloat16": 1024, "int8": 1024},
    source=_RDNA,
    unit="WGPs",
)
RDNA_4 = Architecture(
    name="RDNA 4",
    flops_per_clock={
        "float64": 16,
        "float32": 512,
        "float16": 2048,
        "bfloat16": 2048,
        "float8": 4096,
        "int8": 4096,
    },
    source=_RDNA,
    unit="WGPs",
)
# A card with two stacks is two devices, or one with twice the Xe-cores. Some have an eighth of the cores switched off.
XE_HPC = Architecture(
    name="Xe-HPC",
    flops_per_clock={
        "float64": 256,
        "float32": 256,
        "tf32": 2048,
        "float16": 4096,
        "bfloat16": 4096,
        "int8": 8192,
    },
    source=_XE,
    unit="Xe-cores",
    is_divisible=True,
    most_together=2,
)
XE2_HPG = Architecture(
    name="Xe2-HPG",
    flops_per_clock={"float32": 256, "float16": 2048, "bfloat16": 2048, "int8": 4096},
    source=_XE,
    unit="Xe-cores",
)
