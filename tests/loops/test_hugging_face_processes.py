"""Hugging Face's Trainer on two real processes, started by torchrun."""

import json

import pytest

from tests.helpers import trainer_processes
from tests.helpers.launched import Launched, of_all
from tests.helpers.runs import PEAK
from tests.helpers.trainer_runs import TOKENS


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Trains on two processes, once in each way."""
    return Launched(trainer_processes.__file__, tmp_path_factory.mktemp("ranks"))


def test_the_weights_and_losses_are_those_of_a_training_without_the_callback(launched):
    for measured, plain in zip(launched.ends("accumulate"), launched.ends("accumulate-without"), strict=True):
        assert list(measured["weights"]) == list(plain["weights"])
        assert all(plain["weights"][name].equal(value) for name, value in measured["weights"].items())
        assert [one["loss"] for one in measured["losses"]] == [one["loss"] for one in plain["losses"]]


def test_the_figures_are_those_of_both_processes_and_the_same_on_both(launched):
    one, two = launched.ends("accumulate")
    assert of_all(one["summary"]) == of_all(two["summary"])
    assert one["losses"] == two["losses"]
    summary = one["summary"]
    assert (summary["steps"], summary["tokens"]) == (19, 19 * 2 * 2 * TOKENS)
    per_token = 3 * summary["flops"]["forward"] / TOKENS
    assert summary["mfu"] * PEAK * 2 / summary["tokens_per_sec"] == pytest.approx(per_token)
    assert sum(summary["waterfall"].values()) == pytest.approx(1)
    assert [record["step"] for record in one["losses"]] == [5, 10, 15, 20]
    for record in one["losses"]:
        share = record["throughput/real_tokens_per_sec"] / record["throughput/tokens_per_sec"]
        assert 0.7 < share < 0.9  # three of four texts are padded, by up to three of eight tokens


def test_the_summary_is_printed_and_written_by_the_first_process_alone(launched):
    lines = launched.printed("accumulate").splitlines()
    assert sum(line.startswith("MFU ") for line in lines) == 1
    written = json.loads((launched.directory / "accumulate" / "mfu_summary.json").read_text())
    assert written["steps"] == 19
    assert (written["run"]["devices"], written["run"]["accumulate_grad_batches"]) == (2, 2)


def test_a_process_that_is_late_is_named(launched):
    summary = launched.ends("slow")[0]["summary"]
    assert (summary["pace"]["rank"], summary["pace"]["phase"]) == (1, "forward")
