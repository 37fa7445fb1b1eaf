import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from mfu_callback import FlopCount, Peak
from mfu_callback.meter.summary import Summary
from mfu_callback.report.end_of_fit import print_summary, write_summary

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
    assert "MFU of the achievable peak" not in text
    assert "HFU" not in text


def test_the_bars_are_as_long_as_their_shares():
    bars = [line.count("█") for line in printed(SUMMARY).splitlines() if "%" in line and "│" in line]
    assert bars == [15, 8, 3, 2, 3, 0]


@pytest.mark.parametrize("mfu", [1e9, -1e9])
def test_an_impossible_share_does_not_run_off_the_page(mfu):
    text = printed(Summary(steps=1, mfu=mfu, waterfall=WATERFALL | {"mfu": mfu}))
    assert max(map(len, text.splitlines())) <= 100


def test_what_the_wall_time_went_to_and_the_advice():
    wall = {"training": 60.0, "setup": 20.0, "validation": 15.5, "rest": 4.5, "warmup": 0.0}
    text = printed(replace(SUMMARY, wall_time_sec=wall, phases_sec={"data": 0.05, "forward": 0.2}))
    assert "60.0% of the wall time was spent in measured training steps" in text
    assert "20 s setup, 15.5 s validation, 4.5 s rest" in text
    assert "0.05 s data, 0.2 s forward" in text
    assert "25 % of the time is spent waiting for data: more workers (num_workers), or pin_memory." in text


def test_the_devices_of_a_run_that_are_fastest_and_slowest():
    assert "0.2 s, 0.3 s" in printed(replace(SUMMARY, step_time_sec_min=0.2, step_time_sec_max=0.3))


def test_the_summary_as_a_file(tmp_path):
    summary = replace(SUMMARY, wall_time_sec={"training": 3.0, "rest": 1.0})
    write_summary(summary.as_dict(), tmp_path / "not yet there")
    written = json.loads((tmp_path / "not yet there" / "mfu_summary.json").read_text())
    assert {name: written[name] for name in ("steps", "mfu", "goodput", "waterfall")} == {
        "steps": 7,
        "mfu": 0.5,
        "goodput": 0.75,
        "waterfall": WATERFALL,
    }
    assert written["peak"]["dtype"] == "bfloat16"
    assert written["flops"]["forward"] == 1_000_000
    assert written["achievable"] is None
    assert written["advice"].startswith("25 % of the time")
    write_summary({}, None)


def test_a_run_without_a_measured_step_says_why():
    assert "measured no step: the first 3 are warm-up" in printed(Summary(steps=0))


def test_a_console_without_unicode_gets_plain_bars():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_summary(SUMMARY, warmup_steps=3, console=Console(file=file, width=100))
    file.seek(0)
    assert "#" * 15 in file.read()
