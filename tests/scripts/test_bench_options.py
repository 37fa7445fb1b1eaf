"""With every option a token takes the same FLOPs, and MFU and HFU tell what ran."""

import os
import time
from argparse import Namespace
from contextlib import contextmanager

import pytest
import torch

from mfu_callback import Peak
from mfu_callback.peaks.cache import CacheKey, keep_best
from mfu_callback.peaks.fp32_precision import fp32_precision
from scripts.bench_parts.against import rows_in
from scripts.bench_parts.needs import bytes_per_token, flops_of_step, memory_of_step, state_bytes, work_of_step
from scripts.bench_parts.run import Machine, memory_of_one, rate_of, run_size
from scripts.bench_parts.trainers import set_precision_of_float32
from tests.helpers.bench_runs import GIB, request, run_bench

LAYERS, WIDTH, VOCABULARY, LENGTH = 12, 768, 50257, 16  # of gpt-small, and of its runs here
HEAD = 2 * LENGTH * WIDTH * VOCABULARY
PROJECTIONS, ATTENTION = 24 * LENGTH * WIDTH**2, 4 * LENGTH**2 * WIDTH  # of a block
BLOCKS = LAYERS * (PROJECTIONS + ATTENTION)
FORWARD = BLOCKS + HEAD
SCORES = LAYERS * ATTENTION // 2  # which the fused attention's backward computes again
# A block that is computed again stops before its last matmul, whose result the backward pass does not need.
AGAIN = BLOCKS - LAYERS * 8 * LENGTH * WIDTH**2
PEAK = 1e12


@contextmanager
def threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def peak_of_any_number_of_threads(own_cache):
    """The machine's peak, as if it had been measured: the processes of a run would each measure another one."""
    for number in range(1, (os.cpu_count() or 1) + 1):
        with threads(number):
            key = CacheKey.of(torch.device("cpu"), torch.float32)
            peak = Peak(flops_per_sec=PEAK, name=key.device, dtype=torch.float32, source="measured: by hand")
            keep_best(peak, key)
            keep_best(peak, key)  # two that agree are believed


@pytest.mark.parametrize(
    ("options", "recomputed"),
    [
        ({}, SCORES),
        ({"checkpoint_activations": True}, SCORES + AGAIN),
        ({"compile": "default", "checkpoint_activations": True}, SCORES + AGAIN),
        ({"strategy": "ddp", "devices": 2, "accumulate_grad_batches": 2}, SCORES),
        # On several devices each block is compiled by itself, and runs again to its end.
        ({"strategy": "ddp", "devices": 2, "compile": "default", "checkpoint_activations": True}, SCORES + BLOCKS),
        ({"strategy": "fsdp2", "devices": 2, "compile": "default", "checkpoint_activations": True}, SCORES + BLOCKS),
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "plain" if isinstance(options, dict) else "",
)
def test_the_flops_are_the_same_and_mfu_and_hfu_tell_the_truth(options, recomputed, tmp_path):
    # gloo's threads hang now and then as a process ends: its row is there by then, and it is ended when time is up.
    row = run_size(request(tmp_path, max_steps=4, end_at=time.time() + 150, **options), lambda event: None)
    assert row.error is None
    assert {name: getattr(row, name) for name in options} == options
    assert row.forward_flops == FORWARD
    assert row.peak_flops_per_sec == pytest.approx(PEAK)
    rate = 3 * FORWARD / LENGTH * row.tokens_per_sec / (options.get("devices", 1) * PEAK)
    assert row.mfu == pytest.approx(rate)
    assert row.hfu / row.mfu == pytest.approx(1 + recomputed / (3 * FORWARD))
    assert sum(row.waterfall.values()) == pytest.approx(1)


def test_a_step_of_several_batches_takes_the_time_of_all_of_them(tmp_path):
    asked = request(tmp_path, accumulate_grad_batches=4)
    assert work_of_step("gpt-small", 1, 16, asked) == 4 * flops_of_step("gpt-small", 1, 16)


def test_a_checkpoint_takes_a_third_more_work_and_less_memory(tmp_path):
    plain, checkpointed = (request(tmp_path, checkpoint_activations=is_on) for is_on in (False, True))
    ratio = work_of_step("gpt-xl", 1, 16, checkpointed) / work_of_step("gpt-xl", 1, 16, plain)
    assert ratio == pytest.approx(4 / 3)
    of_blocks = [bytes_per_token("gpt-xl", "32-true", one) - 2 * 4 * VOCABULARY for one in (plain, checkpointed)]
    assert of_blocks[1] / of_blocks[0] == pytest.approx((48 * 2 + 34) / (48 * 34))


def test_two_devices_share_the_state_under_fsdp2_alone(tmp_path):
    plain, sharded = (request(tmp_path, strategy=name, devices=2) for name in ("ddp", "fsdp2"))
    assert state_bytes("gpt-xl", "32-true", sharded) == state_bytes("gpt-xl", "32-true", plain) / 2
    many = request(tmp_path, strategy="fsdp2", devices=64)  # each process makes all weights before they are divided
    assert state_bytes("gpt-xl", "32-true", many) == 4 * 1_557_611_200
    assert memory_of_step("gpt-xl", "bf16-true", 8, plain) / GIB == pytest.approx(11.6, rel=0.01)


def test_processes_on_a_cpu_share_its_memory_and_its_speed(tmp_path):
    machine = Machine(rates={"32-true": 1e11}, text="", memory_bytes=16 * GIB)
    asked = {"accelerator": "cpu", "strategy": "ddp", "accumulate_grad_batches": 1, "checkpoint_activations": False}
    one, two = (Namespace(devices=devices, **asked) for devices in (1, 2))
    assert rate_of("32-true", two, machine) == rate_of("32-true", one, machine) / 2 == 5e10
    assert memory_of_one(two, machine) == memory_of_one(one, machine) / 2 == 8 * GIB
    of_cuda = Namespace(**vars(two) | {"accelerator": "cuda"})
    assert (rate_of("32-true", of_cuda, machine), memory_of_one(of_cuda, machine)) == (1e11, 16 * GIB)


@pytest.fixture
def precision_kept():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_tf32_is_set_where_it_is_asked_for_alone(tmp_path, precision_kept):
    set_precision_of_float32(request(tmp_path))
    assert fp32_precision("cuda") == "ieee"
    set_precision_of_float32(request(tmp_path, tf32=True))
    assert fp32_precision("cuda") == "tf32"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(
    "options", [(), ("--compile",), ("--compile", "reduce-overhead"), ("--checkpoint-activations",)]
)
def test_a_gpu_trains_in_bfloat16_with_a_fused_attention(options, tmp_path):
    arguments = ["--sizes", "gpt-small", "--batch-size", "4", "--max-steps", "10", "--output", str(tmp_path / "out")]
    done = run_bench(*arguments, "--precision", "bf16-true", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = rows_in(tmp_path / "out" / "bench.json")
    assert row.forward_flops == 4 * 291_648_307_200
    assert any(one["kind"] == "attention" for one in row.operators)
    assert 0 < row.mfu < 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_tf32_is_measured_against_its_own_peak(tmp_path):
    rows = {}
    for name in ("plain", "tf32"):
        asked = request(tmp_path / name, accelerator="cuda", context_length=256, tf32=name == "tf32")
        rows[name] = run_size(asked, lambda event: None)
    assert rows["tf32"].peak_flops_per_sec > rows["plain"].peak_flops_per_sec
