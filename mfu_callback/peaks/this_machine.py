"""What the drivers of this machine say of its devices."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import psutil
import torch


def device_name(device: torch.device | str) -> str:
    """The name that the driver reports, or the machine's name of its processor with the threads that torch uses.

    Args:
        device: The device.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return f"{_processor_name()}, {torch.get_num_threads()} threads"
    if device.type == "mps":
        return str(torch.backends.mps.get_name())
    if device.type == "xla":
        return _tpu_name() or "xla"
    try:
        return str(torch.get_device_module(device).get_device_name(device))  # cuda, ROCm, xpu, hpu
    except (AttributeError, RuntimeError):
        return device.type


def multiprocessors(device: torch.device | str) -> int | None:
    """How many streaming multiprocessors, compute units or cores the driver reports; None where it does not.

    Args:
        device: The device.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    if device.type == "xpu":
        return int(torch.xpu.get_device_properties(device).gpu_subslice_count)
    return None


def cores() -> int:
    """How many cores this process may run on."""
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1


def _tpu_name() -> str | None:
    """Which TPU it is, as the machine's metadata has it: "TPU v5litepod"."""
    try:
        from torch_xla._internal import tpu

        environment = tpu.get_tpu_env()
        return f"TPU {environment.get('TYPE') or environment['ACCELERATOR_TYPE'].split('-')[0]}"
    except Exception:  # not a TPU, no metadata, or another version of torch_xla
        return None


@cache
def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # Linux; platform.processor() says only "x86_64" there
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, None) or platform.processor() or platform.machine()
