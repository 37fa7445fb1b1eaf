import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from mfu_callback import FlopCount, Peak
from mfu_callback.meter.devices import PaceSetter
from mfu_callback.meter.job import Job
from mfu_callback.meter.summary import Summary
from mfu_callback.meter.tags import PARTS_OF_SEVERAL
from mfu_callback.report.end_of_fit import line_of, print_summary
from mfu_callback.report.summary_file import write_summary
from mfu_callback.report.tables import print_figures

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


def printed(summary, style="table", width=100, **console):
    console = Console(file=io.StringIO(), width=width, **console)
    print_summary(summary, warmup_steps=3, style=style, console=console)
    return console.file.getvalue()


def test_the_summary_shows_every_known_figure_and_what_was_not_counted():
    text = printed(SUMMARY)
    for expected in (
        "MFU over 7 steps",
        "0.5 of 312 TFLOP/s (bfloat16, datasheet)",
        "12,345.6 tokens/s, 12.00 samples/s",
        "0.25 s median",
        "1.0000e+06 a forward pass; attention full, backward 2 x",
        "lab::mix",
    ):
        assert expected in text
    assert "achievable" not in text
    assert "HFU" not in text


MEASURED = Peak(flops_per_sec=0.16e12, name="EPYC", dtype=torch.float32, source="measured: best of 60 matmuls")
FULL = replace(
    SUMMARY,
    steps=1234,
    real_tokens_per_sec=10000.5,
    step_time_sec_min=0.2411,
    step_time_sec_max=0.3027,
    phases_sec={"data": 0.05, "forward": 0.0812, "backward": 0.123, "optimizer": 0.0098, "other": 0.00123},
    mfu_achievable=0.625,
    mfu_fastest=0.158,
    hfu=0.5513,
    flops=replace(SUMMARY.flops, uncounted=tuple(f"lab::operator_{index}" for index in range(40))),
    peak=replace(SUMMARY.peak, is_noisy=True, source="given: peak="),
    achievable=replace(MEASURED, flops_per_sec=250e12),
    fastest=replace(MEASURED, flops_per_sec=989e12, source="https://example.org"),
    hints=('float32 matmuls run 12 times as fast as bfloat16 on this device: precision="32-true".',),
    wall_time_sec={
        "training": 301.5,
        **{"setup": 20.0, "sanity": 11.0, "warmup": 30.0, "counting": 9.0, "validation": 15.5, "checkpoint": 7.0},
        "rest": 4.5,
    },
)


def test_the_table_has_twelve_lines_at_most_and_its_waterfall():
    lines = printed(FULL, width=80).splitlines()
    above = next(index for index, line in enumerate(lines) if line.startswith("Where the machine went"))
    assert above <= 12
    assert max(map(len, lines)) <= 80


def test_each_peak_has_its_row_and_none_has_two():
    text = printed(FULL)
    assert "0.5, HFU 0.551, of 312 TFLOP/s (bfloat16, given, noisy)" in text
    assert "0.625 of 250 TFLOP/s, the best that this device was seen to reach" in text
    assert "0.158 of 989 TFLOP/s, this device's fastest dtype (datasheet)" in text
    on_a_cpu = replace(SUMMARY, peak=MEASURED, achievable=MEASURED, mfu_achievable=0.5)
    assert sum("0.5 of" in line for line in printed(on_a_cpu).splitlines()) == 1


def test_the_phases_add_up_to_the_mean_that_is_beside_them():
    assert (
        "0.25 s median; 0.265 s mean = 0.05 data + 0.0812 forward + 0.123 backward + 0.0098 optimizer + 0.00123 other"
        in printed(FULL, width=140)
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [(0.0123, "MFU 0.5 ± 1.2% of"), (1e-9, "MFU 0.5 ± 0.1% of"), (1.0, "MFU 0.5 (FLOPs are estimates) of")],
)
def test_an_estimate_is_told_with_its_error(error, said):
    assert said in printed(replace(SUMMARY, flops_error=error), "line")
    assert said.removeprefix("MFU ") in printed(replace(SUMMARY, flops_error=error), width=140)


def test_elsewhere_than_on_a_terminal_there_is_one_line():
    line = (
        "MFU 0.5 of 312 TFLOP/s (bfloat16, datasheet), 12,345.6 tokens/s, 12.00 samples/s, 0.25 s a step, 7 steps,"
        " lost: data 25%, optimizer 10%\n"
    )
    assert printed(SUMMARY, "line") == printed(SUMMARY, "auto") == line
    assert "Where the machine went" in printed(SUMMARY, "auto", force_terminal=True)
    assert "Where the machine went" in printed(SUMMARY, "auto", force_jupyter=False, force_terminal=True)
    assert printed(SUMMARY, "line", force_terminal=True).count("\n") == 1


def test_the_line_ends_with_the_first_hint_on_the_settings():
    assert printed(FULL, "line").endswith(
        '. float32 matmuls run 12 times as fast as bfloat16 on this device: precision="32-true".\n'
    )


def test_the_advice_has_the_largest_gain_first():
    assert FULL.advice.splitlines() == [
        FULL.hints[0],  # 11 of 12 parts of the forward and backward pass
        "66 ms of 265 ms a step are waiting for data: more workers (num_workers), or pin_memory.",
    ]
    assert replace(FULL, step_time_sec=0.001).advice == FULL.hints[0]
    assert replace(SUMMARY, step_time_sec=0.001).advice is None


def test_the_bars_are_as_long_as_their_shares():
    bars = [line.count("█") for line in printed(SUMMARY).splitlines() if "%" in line and "│" in line]
    assert bars == [15, 0, 3, 8, 3, 2]


@pytest.mark.parametrize("mfu", [1e9, -1e9])
def test_an_impossible_share_does_not_run_off_the_page(mfu):
    text = printed(Summary(steps=1, mfu=mfu, waterfall=WATERFALL | {"mfu": mfu}))
    assert max(map(len, text.splitlines())) <= 100


SEVERAL = {"mfu": 0.5, "communication": 0.05, "waiting": 0.01, "data": 0.2, "optimizer": 0.1, "other": 0.05}
SLOW = PaceSetter(rank=1, host="node7", phase="data", behind_sec=0.04, late_share=0.12, is_constant=False)


def names_of_parts(text):
    return [line.split("│")[1].rstrip() for line in text.splitlines() if "%" in line and line.startswith("│")]


def test_the_parts_of_several_devices_are_shown_if_there_is_something_in_them():
    six = [" mfu", " unreachable", " kernels", " data", " optimizer", " other"]
    assert names_of_parts(printed(SUMMARY)) == six
    assert names_of_parts(printed(replace(SUMMARY, waterfall=WATERFALL | dict.fromkeys(PARTS_OF_SEVERAL, 0.0)))) == six
    several = printed(replace(SUMMARY, waterfall=WATERFALL | SEVERAL))
    assert names_of_parts(several) == [*six[:3], " communication", " waiting", *six[3:]]


def test_the_device_that_the_others_wait_for_has_a_row_and_its_place_in_the_line():
    summary = replace(SUMMARY, pace=SLOW)
    row = "rank 1 on node7: 40 ms a step later than the others, in data, in 12 % of the steps"
    assert row in printed(summary)
    assert printed(summary, "line").endswith("optimizer 10%, rank 1 is 40 ms a step late in data\n")
    assert "slowest" not in printed(SUMMARY)


def test_the_memory_has_a_row_if_it_is_known():
    summary = replace(SUMMARY, memory={"resident_bytes": 2**30, "total_bytes": 2**34, "share": 0.0625, "ooms": None})
    assert "memory       1 GiB resident of 16 GiB (6%)" in printed(summary)
    assert "resident" not in printed(SUMMARY)


def figures(summary=SUMMARY, *, width=100, details=False, **more):
    console = Console(file=io.StringIO(), width=width)
    print_figures(summary.as_dict() | more, title="run", console=console, details=details)
    return console.file.getvalue()


OPENED = {"matmuls": 0.02, "attention": 0.0, "memory": 0.05, "transfers": 0.01, "gaps": 0.02}


def test_what_the_kernels_consist_of_stands_below_them():
    parts = names_of_parts(figures(kernels=OPENED))
    assert parts[2:8] == [" kernels", "   matmuls", "   attention", "   memory", "   transfers", "   gaps"]


def test_the_report_says_what_to_do_about_each_loss():
    text = figures(width=160, details=True)
    assert "│ more workers (num_workers), or pin_memory" in text
    assert "MFUCallback(operators=True) opens this part" in text
    assert text.count("its power limit") == 0  # nothing is lost there
    opened = figures(width=160, details=True, kernels=OPENED)
    assert "operators=True" not in opened
    assert "torch.compile, which fuses them" in opened


OPERATORS = [
    {"name": f"aten::op{number}", "kind": "matmul", "phase": "backward", "calls": 12.5, "sec": 0.0123, "share": 0.1}
    | {"flops": 2e9, "bytes": None, "roofline": 0.75 if number else None}
    for number in range(50)
]


@pytest.mark.parametrize(("details", "rows"), [(False, 10), (True, 40)])
def test_the_operators_that_take_longest(details, rows):
    text = figures(width=160, details=details, operators=OPERATORS)
    assert f"Operators of a batch; the first {rows} of 50" in text
    assert text.count("aten::op") == rows
    first, second = (line.split("│")[1:-1] for line in text.splitlines() if "aten::op0" in line or "aten::op1 " in line)
    assert [cell.strip() for cell in first] == [
        *("aten::op0", "matmul", "backward", "12.5", "12 ms", "10.0%", "2.000e+09", "", "")
    ]
    assert second[-1].strip() == "75.0%"


def test_on_a_narrow_terminal_the_operators_have_fewer_columns_and_short_names():
    long = [OPERATORS[1] | {"name": "aten::_scaled_dot_product_flash_attention_for_cpu_backward"}]
    text = figures(width=80, operators=long)
    assert max(map(len, text.splitlines())) <= 80
    (row,) = (line.split("│")[1:-1] for line in text.splitlines() if "aten::_scaled" in line)
    assert [cell.strip() for cell in row[1:]] == ["backward", "12.5", "12 ms", "10.0%", "75.0%"]


def test_what_the_wall_time_went_to_and_the_advice():
    wall = {"training": 60.0, "setup": 20.0, "validation": 15.5, "rest": 4.5, "warmup": 0.0}
    text = printed(replace(SUMMARY, wall_time_sec=wall, phases_sec={"data": 0.05, "forward": 0.2}))
    assert "60.0% of 100 s was measured training; 20 s setup, 15.5 s validation" in text
    assert "0.25 s mean = 0.05 data + 0.2 forward" in text
    assert "are waiting for data: more workers (num_workers), or pin_memory." in text


def test_a_job_that_was_resumed_says_what_it_came_to_and_what_was_lost():
    wall = {"training": 60.0, "setup": 5.0, "lost": 20.0, "down": 15.0}
    job = Job(began_at=1.0, at=101.0, steps=1200, tokens=5 * 10**9, device_hours=12.5, wall_time_sec=wall)
    assert "device-hours" not in printed(replace(SUMMARY, wall_time_sec=wall, job=job))
    text = printed(replace(SUMMARY, wall_time_sec=wall, job=replace(job, restarts=2, flops=3 * 10**18)))
    assert "3 fits, 1,200 steps, 5e+09 tokens, 3e+18 FLOPs, 12.5 device-hours" in text
    assert "60.0% of 100 s was measured training; 20 s lost, 15 s down" in text


def test_the_devices_of_a_run_that_are_fastest_and_slowest():
    assert "0.2 s a step on the fastest, 0.3 s on the slowest" in printed(
        replace(SUMMARY, step_time_sec_min=0.2, step_time_sec_max=0.3)
    )


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
    assert "are waiting for data" in written["advice"]
    write_summary({}, None)


GIVE = "or pass flops= per token or as a function of the batch, so that nothing is counted."


@pytest.mark.parametrize(
    ("parts", "warmup_steps", "why"),
    [
        ({"warmup": 2}, 3, "the first 3 are warm-up. Train longer, or lower warmup_steps."),
        ({"warmup": 1}, 1, "the first is warm-up. Train longer, or lower warmup_steps."),
        ({}, 3, "no step has ended. Train longer."),
        (None, 0, "no step has ended. Train longer."),
        (
            {"counting": 8},
            0,
            "each of the 8 steps counted FLOPs, as a batch of a new shape needs, so they are left out. Pad batches to a"
            f" few shapes, {GIVE}",
        ),
        (
            {"counting": 1},
            0,
            f"the only step counted FLOPs, as a batch of a new shape needs, so it is left out. Train longer, {GIVE}",
        ),
        (
            {"warmup": 3, "counting": 1},
            3,
            "the only step after the warm-up counted FLOPs, as a batch of a new shape needs, so it is left out."
            f" Train longer, {GIVE}",
        ),
        (
            {"warmup": 1, "sampling": 2},
            1,
            "each of the 2 steps after the warm-up timed single modules or operators, so they are left out. Train"
            " longer.",
        ),
        (
            {"warmup": 1, "counting": 2, "rest": 1, "sampling": 0},
            1,
            "of the 3 steps after the warm-up, all are left out: 2 counted FLOPs, as a batch of a new shape needs; 1"
            f" ended early or could not be seen. Pad batches to a few shapes, {GIVE}",
        ),
        (
            {"training": 5, "warmup": 1},
            1,
            "this process measured 5, but another one none: all of its steps were warm-up or counted FLOPs, as batches"
            f" of new shapes need. Train longer, {GIVE}",
        ),
    ],
)
def test_a_run_without_a_measured_step_says_why_and_what_to_do(parts, warmup_steps, why):
    line = line_of(Summary(steps=0, steps_by_part=parts), warmup_steps=warmup_steps)
    assert line == f"MFUCallback measured no step: {why}"
    assert printed(Summary(steps=0, steps_by_part={"warmup": 1})).endswith("Train longer, or lower warmup_steps.\n")


def test_a_console_without_unicode_gets_plain_bars():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_summary(SUMMARY, warmup_steps=3, console=Console(file=file, width=100))
    file.seek(0)
    assert "#" * 15 in file.read()
