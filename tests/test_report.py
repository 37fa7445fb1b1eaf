import io

import pytest
import torch
from rich.console import Console

from mfu_callback import FlopCount, Peak
from mfu_callback.report import print_summary
from mfu_callback.summary import Summary

WATERFALL = {"mfu": 0.5, "data": 0.25, "optimizer": 0.1, "other": 0.05, "kernels": 0.1, "unreachable": 0.0}
SUMMARY = Summary(
    steps=7,
    tokens=700,
    tokens_per_sec=12345.6,
    samples_per_sec=12.0,
    step_time_sec=0.25,
    mfu=0.5,
    conventions="attention full, backward 2 x",
    flops=FlopCount(forward=1_000_000, thop=900_000, functional=100_000, uncounted=("lab::mix",)),
    peak=Peak(flops_per_sec=312e12, name="A100", dtype=torch.bfloat16, source="https://example.org/a100.pdf"),
    waterfall=WATERFALL,
)


def printed(summary):
    console = Console(file=io.StringIO(), width=100)
    print_summary(summary, warmup_steps=3, console=console)
    return console.file.getvalue()


def test_the_summary_shows_every_known_figure_and_what_was_not_counted():
    text = printed(SUMMARY)
    for expected in (
        "MFU over 7 steps",
        "12,345.6",
        "0.25 s",
        "1.0000e+06",
        "lab::mix",
        "backward 2 x",
        "312 TFLOP/s",
        "a100.pdf",
    ):
        assert expected in text
    assert "MFU of the achievable" not in text
    assert "HFU" not in text


def test_the_bars_are_as_long_as_their_shares():
    bars = [line.count("█") for line in printed(SUMMARY).splitlines() if "%" in line]
    assert bars == [15, 8, 3, 2, 3, 0]


@pytest.mark.parametrize("mfu", [1e9, -1e9])
def test_an_impossible_share_does_not_run_off_the_page(mfu):
    text = printed(Summary(steps=1, mfu=mfu, waterfall=WATERFALL | {"mfu": mfu}))
    assert max(map(len, text.splitlines())) <= 100


def test_a_run_without_a_measured_step_says_why():
    assert "measured no step: the first 3 are warm-up" in printed(Summary(steps=0))


def test_a_console_without_unicode_gets_plain_bars():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_summary(SUMMARY, warmup_steps=3, console=Console(file=file, width=100))
    file.seek(0)
    assert "#" * 15 in file.read()
