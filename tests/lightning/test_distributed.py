import csv
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from mfu_callback import MFUCallback
from tests.helpers import distributed_run
from tests.helpers.distributed_run import LOG_EVERY, SLEEP_SEC, STEPS, TensorParallel
from tests.helpers.launched import is_aborted_by_gloo
from tests.helpers.runs import TINY_FLOPS, counted_again, train_tiny
from tests.helpers.torch_features import skip_what_cannot_be_sharded

SCRIPT = Path(distributed_run.__file__)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Makes a run, once, and gives what it printed and what each rank ended with, as far as it came."""
    directory = tmp_path_factory.mktemp("ranks")

    @cache
    def run(how):
        skip_what_cannot_be_sharded(how)
        command = [sys.executable, "-W", "ignore", str(SCRIPT), str(directory), how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        return done, [torch.load(path) for path in sorted(directory.glob(f"{how}-[0-9].pt"))]

    return run


@pytest.fixture(scope="module")
def ends(run):
    """What each rank of a run ended with; it ended well."""

    def ends(how):
        done, ranks = run(how)
        assert done.returncode == 0, done.stderr
        assert len(ranks) == int(how.split("-")[1])
        return ranks

    return ends


@pytest.fixture(scope="module")
def plain_count():
    """The count of one process."""
    callback = MFUCallback(peak=1e12)
    train_tiny(callback)
    return callback.summary.flops


@pytest.mark.parametrize(
    ("how", "tokens", "flops"),
    [
        ("ddp-2", 2 * 32, 2 * TINY_FLOPS),
        ("ddp-2-uneven", 32 + 16, 1.5 * TINY_FLOPS),
        ("ddp-4", 4 * 32, 4 * TINY_FLOPS),
        ("fsdp2-2", 2 * 32, 2 * TINY_FLOPS),
        ("fsdp2-4", 4 * 32, 4 * TINY_FLOPS),
        ("tp-2", 32, TensorParallel.flops),
        ("tp-4", 2 * 32, 2 * TensorParallel.flops),
    ],
)
def test_every_rank_is_given_the_same_values_of_all_ranks_together(ends, how, tokens, flops):
    first, *others = ends(how)
    steps = STEPS[len(others) + 1]
    measured = steps - 3 - counted_again(steps)  # 3 of warm-up
    assert first["summary"][:2] == (measured, measured * tokens)
    assert all(rank["summary"] == first["summary"] and rank["metrics"] == first["metrics"] for rank in others)
    metrics, devices = first["metrics"], len(others) + 1
    speed = metrics["throughput/tokens_per_sec"]
    assert speed == pytest.approx(devices * metrics["throughput/device/tokens_per_sec"])
    assert metrics["throughput/mfu"] == pytest.approx(3 * flops / tokens * speed / (devices * 1e12))
    assert metrics["time/step_sec_min"] <= metrics["time/step_sec"] <= metrics["time/step_sec_max"]


@pytest.mark.parametrize("how", ["ddp-2", "ddp-2-compiled", "ddp-4", "fsdp2-2", "fsdp2-4", "fsdp2-2-compiled"])
def test_each_rank_counts_its_own_batch_as_one_process_does(ends, how, plain_count):
    assert plain_count.forward == TINY_FLOPS
    for rank in ends(how):
        assert rank["flops"] == (plain_count.forward, plain_count.thop, plain_count.backward, plain_count.recomputed)
        assert rank["uncounted"] == ()


def test_each_rank_of_a_pair_counts_the_whole_batch(ends):
    for rank in ends("tp-2"):
        forward, _, backward, _ = rank["flops"]
        assert (forward, backward, rank["uncounted"]) == (TensorParallel.flops, 2 * TensorParallel.flops, ())


@pytest.mark.parametrize(
    "how", ["ddp-2", "ddp-2-failing", "ddp-2-modules", "ddp-2-compiled", "fsdp2-2", "fsdp2-2-compiled", "tp-2"]
)
def test_200_steps_end_in_the_weights_of_a_run_without_the_callback(ends, how):
    without = "-".join(word for word in how.split("-") if word not in ("failing", "modules")) + "-without"
    for measured, plain in zip(ends(how), ends(without), strict=True):
        assert all(torch.equal(measured["weights"][name], plain["weights"][name]) for name in plain["weights"])


@pytest.mark.parametrize("how", ["ddp-2", "fsdp2-2", "tp-2", "ddp-2-hooked"])
def test_nothing_that_measures_waiting_is_left_behind(ends, how):
    assert [rank["left"] for rank in ends(how)] == [False, False]


def test_a_communication_hook_of_the_users_is_the_one_that_sums_the_gradients(ends):
    for measured, plain, without in zip(ends("ddp-2-hooked"), ends("ddp-2-hooked-without"), ends("ddp-2"), strict=True):
        names = plain["weights"]
        assert all(torch.equal(measured["weights"][name], plain["weights"][name]) for name in names)
        assert not all(torch.equal(measured["weights"][name], without["weights"][name]) for name in names)


@pytest.mark.parametrize(
    ("how", "phase", "part"),
    [
        ("ddp-2-slow-data", "data", "data"),
        ("ddp-2-slow-forward", "forward", "kernels"),
        ("ddp-4-slow-data", "data", "data"),
        ("fsdp2-2-slow-data", "data", "data"),
        ("fsdp2-2-slow-forward", "forward", "kernels"),
    ],
)
def test_the_slow_device_is_named_and_the_loss_is_its_own(ends, how, phase, part):
    first, *others = ends(how)
    assert all((rank["pace"], rank["waterfall"]) == (first["pace"], first["waterfall"]) for rank in others)
    pace, devices = first["pace"], first["devices"]
    assert (pace["rank"], pace["phase"], pace["is_constant"]) == (len(others), phase, True)
    assert pace["host"] == platform.node()
    assert max(first["waterfall"], key=first["waterfall"].get) == part
    assert sum(first["waterfall"].values()) == pytest.approx(1)
    assert [one["rank"] for one in devices] == list(range(len(others) + 1))
    quick, slow = devices[0], devices[pace["rank"]]
    assert slow["phases_sec"][phase] - quick["phases_sec"][phase] > SLEEP_SEC / 2
    assert quick["waits_sec"] - slow["waits_sec"] > SLEEP_SEC / 2


def test_a_device_that_is_slow_now_and_then_is_told_so(ends):
    for rank in ends("ddp-2-slow-data-rarely"):
        pace = rank["pace"]
        assert (pace["rank"], pace["phase"], pace["is_constant"]) == (1, "data", False)
        assert 0 < pace["late_share"] < 0.75


def test_one_collective_a_logging_step_which_none_waits_for_and_one_at_the_end(ends):
    for rank in ends("ddp-2"):
        assert (rank["sent"], rank["gathers"]) == (STEPS[2] // LOG_EVERY, 1)
    for rank in ends("ddp-2-without"):
        assert (rank["sent"], rank["gathers"]) == (0, 0)


def test_values_that_are_read_later_are_logged_at_the_step_that_they_belong_to(ends, tmp_path_factory):
    """In the second of two windows one rank is slow; the last values are sent where fit ends."""
    ends("ddp-2-slow-data-window-logged")
    files = tmp_path_factory.getbasetemp().glob("ranks*/ddp-2-slow-data-window-logged/metrics.csv")
    (path,) = {path.resolve() for path in files}
    rows = list(csv.DictReader(path.read_text().splitlines()))
    own = [int(row["step"]) for row in rows if row["train/loss"]]
    seconds = {int(row["step"]): float(row["time/step_sec"]) for row in rows if row["time/step_sec"]}
    assert list(seconds) == own == [9, 19]
    assert seconds[19] - seconds[9] > SLEEP_SEC / 2


def test_what_the_first_rank_knows_of_the_dtypes_is_told_on_every_rank(ends):
    hint = 'bfloat16 matmuls run 4.0 times as fast as float32 on this device: precision="bf16-true".'
    for rank in ends("ddp-2-told"):
        hints, mfu_fastest = rank["hints"]
        assert hints == (hint,)
        assert mfu_fastest == pytest.approx(rank["summary"][2] / 4)


def test_modules_are_told_under_ddp(ends):
    for rank in ends("ddp-2-modules"):
        assert rank["modules"][""] == 3 * TINY_FLOPS
        assert rank["modules"]["model.head"] == 3 * 4 * 2 * 8 * 16 * 64


def test_a_count_that_fails_on_one_rank_leaves_mfu_out_on_both_and_hangs_none(ends):
    for rank in ends("ddp-2-failing"):
        assert "throughput/tokens_per_sec" in rank["metrics"]
        assert "throughput/mfu" not in rank["metrics"]


def test_an_exchange_that_fails_on_one_rank_ends_the_run_and_lets_none_wait(run):
    done, ends = run("ddp-2-unheard")
    assert done.returncode != 0
    assert "ConnectionError: the network is gone" in done.stderr
    assert ends == []


def exit_code(done):
    """Of a process."""
    return 1 if is_aborted_by_gloo(done) else done.returncode


@pytest.mark.parametrize("how", ["raising", "interrupted"])
def test_a_run_that_breaks_off_ends_as_without_the_callback(run, how):
    (with_us, ours), (without_us, theirs) = run(f"ddp-2-{how}"), run(f"ddp-2-{how}-without")
    assert exit_code(with_us) == exit_code(without_us) != 0
    assert ours == theirs == []
    for done in (with_us, without_us):
        assert ("ArithmeticError: broken" in done.stderr) is (how == "raising")
