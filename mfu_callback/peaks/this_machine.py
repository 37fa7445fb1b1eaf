"""Names and sizes of this machine's devices, as their drivers report them."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import psutil
import torch

from mfu_callback.tools.torch_features import say_missing

# Environment variables that limit the instructions of ATen, oneDNN and MKL.
_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


def device_name(device: torch.device | str) -> str:
    """The name that the driver reports; for a CPU the processor's name and the number of torch's threads.

    Args:
        device: The device.
    """
    device = torch.device(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"{_processor_name()}, {threads} thread{'' if threads == 1 else 's'}"
    if device.type == "mps":
        return _mac_gpu_name()
    if device.type == "xla":
        return _tpu_name() or "xla"
    try:
        return str(torch.get_device_module(device).get_device_name(device))  # cuda, ROCm, xpu, hpu
    except (AttributeError, RuntimeError):
        return device.type


def _mac_gpu_name() -> str:
    get_name = getattr(torch.backends.mps, "get_name", None)
    if get_name is None:
        say_missing("torch.backends.mps.get_name")
        return "mps"
    return str(get_name())


def multiprocessors(device: torch.device | str) -> int | None:
    """The number of streaming multiprocessors, compute units or cores; None if the driver does not report it.

    Args:
        device: The device.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    if device.type == "xpu":
        return int(torch.xpu.get_device_properties(device).gpu_subslice_count)
    return None


def usable_cores() -> float:
    """The number of cores that this process is given at a time: those it may run on, or its quota if that is less."""
    return min([float(cores()), *_quotas()])


def _quotas(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[float]:
    """The quotas in cores of this process's control groups (version 2), which containers set."""
    try:
        group = own.read_text().strip().rpartition("::/")[2]
        directory = root / group
        quotas = [
            file.read_text().split() for one in (directory, *directory.parents) if (file := one / "cpu.max").exists()
        ]
        return [int(quota) / int(period) for quota, period in quotas if quota != "max"]
    except (OSError, ValueError):
        return []


def cores() -> int:
    """The number of cores that this process may run on."""
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1


@cache
def instruction_sets() -> str:
    """What decides which instructions a CPU's matmuls use: torch's capability, the processor's flags, the limits set.

    Processors of one name differ in their flags ("AMD EPYC" with and without AVX-512), and environment variables limit
    what the libraries use of them.
    """
    flags = [flag for flag in _processor_flags() if flag.startswith(("avx", "amx", "sve", "asimd", "i8mm", "bf16"))]
    limits = [f"{name}={os.environ[name]}" for name in _LIMITS if name in os.environ]
    return " ".join([torch.backends.cpu.get_cpu_capability(), *sorted(flags), *limits])


def _tpu_name() -> str | None:
    """The TPU's name from the machine's metadata, such as "TPU v5litepod"; None if it cannot be read."""
    try:
        from torch_xla._internal import tpu

        environment = tpu.get_tpu_env()
        return f"TPU {environment.get('TYPE') or environment['ACCELERATOR_TYPE'].split('-')[0]}"
    except Exception:  # not a TPU, no metadata, or another version of torch_xla
        return None


@cache
def _processor_name() -> str:
    # On Linux platform.processor() returns only "x86_64".
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _processor_flags() -> list[str]:
    return (_cpuinfo("flags") or _cpuinfo("Features") or "").split()


def _cpuinfo(name: str) -> str | None:
    """The first value of a name in /proc/cpuinfo; None where there is none."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), None)
