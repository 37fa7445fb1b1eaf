"""Evaluations on two processes."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.helpers import evaluation_run
from tests.helpers.evaluation_run import BATCHES, FEWER
from tests.helpers.runs import TINY_FLOPS

SCRIPT = Path(evaluation_run.__file__)


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """What each rank of a run ended with; it ended well."""
    directory = tmp_path_factory.mktemp("ranks")

    @cache
    def ends(how):
        command = [sys.executable, "-W", "ignore", str(SCRIPT), str(directory), how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return [torch.load(directory / f"{how}-{rank}.pt") for rank in range(2)]

    return ends


@pytest.mark.parametrize(
    ("how", "steps", "tokens", "flops_per_token"),
    [
        ("validate", BATCHES - 2, 2 * 32 * (BATCHES - 2), TINY_FLOPS / 32),
        ("test-unequal", BATCHES - 2, (32 + 16) * (BATCHES - 2), TINY_FLOPS / 32),
        ("predict-fewer", BATCHES - 2, 32 * (BATCHES - 2 + FEWER - 2), TINY_FLOPS / 32),
        ("fit-unequal", BATCHES, (32 + 16) * BATCHES, TINY_FLOPS / 32),  # of the last validation, after the warm-up
    ],
)
def test_every_rank_is_given_the_sums_over_both(ends, how, steps, tokens, flops_per_token):
    first, second = ends(how)
    stage = how.split("-")[0].replace("fit", "validate")
    metrics = first["metrics"]
    assert second["metrics"] == metrics
    assert first["figures"][:2] == (steps, tokens)
    assert first["figures"][1:] == second["figures"][1:]
    assert metrics[f"{stage}/throughput/mfu"] == pytest.approx(
        flops_per_token * metrics[f"{stage}/throughput/tokens_per_sec"] / (2 * 1e12)
    )
    assert metrics[f"{stage}/time/step_sec_min"] <= metrics[f"{stage}/time/step_sec_max"]
    assert (first["flops"], second["flops"]) == (TINY_FLOPS, TINY_FLOPS // (2 if "unequal" in how else 1))


@pytest.mark.parametrize("how", ["test-unequal", "predict-fewer", "fit-unequal"])
def test_outputs_and_weights_are_those_of_a_run_without_the_callback(ends, how):
    for ours, theirs in zip(ends(how), ends(f"{how}-without"), strict=True):
        if how.startswith("predict"):
            assert all(torch.equal(one, other) for one, other in zip(ours["out"], theirs["out"], strict=True))
        else:
            assert ours["out"] == theirs["out"]
        assert all(torch.equal(ours["weights"][name], theirs["weights"][name]) for name in theirs["weights"])


def test_a_count_that_fails_on_one_rank_leaves_mfu_out_on_both_and_hangs_none(ends):
    for rank in ends("test-failing"):
        assert rank["metrics"]["test/throughput/tokens_per_sec"] > 0
        assert "test/throughput/mfu" not in rank["metrics"]
