import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import TINY_FLOPS, train_tiny

from mfu_callback import MFUCallback

SCRIPT = Path(__file__).with_name("distributed_run.py")


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """What both ranks end with, by how the run was made."""
    directory = tmp_path_factory.mktemp("ranks")

    def run(how):
        command = [sys.executable, "-W", "ignore", str(SCRIPT), str(directory), how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return [torch.load(directory / f"{how}-{rank}.pt") for rank in (0, 1)]

    return {
        how: run(how)
        for how in (
            "ddp",
            "ddp-without",
            "ddp-failing",
            "fsdp2",
            "fsdp2-without",
            "fsdp2-compiled",
            "fsdp2-compiled-without",
        )
    }


@pytest.fixture(scope="module")
def plain_count():
    """The count of one process."""
    callback = MFUCallback(peak=1e12)
    train_tiny(callback)
    return callback.summary.flops


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_every_rank_is_given_the_same_reduced_values(ends, strategy):
    first, second = ends[strategy]
    assert first["metrics"] == second["metrics"]
    assert first["summary"][:2] == (5, 2 * 5 * 32)
    assert first["summary"][2:] == second["summary"][2:]
    metrics = first["metrics"]
    assert metrics["throughput/tokens_per_sec"] == pytest.approx(2 * metrics["throughput/device/tokens_per_sec"])
    assert metrics["time/step_sec_min"] <= metrics["time/step_sec"] <= metrics["time/step_sec_max"]
    mfu = 3 * TINY_FLOPS / 32 * metrics["throughput/device/tokens_per_sec"] / 1e12
    assert metrics["throughput/mfu"] == pytest.approx(mfu)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "fsdp2-compiled"])
def test_each_rank_counts_its_own_batch_as_one_process_does(ends, strategy, plain_count):
    assert plain_count.forward == TINY_FLOPS
    for rank in ends[strategy]:
        assert rank["flops"] == (plain_count.forward, plain_count.thop, plain_count.backward, plain_count.recomputed)
        assert rank["uncounted"] == ()


@pytest.mark.parametrize("how", ["ddp", "ddp-failing", "fsdp2", "fsdp2-compiled"])
def test_the_weights_are_those_of_a_run_without_the_callback(ends, how):
    for measured, plain in zip(ends[how], ends[f"{how.removesuffix('-failing')}-without"], strict=True):
        assert all(torch.equal(measured["weights"][name], plain["weights"][name]) for name in plain["weights"])


def test_a_count_that_fails_on_one_rank_leaves_mfu_out_on_both_and_hangs_none(ends):
    for rank in ends["ddp-failing"]:
        assert "throughput/tokens_per_sec" in rank["metrics"]
        assert "throughput/mfu" not in rank["metrics"]
