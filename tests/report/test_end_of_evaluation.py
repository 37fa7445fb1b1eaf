import io

import pytest
import torch
from rich.console import Console

from mfu_callback import FlopCount, Peak
from mfu_callback.meter.evaluation import Evaluation
from mfu_callback.report.end_of_evaluation import print_evaluation

EVALUATION = Evaluation(
    stage="test",
    steps=1234,
    tokens=700,
    tokens_per_sec=12345.6,
    samples_per_sec=12.0,
    step_time_sec=0.25,
    phases_sec={"data": 0.05, "forward": 0.2, "other": 0.01},
    mfu=0.5,
    conventions="attention full, forward alone",
    flops=FlopCount(forward=1_000_000, thop=900_000, functional=100_000),
    peak=Peak(flops_per_sec=312e12, name="A100", dtype=torch.bfloat16, source="https://example.org/a100.pdf"),
    waterfall={"mfu": 0.5, "unreachable": 0.1, "kernels": 0.2, "data": 0.2, "other": 0.0},
)


def printed(evaluation, style):
    console = Console(file=io.StringIO(), width=100)
    print_evaluation(evaluation, warmup_steps=3, style=style, console=console)
    return console.file.getvalue()


@pytest.mark.parametrize("style", ["line", "auto"])
def test_the_line_says_the_stage_and_the_figures(style):
    assert printed(EVALUATION, style) == (
        "test: forward MFU 0.5 of 312 TFLOP/s (bfloat16, datasheet), 12,345.6 tokens/s, 12.00 samples/s,"
        " 0.25 s a step, 1,234 batches, lost: kernels 20%, data 20%\n"
    )


def test_a_line_without_mfu():
    evaluation = Evaluation(stage="predict", steps=1, samples_per_sec=2.0, step_time_sec=0.5)
    assert printed(evaluation, "line") == "predict: 2.00 samples/s, 0.5 s a step, 1 batch\n"


@pytest.mark.parametrize("style", ["line", "table"])
def test_an_evaluation_without_a_measured_batch_says_why(style):
    assert printed(Evaluation(stage="validate", steps=0, steps_by_part={"warmup": 2}), style) == (
        "MFUCallback measured no batch of validate: the first 3 are warm-up. Use more batches, or lower warmup_steps.\n"
    )


def test_the_table_has_the_figures_and_where_the_machine_went():
    text = printed(EVALUATION, "table")
    for expected in (
        "MFU of the forward pass over 1,234 batches of test",
        "0.5 of 312 TFLOP/s (bfloat16, datasheet)",
        "0.25 s median; 0.26 s mean = 0.05 data + 0.2 forward + 0.01 other",
        "1.0000e+06 a forward pass; attention full, forward alone",
        "kernels     │  20.00%",
    ):
        assert expected in text
    assert "optimizer" not in text
