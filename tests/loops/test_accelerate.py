"""A loop with Accelerate on two real processes, started by torchrun."""

import pytest
import torch

from tests.helpers import accelerate_processes
from tests.helpers.launched import Launched, of_all
from tests.helpers.runs import PEAK
from tests.helpers.trainer_runs import TOKENS


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Trains on two processes, once in each way."""
    return Launched(accelerate_processes.__file__, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("how", ["accumulate", "bf16"])
def test_the_weights_are_those_of_a_loop_without_the_meter(launched, how):
    for measured, plain in zip(launched.ends(how), launched.ends(f"{how}-without"), strict=True):
        assert list(measured["weights"]) == list(plain["weights"])
        assert all(torch.equal(plain["weights"][name], value) for name, value in measured["weights"].items())


# Of 21 batches, two are a step and the last one is a step of its own; the first step is counted.
@pytest.mark.parametrize(("how", "steps", "batches"), [("accumulate", 10, 19), ("bf16", 20, 20)])
def test_the_figures_are_those_of_both_processes_and_the_same_on_both(launched, how, steps, batches):
    one, two = launched.ends(how)
    assert of_all(one["summary"]) == of_all(two["summary"])
    assert one["values"] == two["values"]
    summary = one["summary"]
    assert (summary["steps"], summary["tokens"]) == (steps, 2 * batches * TOKENS)
    per_token = 3 * summary["flops"]["forward"] / TOKENS
    assert summary["mfu"] * PEAK * 2 / summary["tokens_per_sec"] == pytest.approx(per_token)
    assert sum(summary["waterfall"].values()) == pytest.approx(1)
    assert summary["phases_sec"]["optimizer"] > 0
    assert len(one["values"]) == {"accumulate": 2, "bf16": 5}[how]
    for values in one["values"]:
        assert 0.7 < values["throughput/real_tokens_per_sec"] / values["throughput/tokens_per_sec"] < 0.9


def test_both_ways_count_the_same_flops(launched):
    counts = [launched.ends(how)[0]["summary"]["flops"] for how in ("accumulate", "bf16")]
    assert counts[0]["forward"] == counts[1]["forward"] > 0


def test_the_summary_is_printed_by_the_first_process_alone(launched):
    assert sum(line.startswith("MFU ") for line in launched.printed("accumulate").splitlines()) == 1
