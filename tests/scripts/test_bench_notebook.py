"""The replaced notebook's benchmarks beside ours."""

import json
import time
from dataclasses import replace

import pytest
import torch

from gpt import GPT, SIZES, GPTConfig, GPTModule
from mfu_callback import count_flops, find_peak, model_flops_utilization
from scripts.bench_parts.notebook import bisected, counts, largest_forward, largest_training, times_of_steps
from scripts.bench_parts.notebook_table import ladder, largest, results, rungs, tables
from scripts.bench_parts.replaced import RESULTS, complete_flops, recomputed, true_peak, vector_peak
from scripts.bench_parts.trainers import make_trainer
from tests.helpers.bench_runs import measured_row, request, run_bench
from tests.helpers.runs import SMALL_MODEL, FakeNow

BOOK = {
    "flops_by_thop": 2 * 250_000_000_000,  # of 2 x 1024 tokens, twice the batch below
    "flops": 2 * 300_000_000_000,
    "cold_sec": 32.0,
    "sum_sec": 16.0,
    "loss_sec": 4.0,
    "optimizer_sec": 6.0,
    "rounds": 5,
    "budget_bytes": 3 * 2**30,
    "largest_forward": 12,
    "forward_is_limit": True,
    "training_is_limit": True,
    "largest_training": 2,
}
ROW = measured_row(notebook=BOOK)


@pytest.mark.parametrize(
    ("device", "dtype", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", torch.bfloat16, 204.9e12),
        ("NVIDIA A100-SXM4-40GB", torch.float32, 19.49e12),
        ("Tesla T4", torch.float16, 65.13e12),
        ("NVIDIA GeForce RTX 3080", torch.bfloat16, 29.77e12),
        ("NVIDIA GeForce RTX 3080 Ti", torch.bfloat16, None),
        ("NVIDIA L40", torch.bfloat16, None),
        ("NVIDIA A100-SXM4-40GB", torch.float64, None),
    ],
)
def test_the_vector_peaks_belong_to_whole_names(device, dtype, peak):
    assert vector_peak(device, dtype) == peak


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.size)
def test_the_replaced_benchmarks_results_follow_from_its_own_figures(result):
    peak = vector_peak("NVIDIA A100-SXM4-40GB", torch.bfloat16)
    with torch.device("meta"):
        count = count_flops(GPT(SIZES[result.size]), torch.zeros(2, 1024, dtype=torch.long))
    assert count.thop == result.forward_flops
    mfu = model_flops_utilization(result.tokens_per_sec, 3 * result.forward_flops / 2048, peak)
    assert round(mfu, 4) == result.mfu


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.size)
def test_its_count_is_thops_without_layer_norms(result):
    figures = counts(result.size)
    assert figures.flops_by_thop == result.forward_flops
    assert figures.flops == complete_flops(result.size)


def test_the_true_peak_is_that_of_the_tensor_cores():
    assert true_peak() == 312e12
    assert find_peak("NVIDIA A100-SXM4-80GB", torch.bfloat16).flops_per_sec == 312e12


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.size)
def test_its_results_with_the_true_peak_and_the_complete_count_are_arithmetic(result):
    config, batch, length = SIZES[result.size], 2, 1024
    blocks = config.n_layer * (24 * length * config.n_embd**2 + 4 * length**2 * config.n_embd)
    complete = batch * (blocks + 2 * length * config.n_embd * config.vocab_size)
    right = recomputed(result, complete, 312e12)
    assert right.mfu_of_peak == pytest.approx(result.tokens_per_sec * 3 * result.forward_flops / 2048 / 312e12)
    assert right.mfu == pytest.approx(result.tokens_per_sec * 3 * complete / 2048 / 312e12)
    assert complete == complete_flops(result.size)


def test_its_best_result_of_0_8113_is_0_2233():
    grid = results(list(SIZES))
    assert [row[3:] for row in grid.rows] == [
        ["0.5948", "0.1486", "0.1713"],
        ["0.6130", "0.1532", "0.1750"],
        ["0.7406", "0.1851", "0.2077"],
        ["0.8113", "0.2027", "0.2232"],
    ]
    best = recomputed(RESULTS[-1], complete_flops("gpt-xl"), true_peak())
    assert best.mfu == pytest.approx(0.22325, abs=5e-6)


def test_each_rung_changes_one_thing_on_the_way_to_our_mfu():
    """Of a device that the notebook's table has: on it, and nowhere else, the peak is another one too."""
    row = replace(ROW, device="NVIDIA A100-SXM4-40GB", precision="bf16-true", peak_flops_per_sec=312e12)
    row = replace(row, mfu=3 * 300e9 / 8 / 312e12, step_time_sec=7.5)
    steps = rungs(row)
    assert [rung.step_sec for rung in steps] == [32, 16, 4, 6, 7.5, 8, 8, 8]
    assert [rung.forward_flops for rung in steps] == [250e9] * 6 + [300e9] * 2
    assert [rung.peak_flops_per_sec for rung in steps] == [77.97e12] * 7 + [312e12]
    assert steps[0].mfu == pytest.approx(3 * 250e9 / 32 / 77.97e12)
    assert steps[-1].mfu == pytest.approx(row.mfu)
    factors = [float(cells[-1]) for cells in ladder(row).rows[1:]]
    assert factors == [2.0, 4.0, 0.667, 0.8, 0.938, 1.2, 0.25]


def test_on_a_device_that_its_table_lacks_the_peak_stays_the_same_and_that_is_said():
    steps = rungs(ROW)
    assert {rung.peak_flops_per_sec for rung in steps} == {225e9}
    assert steps[-1].what == "the same peak: the notebook's table has none for this device"
    assert steps[-1].mfu == pytest.approx(3 * 300e9 / 8 / 225e9)


def test_the_largest_batches_stand_side_by_side():
    assert largest([ROW]).rows == [["gpt-small", "1024", "3.0 GiB", "12", "2"]]
    late = replace(ROW, notebook=BOOK | {"forward_is_limit": False, "largest_training": None, "budget_bytes": None})
    assert largest([late]).rows == [["gpt-small", "1024", "free", "at least 12", "-"]]
    neither = replace(ROW, notebook={"flops_by_thop": 1, "flops": 2})
    assert largest([neither]).rows == [["gpt-small", "1024", "-", "-", "-"]]


def test_figures_that_were_not_reached_leave_out_their_table():
    partial = replace(ROW, notebook={"flops_by_thop": 1, "flops": 2})
    assert [grid.title.split(":")[0] for grid in tables([partial])] == [
        "Notebook 1",
        "Notebook 2",
        "The notebook's A100 results, recomputed from its tokens/s",
    ]
    assert len(tables([replace(ROW, notebook=None)])) == 1
    assert len(tables([replace(ROW, notebook={"ended": "killed"})])) == 1


@pytest.mark.parametrize("limit", [1, 2, 12, 13, 100])
def test_the_search_ends_at_the_largest_that_fits(limit):
    assert bisected(lambda size: size <= limit, end_at=1.0, now=FakeNow()) == (limit, True)


def test_where_nothing_fits_the_largest_is_none_at_all():
    assert bisected(lambda size: False, end_at=1.0, now=FakeNow()) == (0, True)


def test_a_search_that_would_be_late_says_that_it_found_no_limit():
    now = FakeNow()

    def fits(size):
        now.seconds += size
        return True

    assert bisected(fits, end_at=20.0, now=now) == (8, False)  # 1 + 2 + 4 + 8 seconds; 16 more would be late


MIB = 2**20
SMALL = GPTConfig(n_layer=2, n_head=2, n_embd=64, vocab_size=8192, context_length=32)  # logits of 1 MiB a sequence


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_a_forward_pass_alone_fits_at_a_larger_batch_than_a_step_of_training(tmp_path):
    asked = request(tmp_path, context_length=32, end_at=time.time() + 120)
    module, trainer = GPTModule(SMALL), make_trainer(asked, [], max_steps=1)
    training = largest_training(asked, module, trainer, 64 * MIB)
    forward = largest_forward(asked, module, trainer, 64 * MIB, asked.end_at)
    assert (training["training_is_limit"], forward["forward_is_limit"]) == (True, True)
    assert 1 <= training["largest_training"] < forward["largest_forward"] <= 64


def test_the_steps_between_the_notebooks_and_ours_are_timed_in_turns(tmp_path):
    asked = request(tmp_path, context_length=32)
    module = GPTModule(SMALL)
    weights = module.model.head.weight.detach().clone()
    times = times_of_steps(asked, module, make_trainer(asked, [], max_steps=1), end_at=0.0)
    assert set(times) == {"cold_sec", "sum_sec", "loss_sec", "optimizer_sec", "rounds"}
    assert times["rounds"] == 1  # it was late
    assert not torch.equal(module.model.head.weight, weights)


def test_its_benchmarks_run_beside_ours(tmp_path):
    """A real run, whose searches are cut off by its time."""
    output = tmp_path / "out"
    arguments = ["--as-notebook", "--sizes", "gpt-small", "--precision", "32-true", "--accelerator", "cpu"]
    arguments += ["--batch-size", "1", "--context-length", "16", "--max-steps", "3", "--minutes", "2"]
    done = run_bench(*arguments, "--output", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((output / "bench.json").read_text())
    assert (row["notebook"]["flops_by_thop"], row["notebook"]["flops"]) == (505_987_203_072, 583_296_614_400)
    page = (output / "bench.md").read_text()
    for title in ("Notebook 1: ", "Notebook 2: ", "A100 results, recomputed"):
        assert title in page
        assert title in done.stdout
