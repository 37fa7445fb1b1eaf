"""The report of the device that stands beside a result."""

# ruff: noqa: N802, N803 - these are NVML's own names

import json

import pytest
import torch

from scripts.bench_parts import device_report
from scripts.bench_parts.device_report import HIDDEN, UNKNOWN, Machine, report, variables, write
from tests.helpers.bench_runs import run_bench
from tests.helpers.fake_gpus import FakeNvml, properties_of_second

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class Nvml(FakeNvml):
    """What the report asks beyond what a run does."""

    def nvmlSystemGetDriverVersion(self):
        return "550.54.15"

    def nvmlSystemGetCudaDriverVersion(self):
        return 12040

    def nvmlDeviceGetApplicationsClock(self, handle, clockType):
        self._of(handle, "nvmlDeviceGetApplicationsClock")
        return {1: 1755}[clockType]

    def nvmlDeviceGetMaxClockInfo(self, handle, type):
        self._of(handle, "nvmlDeviceGetMaxClockInfo")
        return {1: 1980, 2: 2619}[type]

    def nvmlDeviceGetPersistenceMode(self, handle):
        self._of(handle, "nvmlDeviceGetPersistenceMode")
        return 1

    def nvmlDeviceGetEccMode(self, handle):
        self._of(handle, "nvmlDeviceGetEccMode")
        return [1, 1]


def device_facts(nvml):
    return report(Machine(CUDA, nvml, properties_of_second))["Device"]


def test_a_gpu_tells_its_driver_clocks_power_and_modes():
    facts = device_facts(Nvml())
    assert facts["driver"] == "550.54.15"
    assert facts["CUDA of the driver"] == "12.4"
    clocks = ("clock", "highest clock", "application clock", "highest memory clock")
    assert [facts[name] for name in clocks] == ["1,410 MHz", "1,980 MHz", "1,755 MHz", "2,619 MHz"]
    assert (facts["power limit"], facts["temperature"]) == ("700 W", "64 C")
    assert [facts[f"{mode} mode"] for mode in ("persistence", "MIG", "ECC")] == ["on", "off", "on"]


def test_a_partitioned_gpu_says_so():
    assert device_facts(Nvml(mig=1))["MIG mode"] == "on"


def test_what_a_gpu_does_not_tell_is_unknown():
    nvml = Nvml()
    nvml.failing = {"nvmlDeviceGetMigMode", "nvmlDeviceGetApplicationsClock", "nvmlDeviceGetEnforcedPowerLimit"}
    facts = device_facts(nvml)
    assert [facts[name] for name in ("MIG mode", "application clock", "power limit")] == [UNKNOWN] * 3
    assert facts["clock"] == "1,410 MHz"


def test_without_nvml_only_what_nvml_tells_is_unknown():
    nvml = Nvml()
    nvml.failing = {"nvmlInit"}
    assert device_facts(nvml)["driver"] == UNKNOWN
    processor = report(Machine(CUDA, nvml, properties_of_second))["Processor"]
    assert processor["name"] == device_report.device_name("cpu")


def test_a_cpu_tells_its_name_cores_instructions_and_memory():
    found = report(Machine(CPU))
    assert found["Device"]["name"] == found["Processor"]["name"] == device_report.device_name("cpu")
    assert found["Device"]["driver"] == UNKNOWN
    assert found["Processor"]["memory"].endswith(" GiB")
    assert found["Processor"]["instructions"].startswith(torch.backends.cpu.get_cpu_capability())


def test_the_versions_are_those_that_are_installed():
    software = report(Machine(CPU))["Software"]
    assert software["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"lightning", "thop", "transformers", "mfu-callback", "python"} <= set(software)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "KMP_AFFINITY"])
def test_variables_that_matter_are_in_it(name):
    assert variables({name: "1", "HOME": "/root"}) == {name: "1"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TORCH_HUB_TOKEN", "1"),
        ("CUDA_LICENSE_KEY", "1"),
        ("NCCL_PASSWORD", "1"),
        ("PYTORCH_INDEX", "https://me:word@example.org/simple"),
        ("TORCH_LOGS_OUT", "9f86d081884c7d659a2feaa0c55ad015"),
    ],
)
def test_what_could_be_a_secret_is_not_shown(name, value):
    assert variables({name: value}) == {name: HIDDEN}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CUDA_VISIBLE_DEVICES", "GPU-22222222-abcd-0000-1111-222222222222"),
        ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True,max_split_size_mb:128"),
        ("TORCHINDUCTOR_CACHE_DIR", "/home/someone/.cache/inductor"),
        ("CUDA_HOME", "/usr/local/cuda-12.4"),
    ],
)
def test_what_is_no_secret_is_shown(name, value):
    assert variables({name: value}) == {name: value}


def test_the_report_is_written_as_a_page_and_as_data(tmp_path):
    found = {"Device": {"name": "X", "driver": UNKNOWN}, "Build of torch": {"configuration": "one\ntwo"}}
    write(tmp_path, found)
    assert json.loads((tmp_path / "device.json").read_text()) == found
    assert (tmp_path / "device.md").read_text() == (
        "## Device\n\n* name: X\n* driver: unknown\n\n## Build of torch\n\n* configuration:\n\n```text\none\ntwo\n```\n"
    )


def test_the_benchmark_writes_it_beside_its_rows(tmp_path):
    output = tmp_path / "out"
    done = run_bench("--flops-only", "--sizes", "gpt-small", "--device-report", "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert f"--device-report --output {output}" in (output / "device.md").read_text()
    assert set(json.loads((output / "device.json").read_text())["Run"]) == {"command", "date", "revision"}
