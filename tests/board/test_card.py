from dataclasses import replace

import torch

from mfu_callback import Peak
from mfu_callback.board.card import card
from mfu_callback.board.facts import RunFacts
from mfu_callback.finder import BatchSizeResult, Trial
from mfu_callback.flops import FlopCount
from mfu_callback.meter.devices import PaceSetter
from mfu_callback.meter.summary import Summary

FACTS = RunFacts(
    model="<b>Model</b>|x",
    parameters=10,
    parameter_bytes=40,
    device="[device](https://example.org)",
    devices=2,
    precision="bf16-mixed",
    strategy="DDPStrategy",
    counter="thop",
    batch_size=None,
    batch_flops=None,
    accumulate_grad_batches=1,
    versions={"torch": "2.13.0"},
)


def test_names_are_text_in_the_card_whatever_they_are() -> None:
    count = FlopCount(forward=10, thop=10, functional=0, uncounted=("lab::<script>",), per_module={"a|b`c": 10})
    text = card(FACTS, Summary(steps=0, flops=count), None)
    assert "&lt;b>Model&lt;/b>&#124;x" in text
    assert "2 x &#91;device](https://example.org)" in text
    assert "**Not counted**: lab::&lt;script>." in text
    assert "| a&#124;b&#96;c | 1 |" in text
    assert "| batch |" not in text


def test_accumulation_and_a_search_in_the_card() -> None:
    facts = replace(FACTS, batch_size=8, accumulate_grad_batches=4)
    trial = Trial(size=8, fits=True, seconds=1.0, peak_bytes=None, why="ran")
    found = BatchSizeResult(batch_size=8, trials=(trial,), limit="1 GiB")
    text = card(facts, Summary(steps=0), found)
    assert "8 samples on each device, 4 of them in a step" in text
    assert "**batch_size = 8** within 1 GiB" in text


def test_the_fastest_dtype_has_its_row_where_it_is_another() -> None:
    peak = Peak(flops_per_sec=1e10, name="X", dtype=torch.bfloat16, source="measured: best of 20 matmuls")
    fastest = replace(peak, flops_per_sec=1e11, dtype=torch.float32)
    summary = Summary(steps=1, mfu=0.5, peak=peak, fastest=fastest, mfu_fastest=0.05)
    row = "| MFU of the fastest dtype | 0.05 of 0.1 TFLOP/s, X in float32 (measured: best of 20 matmuls) |"
    assert row in card(FACTS, summary, None)
    assert "fastest dtype" not in card(FACTS, replace(summary, fastest=None), None)


def test_the_slow_device_and_the_memory_have_their_rows_where_they_are_known() -> None:
    pace = PaceSetter(rank=1, host="node_7", phase="data", behind_sec=0.04, late_share=1.0, is_constant=True)
    text = card(FACTS, Summary(steps=1, pace=pace, memory={"resident_bytes": 2**30}), None)
    row = "| slowest device | rank 1 on node&#95;7: 40 ms a step later than the others, in data, in all steps |"
    assert row in text
    assert "| memory | 1 GiB resident |" in text
    without = card(FACTS, Summary(steps=1), None)
    assert "slowest device" not in without
    assert "| memory |" not in without
