"""Calls about an accelerator reach torch.accelerator, and without it the module of the device's kind."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from mfu_callback.tools import accelerators

GPU = torch.device("cuda", 1)


@pytest.fixture
def calls():
    return []


@pytest.fixture
def older_torch(monkeypatch, calls):
    """A torch without torch.accelerator, that has an accelerator of the kind of CUDA."""

    def call(name, out=None):
        return lambda *args: calls.append((name, *args)) or out

    own = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 2,
        synchronize=call("synchronize"),
        empty_cache=call("empty_cache"),
        memory_stats=call("memory_stats", {"num_ooms": 1}),
        max_memory_allocated=call("max_memory_allocated", 7),
        reset_peak_memory_stats=call("reset_peak_memory_stats"),
        mem_get_info=call("mem_get_info", (1, 2)),
        device=call("device", nullcontext()),
        Event=lambda **options: ("event", options),
    )
    monkeypatch.delattr(torch, "accelerator", raising=False)
    monkeypatch.setattr(torch._C, "_get_accelerator", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(torch, "get_device_module", lambda device: own)
    return own


def test_an_older_torch_is_asked_by_the_module_of_the_device(older_torch, calls):
    accelerators.synchronize(GPU)
    accelerators.empty_cache(GPU)
    accelerators.reset_peak_memory_stats(GPU)
    assert calls == [("synchronize", GPU), ("empty_cache",), ("reset_peak_memory_stats", GPU)]
    assert accelerators.memory_stats(GPU) == {"num_ooms": 1}
    assert accelerators.max_memory_allocated(GPU) == 7
    assert accelerators.total_memory(GPU) == 2
    assert accelerators.event(GPU) == ("event", {"enable_timing": True})
    with accelerators.current(GPU):
        assert calls[-1] == ("device", GPU)


def test_an_older_torch_names_its_accelerators(older_torch):
    assert accelerators.current_accelerator() == torch.device("cuda")
    assert accelerators.accelerators() == [torch.device("cuda", 0), torch.device("cuda", 1)]


def test_an_accelerator_that_cannot_be_used_is_none(older_torch):
    older_torch.is_available = lambda: False
    assert accelerators.current_accelerator() is None
    assert accelerators.accelerators() == []


def test_an_older_torch_without_an_accelerator_has_none(older_torch, monkeypatch):
    monkeypatch.setattr(torch._C, "_get_accelerator", lambda: torch.device("cpu"))
    assert accelerators.accelerators() == []


def test_what_no_module_has_is_an_error_that_callers_expect(older_torch):
    del older_torch.memory_stats, older_torch.mem_get_info
    with pytest.raises(RuntimeError, match="has no memory_stats for cuda devices"):
        accelerators.memory_stats(GPU)
    with pytest.raises(RuntimeError, match="has no mem_get_info for cuda devices"):
        accelerators.total_memory(GPU)


def test_the_gpu_of_a_mac_takes_no_number(monkeypatch, calls):
    monkeypatch.delattr(torch, "accelerator", raising=False)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: calls.append("waited"))
    accelerators.synchronize(torch.device("mps", 0))
    assert calls == ["waited"]


def test_a_newer_torch_is_asked_by_its_own_names(monkeypatch, calls):
    general = SimpleNamespace(
        is_available=lambda: True,
        current_accelerator=lambda: torch.device("xpu"),
        device_count=lambda: 1,
        synchronize=lambda device: calls.append(("synchronize", device)),
        empty_cache=lambda: calls.append(("empty_cache",)),
        device_index=lambda index: nullcontext(index),
    )
    monkeypatch.setattr(torch, "accelerator", general, raising=False)
    assert accelerators.accelerators() == [torch.device("xpu", 0)]
    accelerators.synchronize(GPU)
    accelerators.empty_cache(GPU)
    assert calls == [("synchronize", GPU), ("empty_cache",)]
    with accelerators.current(GPU) as index:
        assert index == 1
