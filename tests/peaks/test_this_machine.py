import sys
from types import SimpleNamespace

import pytest
import torch

from mfu_callback import find_peak
from mfu_callback.peaks.this_machine import device_name, multiprocessors


@pytest.mark.parametrize(("threads", "ending"), [(1, ", 1 thread"), (2, ", 2 threads"), (12, ", 12 threads")])
def test_the_threads_of_the_process_are_in_the_name(monkeypatch, threads, ending):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert device_name("cpu").endswith(ending)
    assert multiprocessors("cpu") is None


@pytest.mark.parametrize(
    ("kind", "answers", "expected"),
    [
        ("cuda", {"get_device_name": "NVIDIA A100-SXM4-40GB"}, "NVIDIA A100-SXM4-40GB"),
        ("mps", {}, "Apple M2"),
        ("xla", None, "xla"),
    ],
)
def test_a_devices_name_is_what_its_driver_reports(monkeypatch, kind, answers, expected):
    def module_of(device):
        if answers is None:
            raise RuntimeError(f"Device '{kind}' does not have a corresponding module")
        return SimpleNamespace(**{name: lambda device, value=value: value for name, value in answers.items()})

    monkeypatch.setattr(torch, "get_device_module", module_of)
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M2", raising=False)
    assert device_name(torch.device(kind)) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TYPE": "V4", "ACCELERATOR_TYPE": "v4-8"}, 275),
        ({"ACCELERATOR_TYPE": "v5litepod-16"}, 197),
        ({"ACCELERATOR_TYPE": "v6e-8"}, 918),
        ({}, None),
    ],
)
def test_a_tpus_name_is_in_its_machines_metadata(monkeypatch, environment, expected):
    library = SimpleNamespace(tpu=SimpleNamespace(get_tpu_env=lambda: environment))
    monkeypatch.setitem(sys.modules, "torch_xla", SimpleNamespace(_internal=library))
    monkeypatch.setitem(sys.modules, "torch_xla._internal", library)
    peak = find_peak(device_name(torch.device("xla", 0)), torch.bfloat16)
    assert (peak and peak.flops_per_sec / 1e12) == expected
