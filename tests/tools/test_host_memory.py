import sys

import psutil
import pytest

from mfu_callback.tools.host_memory import control_group_memory, status_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own files")
def test_the_kernel_and_psutil_agree_on_the_memory_of_this_process():
    assert status_bytes("VmSwap") >= 0
    assert status_bytes("VmRSS") == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    assert status_bytes("VmNoSuchField") == 0


def write_group(directory, limit, use, *, version=2):
    directory.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, value in zip(names, (limit, use), strict=True):
        (directory / name).write_text(value + "\n")


def test_every_control_group_above_the_process_is_respected(tmp_path):
    write_group(tmp_path / "root", "max", "5")
    write_group(tmp_path / "root/a", "1000", "400")
    write_group(tmp_path / "root/a/b", "5000", "100")
    (tmp_path / "cgroup").write_text("0::/a/b\n")
    assert sorted(control_group_memory(tmp_path / "root", tmp_path / "cgroup")) == [(1000, 400), (5000, 100)]


def test_control_groups_of_version_one_are_respected(tmp_path):
    write_group(tmp_path / "root/memory/docker/x", "900", "1000", version=1)
    (tmp_path / "cgroup").write_text("4:cpu:/docker/x\n3:memory:/docker/x\n")
    assert list(control_group_memory(tmp_path / "root", tmp_path / "cgroup")) == [(900, 1000)]
