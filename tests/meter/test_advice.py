"""What a run is told, from given facts: each rule where its cause is there, and where it is not."""

from dataclasses import replace

import pytest

from mfu_callback.meter.advice import ABOVE_ONE, RULES, SHORTEST_STEP_SEC, advice_of, advice_of_run, applying
from mfu_callback.meter.circumstances import Circumstances
from mfu_callback.meter.devices import PaceSetter
from mfu_callback.meter.facts import Facts
from mfu_callback.meter.tags import WATERFALL_PARTS

NOTHING = Circumstances()
NONE = dict.fromkeys(WATERFALL_PARTS, 0.0)
STEP_SEC = 0.1
HINT = 'float32 matmuls run 59 times as fast as bfloat16 on this device: precision="32-true".'
ON_CUDA = Circumstances(device="cuda", cores=16, num_workers=4, pin_memory=True, unfused=(), is_compiled=True)
LOST = "are lost since forward and backward run below the rate of the best matmuls"
SPLIT = {"matmuls": 0.1, "attention": 0.05, "memory": 0.05, "transfers": 0.0, "gaps": 0.0}


def facts(circumstances=NOTHING, **known):
    """Facts of a step of 100 ms: names of parts are their shares, the rest is MFU."""
    shares = {part: known.pop(part) for part in WATERFALL_PARTS if part in known}
    waterfall = NONE | shares | {"mfu": shares.get("mfu", 1 - sum(shares.values()))}
    return Facts(step_time_sec=STEP_SEC, waterfall=waterfall, circumstances=circumstances, **known)


def pace(phase, *, is_constant=True, **known):
    defaults = {"rank": 1, "host": "node7", "behind_sec": 0.038, "late_share": 1.0 if is_constant else 0.25}
    return PaceSetter(phase=phase, is_constant=is_constant, **defaults | known)


def compute(lost=0.5, mfu=0.5, circumstances=ON_CUDA):
    """Facts of a step that is all forward and backward; ``lost`` is the share of the kernels."""
    waterfall = NONE | {"kernels": lost, "mfu": mfu}
    return Facts(step_time_sec=STEP_SEC, waterfall=waterfall, circumstances=circumstances)


# Rule, facts with its cause, the sentence, facts without it in which the rule is silent.
CASES = {
    "setting 1": (
        replace(compute(), hints=(HINT,), hint_times=(59.0,)),
        HINT,
        compute(),
    ),
    "setting 2": (
        replace(compute(), hints=("One.", "torch computes with one thread: more."), hint_times=(2.0, 2.0)),
        "torch computes with one thread: more.",
        replace(compute(), hints=("One.", "TF32 is off: on."), hint_times=(16.0, 8.0)),  # nothing is left of it
    ),
    "no workers": (
        facts(Circumstances(num_workers=0, cores=8, device="cpu", pin_memory=False), data=0.41),
        "41 ms of 100 ms a step are waiting for data, which the training process loads itself (num_workers=0):"
        " DataLoader(num_workers=2).",
        facts(Circumstances(num_workers=0, cores=8), data=0.04),
    ),
    "memory is not pinned": (
        facts(replace(ON_CUDA, pin_memory=False), data=0.2),
        "20 ms of 100 ms a step are waiting for data from 4 workers: DataLoader(num_workers=6, pin_memory=True).",
        facts(replace(ON_CUDA, device="cpu", pin_memory=False), data=0.2),
    ),
    "few workers": (
        facts(ON_CUDA, data=0.5),
        "50 ms of 100 ms a step are waiting for data from 4 workers: DataLoader(num_workers=9).",
        facts(ON_CUDA, data=0.04),
    ),
    "data": (
        facts(data=0.41),
        "41 ms of 100 ms a step are waiting for data: more workers (num_workers), or pin_memory.",
        facts(data=0.04),
    ),
    "not fused": (
        facts(replace(ON_CUDA, unfused=("AdamW", "SGD")), optimizer=0.3),
        "30 ms of 100 ms a step are spent in the optimizer (AdamW, SGD without fused=True): AdamW(..., fused=True) and"
        " SGD(..., fused=True).",
        facts(ON_CUDA, optimizer=0.3),
    ),
    "optimizer": (
        facts(ON_CUDA, optimizer=0.3),
        "30 ms of 100 ms a step are spent in the optimizer: larger batches, or Trainer(accumulate_grad_batches=2), so"
        " that it steps less often.",
        facts(ON_CUDA, optimizer=0.09),
    ),
    "callbacks": (
        facts(Circumstances(log_every_n_steps=1, callbacks=("Sleeping",)), other=0.2),
        "20 ms of 100 ms a step are spent in callbacks and logging: Trainer(log_every_n_steps=50), or look"
        " at Sleeping.",
        facts(other=0.055),  # 1 ms of it is the loop's own
    ),
    "padding": (
        replace(facts(), tokens_per_sec=1000.0, real_tokens_per_sec=600.0),
        "40% of the tokens are padding, which takes 40 ms of 100 ms a step: batches of like length (sort by length), or"
        " several sequences packed into one.",
        replace(facts(), tokens_per_sec=1000.0, real_tokens_per_sec=710.0),
    ),
    "slow device": (
        replace(compute(), pace=pace("forward")),
        "The others wait 38 ms of 100 ms a step for rank 1 on node7, whose forward pass takes longer: check that device"
        " (clocks, temperature, other processes), and whether its batches are larger.",
        replace(compute(), pace=pace("data")),
    ),
    "allocator": (
        replace(compute(), steps=20, memory={"retries": 30, "share": 0.99}),
        f"50 ms of 100 ms a step {LOST}, and the allocator ran out of memory and emptied its cache 1.5 times a step:"
        " PYTORCH_ALLOC_CONF=expandable_segments:True, or smaller batches with accumulate_grad_batches.",
        replace(compute(), steps=20, memory={"retries": None, "share": 0.99}),
    ),
    "swap": (
        replace(compute(), memory={"swapped_bytes": 2**30, "resident_bytes": 3 * 2**30}),
        f"50 ms of 100 ms a step {LOST}, and 25% of this process's memory (1.0 GiB) is swapped out: smaller batches"
        " with accumulate_grad_batches, fewer workers, or a machine with more memory.",
        replace(compute(), memory={"swapped_bytes": 2**20, "resident_bytes": 3 * 2**30}),
    ),
    "kernels: gaps": (
        replace(compute(circumstances=replace(ON_CUDA, is_compiled=False)), kernels=SPLIT | {"gaps": 0.3}),
        "30 ms of 100 ms a step run no operator, since Python is slower than what it starts: torch.compile, or larger"
        " batches.",
        replace(compute(), kernels=SPLIT | {"gaps": 0.09}),
    ),
    "kernels: memory": (
        replace(compute(circumstances=NOTHING), kernels=SPLIT | {"memory": 0.3}),
        "30 ms of 100 ms a step go to operators that only move memory (norms, activations, sums): torch.compile, which"
        " fuses them.",
        replace(compute(), kernels=SPLIT),
    ),
    "kernels: attention": (
        replace(compute(), kernels=SPLIT | {"attention": 0.3}),
        "30 ms of 100 ms a step are lost in attention below the rate of the best matmul:"
        " torch.nn.functional.scaled_dot_product_attention, or flex_attention for masks of your own.",
        replace(compute(), kernels=SPLIT),
    ),
    "kernels: transfers": (
        replace(compute(), kernels=SPLIT | {"transfers": 0.3}),
        "30 ms of 100 ms a step are copies between the host and the device: no .item(), .cpu() or print of a tensor in"
        " each step, and DataLoader(pin_memory=True).",
        replace(compute(), kernels=SPLIT),
    ),
    "kernels: matmuls": (
        replace(compute(), kernels=SPLIT | {"matmuls": 0.3}),
        "30 ms of 100 ms a step are lost in matmuls below the rate of the best one: larger batches, and sizes that are"
        " multiples of 64.",
        replace(compute(), kernels=SPLIT | {"gaps": 0.3}),
    ),
    "small kernels": (
        compute(0.9, 0.002, circumstances=Circumstances(modules=400, is_compiled=False)),
        f"90 ms of 100 ms a step {LOST}: 225 us for each of its 400 modules, whose matmuls would take 0.5 us:"
        " torch.compile, or larger batches.",
        compute(0.5, 0.5, circumstances=Circumstances(modules=400, is_compiled=False)),
    ),
    "no matmuls": (
        compute(0.9, 1e-5, circumstances=Circumstances(modules=4)),
        f"90 ms of 100 ms a step {LOST}; its matmuls would take less than 0.01 ms, so something else takes the time:"
        " look at what else the step does; MFUCallback(operators=True) names the operators.",
        compute(0.9, 0.1, circumstances=Circumstances(modules=4)),
    ),
    "small batch": (
        replace(
            compute(circumstances=replace(ON_CUDA, modules=100, batch_size=4)), memory={"share": 0.06, "retries": 0}
        ),
        f"50 ms of 100 ms a step {LOST}; with batches of 4, 6% of the memory is in use: larger batches (BatchSizeFinder"
        " finds the largest).",
        replace(
            compute(circumstances=replace(ON_CUDA, modules=100, batch_size=4)), memory={"share": 0.6, "retries": 0}
        ),
    ),
    "kernels": (
        compute(circumstances=NOTHING),
        f"50 ms of 100 ms a step {LOST}: larger batches, torch.compile, or fused attention.",
        compute(0.19, 0.81),
    ),
    "communication": (
        facts(communication=0.3),
        "30 ms of 100 ms a step are collectives that nothing hides: larger batches, Trainer(accumulate_grad_batches=2),"
        " other buckets (DDPStrategy(bucket_cap_mb=100)), gradients compressed by a ddp_comm_hook, or a faster"
        " network.",
        facts(communication=0.09),
    ),
    "late in turn": (
        facts(waiting=0.3),
        "30 ms of 100 ms a step are waiting for devices that are late in turn: batches of even length on all devices"
        " (sort by length), or look what else runs on their machines.",
        facts(waiting=0.09),
    ),
    "unreachable": (
        facts(unreachable=0.3),
        "30 ms of 100 ms a step are out of reach, since the best matmul of this device stays below its peak: check its"
        " power limit, clocks and cooling.",
        facts(unreachable=0.24),
    ),
}


def speaking(known):
    return [rule.name for rule, _ in applying(known)]


def test_every_rule_has_its_cases():
    assert list(CASES) == [rule.name for rule in RULES]


@pytest.mark.parametrize("name", CASES)
def test_a_cause_that_is_there_is_named_with_its_figure_and_a_remedy(name):
    there, sentence, _ = CASES[name]
    assert name in speaking(there)
    assert sentence in advice_of(there).splitlines()


@pytest.mark.parametrize("name", CASES)
def test_a_cause_that_is_not_there_is_not_named(name):
    _, _, absent = CASES[name]
    assert name not in speaking(absent)


def test_nothing_is_said_of_a_run_that_loses_nothing_or_of_which_nothing_is_known():
    assert advice_of(facts()) is None
    assert advice_of(Facts()) is None


def test_the_two_largest_gains_are_said_the_larger_first():
    lines = advice_of(facts(data=0.2, optimizer=0.3, other=0.4)).splitlines()
    assert [line.split(" a step")[0] for line in lines] == ["40 ms of 100 ms", "30 ms of 100 ms"]


def test_one_rule_speaks_for_each_loss_and_the_most_specific_one():
    known = facts(replace(ON_CUDA, num_workers=0, pin_memory=False, unfused=("AdamW",)), data=0.4, optimizer=0.3)
    assert speaking(known) == ["no workers", "not fused"]
    assert "DataLoader(num_workers=2, pin_memory=True)" in advice_of(known)


def test_what_a_faster_setting_would_change_is_not_said_beside_it():
    known = replace(facts(kernels=0.3, unreachable=0.3, data=0.2), hints=(HINT,), hint_times=(59.0,))
    assert speaking(known) == ["setting 1", "data"]


def test_a_setting_that_saves_less_than_another_loss_comes_after_it():
    known = replace(facts(data=0.8), hints=(HINT,), hint_times=(2.0,))
    assert speaking(known) == ["data", "setting 1"]


def test_of_the_operators_only_the_matmuls_and_attention_gain_by_a_faster_dtype():
    known = replace(facts(kernels=0.6, mfu=0.4), hints=(HINT,), hint_times=(2.0,))
    assert applying(known)[0][1] == pytest.approx(0.05)
    split = dict.fromkeys(SPLIT, 0.0) | {"memory": 0.4, "matmuls": 0.2}
    assert applying(replace(known, kernels=split))[0][1] == pytest.approx(0.03)


def test_mfu_above_one_comes_first_and_counts_as_one_of_the_two():
    assert advice_of(replace(facts(data=0.2, other=0.4), mfu=1.2)).splitlines() == [
        ABOVE_ONE,
        "40 ms of 100 ms a step are spent in callbacks and logging: log less often, or look at the callbacks.",
    ]
    assert advice_of(replace(facts(), mfu=1.0)) is None


def test_of_a_step_that_is_mostly_the_loops_own_work_only_settings_are_said():
    short = replace(facts(other=0.5), step_time_sec=SHORTEST_STEP_SEC * 0.99)
    assert advice_of(short) is None
    assert advice_of(replace(short, hints=(HINT,), hint_times=(59.0,))) == HINT
    assert advice_of(replace(short, step_time_sec=SHORTEST_STEP_SEC)) is not None
    assert advice_of(replace(short, step_time_sec=None)) is None


def test_a_gain_of_less_than_the_loops_own_work_is_not_worth_saying():
    assert advice_of(replace(facts(data=0.1), step_time_sec=0.009)) is None
    assert advice_of(replace(facts(data=0.1), step_time_sec=0.011)) is not None


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        (
            replace(facts(Circumstances(num_workers=0, cores=8), data=0.4), pace=pace("data")),
            "Rank 1 on node7 waits 40 ms of 100 ms a step for data, which the training process loads itself"
            " (num_workers=0); the others wait 38 ms for it: DataLoader(num_workers=2).",
        ),
        (
            replace(facts(data=0.4), pace=pace("data", is_constant=False, host="")),
            "Rank 1 waits 40 ms of 100 ms a step for data; the others wait 38 ms for it (in 25% of the steps): more"
            " workers (num_workers), or pin_memory.",
        ),
        (
            replace(facts(optimizer=0.4), pace=pace("optimizer")),
            "Rank 1 on node7 spends 40 ms of 100 ms a step in the optimizer; the others wait 38 ms for it: fused=True,"
            " or larger batches.",
        ),
        (
            replace(facts(other=0.4), pace=pace("other")),
            "Rank 1 on node7 spends 40 ms of 100 ms a step in callbacks and logging; the others wait 38 ms for it: log"
            " less often, or look at the callbacks.",
        ),
        (
            replace(compute(), pace=pace("backward", is_constant=False)),
            "The others wait 38 ms of 100 ms a step for rank 1 on node7 (in 25% of the steps), whose backward pass"
            " takes longer: batches of even length on all devices (sort by length), or look what else runs on their"
            " machines.",
        ),
    ],
)
def test_the_device_that_the_others_wait_for_is_named(known, sentence):
    assert advice_of(known).splitlines()[0] == sentence


@pytest.mark.parametrize(
    ("share", "workers", "cores", "asked"),
    [(0.2, 0, 8, 2), (0.9, 0, 8, 8), (0.85, 0, 64, 7), (0.5, 0, 1, 1), (0.1, 4, 64, 6), (0.5, 0, None, 2)],
)
def test_as_many_workers_are_asked_for_as_load_a_batch_while_the_step_goes_on(share, workers, cores, asked):
    known = facts(Circumstances(num_workers=workers, cores=cores), data=share)
    assert advice_of(known).endswith(f"DataLoader(num_workers={asked}).")


def test_no_workers_are_asked_for_where_there_are_no_cores_for_them():
    known = facts(Circumstances(num_workers=8, cores=8), data=0.5)
    assert advice_of(known).endswith("cheaper transforms, data that is prepared before the run, or a faster disk.")


def test_a_model_that_is_compiled_is_not_told_to_be():
    compiled = compute(0.9, 0.002, circumstances=replace(ON_CUDA, modules=400))
    assert advice_of(compiled).endswith('torch.compile(mode="reduce-overhead"), or larger batches.')
    for kernels in (None, SPLIT | {"memory": 0.3}):
        assert "torch.compile" not in advice_of(replace(compute(), kernels=kernels))


def test_a_clock_that_is_low_is_a_fact_about_what_is_out_of_reach():
    reasons = {"power cap": 0.8, "software thermal slowdown": 0.1}
    gpu = {"clock_mhz": 1100.0, "max_clock_mhz": 1980.0, "clock_share": 0.56, "throttle_reasons": reasons}
    known = replace(facts(unreachable=0.3), gpu=gpu)
    assert (
        ", and the clock was 1,100 of 1,980 MHz on average (power cap in 80 %, software thermal slowdown in 10 % of the"
        " readings): a higher power limit" in advice_of(known)
    )
    assert advice_of(replace(known, gpu=gpu | {"throttle_reasons": {"hardware thermal slowdown": 1.0}})).endswith(
        ": better cooling."
    )
    assert advice_of(replace(known, gpu=gpu | {"throttle_reasons": None})).endswith("limit, clocks and cooling.")
    assert advice_of(replace(known, gpu=gpu | {"clock_share": 0.99})) is None


def test_without_mfu_the_phases_of_a_single_device_tell_the_losses():
    phases = {"data": 0.04, "forward": 0.02, "backward": 0.03, "optimizer": 0.005, "other": 0.005}
    known = Facts(step_time_sec=0.09, phases_sec=phases)
    assert advice_of(known).startswith("40 ms of 100 ms a step are waiting for data")
    assert advice_of(replace(known, devices=(object(),))) is None


def test_the_parts_of_older_runs_are_enough():
    old = {"mfu": 0.4, "data": 0.41, "optimizer": 0.1, "other": 0.09, "kernels": 0.0, "unreachable": 0.0}
    assert advice_of_run((), old, 1.0).startswith("410 ms of 1 s a step are waiting for data: more workers")
    assert advice_of_run((), old, None) is None


def test_hints_need_no_step():
    assert advice_of_run(("One.", "Two."), None, 0.001) == "One.\nTwo."


def test_no_advice_calls_a_peak_the_datasheets():
    assert not any("datasheet" in sentence for _, sentence, _ in CASES.values())
