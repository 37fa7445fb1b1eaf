"""All that is needed to quote a result: device, driver, clocks, processor, memory, versions, settings, command.

A row of `FACTS` is a line of the report. What cannot be found out says "unknown". The part on GPUs is not yet run on
hardware: it is written against the NVML API reference (https://docs.nvidia.com/deploy/nvml-api/).
"""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from mfu_callback.meter.device_memory import device_bytes
from mfu_callback.meter.gpu_state import GpuReading, gpu_of
from mfu_callback.peaks.this_machine import cores, device_name, instruction_sets, multiprocessors, usable_cores
from scripts.bench_parts.conditions import PACKAGES, command, revision, version_of

UNKNOWN = "unknown"
HIDDEN = "(not shown)"
# Names of environment variables that change how a result comes out, by their beginnings.
VARIABLES = (
    *("ATEN_", "CUBLAS", "CUDA_", "CUDNN_", "DNNL_", "GLOO_", "GOMP_", "HIP_", "KMP_", "MFU_CALLBACK", "MKL_", "NCCL_"),
    *("NVIDIA_TF32_OVERRIDE", "OMP_", "ONEDNN_", "PYTORCH_", "ROCR_", "TORCHINDUCTOR_", "TORCH_", "TRITON_"),
)
_SECRET_NAME = re.compile("TOKEN|SECRET|PASS|KEY|CREDENTIAL|AUTH|COOKIE|CERT|SIGN", re.IGNORECASE)
# A password in an address, and long runs of letters with digits that are no path, number or UUID.
_SECRET_VALUE = re.compile(r"://[^/\s]*@|(?=\w*\d)(?=\w*[A-Za-z])[A-Za-z0-9+=]{24,}")
_SM_CLOCK, _MEMORY_CLOCK = 1, 2  # NVML_CLOCK_SM, NVML_CLOCK_MEM
_NODES = Path("/sys/devices/system/node")


class Machine:
    """What the facts are asked of.

    Args:
        device: The device of the benchmark.
        nvml: The module ``pynvml``; None imports it.
        properties: Returns torch's properties of a GPU.

    Attributes:
        device: The device.
        reading: The state of the GPU.
    """

    def __init__(
        self,
        device: torch.device,
        nvml: Any = None,
        properties: Callable[[torch.device], Any] | None = None,
    ) -> None:
        self.device = device
        self._gpu = gpu_of(device, nvml, properties)
        self.reading = GpuReading() if self._gpu is None else self._gpu.read()

    def nvml(self, name: str, *arguments: Any) -> Any:
        """The answer of one of NVML's functions on the GPU; None if it has none."""
        return None if self._gpu is None else self._gpu.ask(name, *arguments)

    def system(self, name: str) -> Any:
        """The answer of one of NVML's functions that are not of one GPU; None if it has none."""
        return None if self._gpu is None else self._gpu.ask_system(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One line of the report.

    Attributes:
        section: Its section.
        name: What it is.
        ask: Finds it out; None or an exception is unknown.
    """

    section: str
    name: str
    ask: Callable[[Machine], Any]


def _facts(section: str, **asks: Callable[[Machine], Any]) -> tuple[Fact, ...]:
    return tuple(Fact(section=section, name=name.replace("_", " "), ask=ask) for name, ask in asks.items())


FACTS: tuple[Fact, ...] = (
    *_facts(
        "Run",
        command=lambda _: command(),
        date=lambda _: time.strftime("%Y-%m-%d %H:%M:%S %z"),
        revision=lambda _: revision(),
    ),
    *_facts(
        "Device",
        name=lambda machine: device_name(machine.device),
        memory=lambda machine: _gib(device_bytes(machine.device)),
        multiprocessors=lambda machine: multiprocessors(machine.device),
        driver=lambda machine: _text(machine.system("nvmlSystemGetDriverVersion")),
        CUDA_of_the_driver=lambda machine: _cuda_version(machine.system("nvmlSystemGetCudaDriverVersion")),
        clock=lambda machine: _mhz(machine.reading.clock_mhz),
        highest_clock=lambda machine: _mhz(machine.reading.max_clock_mhz),
        application_clock=lambda machine: _mhz(machine.nvml("nvmlDeviceGetApplicationsClock", _SM_CLOCK)),
        highest_memory_clock=lambda machine: _mhz(machine.nvml("nvmlDeviceGetMaxClockInfo", _MEMORY_CLOCK)),
        power_limit=lambda machine: _watts(machine.reading.power_limit_watts),
        temperature=lambda machine: _with_unit(machine.reading.temperature_celsius, "C"),
        persistence_mode=lambda machine: _on_or_off(machine.nvml("nvmlDeviceGetPersistenceMode")),
        MIG_mode=lambda machine: _on_or_off(_first(machine.nvml("nvmlDeviceGetMigMode"))),
        ECC_mode=lambda machine: _on_or_off(_first(machine.nvml("nvmlDeviceGetEccMode"))),
    ),
    *_facts(
        "Processor",
        name=lambda _: device_name("cpu"),
        instructions=lambda _: instruction_sets(),
        cores=lambda _: f"{cores()} of {psutil.cpu_count()} ({usable_cores():g} at a time)",
        NUMA_nodes=lambda _: len(list(_NODES.glob("node[0-9]*"))) or None,
        highest_clock=lambda _: _mhz(psutil.cpu_freq().max or None),
        memory=lambda _: _gib(device_bytes(torch.device("cpu"))),
        load=lambda _: ", ".join(f"{load:.2f}" for load in os.getloadavg()),
    ),
    *_facts(
        "Software",
        system=lambda _: platform.platform(),
        python=lambda _: platform.python_version(),
        **{name: lambda _, name=name: version_of(name) for name in PACKAGES},
        revision_of_torch=lambda _: torch.version.git_version,
        CUDA_of_torch=lambda _: torch.version.cuda,
        ROCm_of_torch=lambda _: torch.version.hip,
        cuDNN=lambda _: torch.backends.cudnn.version(),
        threads_of_torch=lambda _: torch.get_num_threads(),
    ),
)


def report(machine: Machine, environment: Mapping[str, str] = os.environ) -> dict[str, dict[str, Any]]:
    """Returns the facts by section and name, with the environment's variables that matter and how torch was built.

    Args:
        machine: What they are asked of.
        environment: The environment.
    """
    found: dict[str, dict[str, Any]] = {}
    for fact in FACTS:
        found.setdefault(fact.section, {})[fact.name] = _answer(fact, machine)
    found["Environment"] = variables(environment)
    found["Build of torch"] = {"configuration": torch.__config__.show().strip()}
    return found


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment's variables that matter; the value of one that could be a secret is not among them."""
    kept = {name: value for name, value in sorted(environment.items()) if name.startswith(VARIABLES)}
    return {
        name: HIDDEN if _SECRET_NAME.search(name) or _SECRET_VALUE.search(value) else value
        for name, value in kept.items()
    }


def write(output: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the report to device.md and device.json.

    Args:
        output: The directory.
        found: The report.
    """
    (output / "device.json").write_text(json.dumps(found, indent=2) + "\n")
    (output / "device.md").write_text("\n".join(_section(name, facts) for name, facts in found.items()))


def _section(name: str, facts: Mapping[str, Any]) -> str:
    lines = [f"## {name}\n"]
    for fact, value in facts.items():
        shown = f"\n\n```text\n{value}\n```" if "\n" in str(value) else f" {value}"
        lines.append(f"* {fact}:{shown}")
    return "\n".join(lines) + "\n"


def _answer(fact: Fact, machine: Machine) -> Any:
    try:
        value = fact.ask(machine)
    except Exception:  # a report with a gap is better than none
        value = None
    return UNKNOWN if value is None else value


def _with_unit(value: float | None, unit: str) -> str | None:
    return None if value is None else f"{value:,.0f} {unit}"


def _mhz(value: float | None) -> str | None:
    return _with_unit(value, "MHz")


def _watts(value: float | None) -> str | None:
    return _with_unit(value, "W")


def _gib(value: float) -> str:
    return f"{value / 2**30:.1f} GiB"


def _on_or_off(value: int | None) -> str | None:
    return None if value is None else "on" if value else "off"


def _first(values: Any) -> Any:
    return None if values is None else values[0]


def _text(value: bytes | str | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


def _cuda_version(number: int | None) -> str | None:
    """NVML has 12040 for CUDA 12.4."""
    return None if number is None else f"{number // 1000}.{number % 1000 // 10}"
