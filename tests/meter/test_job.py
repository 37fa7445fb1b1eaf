import json
import math
from dataclasses import replace

import pytest
import torch

from mfu_callback.meter.done import Done, foreseen, of_all
from mfu_callback.meter.job import Job, Progress, job_of, state_of
from mfu_callback.meter.ledger import PARTS
from tests.helpers.runs import FakeNow

WALL = dict.fromkeys(PARTS, 0.0) | {"training": 60.0, "setup": 30.0, "lost": 7.0, "rest": 3.0}
JOB = Job(
    began_at=1000.0,
    at=1100.0,
    restarts=1,
    steps=5,
    samples=20,
    tokens=160,
    flops=2**40,
    device_hours=0.5,
    wall_time_sec=WALL,
)


def test_a_state_is_plain_numbers_and_comes_back_as_it_was(tmp_path):
    state = state_of(JOB)
    torch.save(state, tmp_path / "state.pt")
    assert job_of(torch.load(tmp_path / "state.pt", weights_only=True)) == JOB
    assert job_of(json.loads(json.dumps(state))) == JOB
    assert state["version"] == 1


def test_a_state_may_lack_amounts_and_have_others():
    state = state_of(JOB)
    del state["samples"]
    assert job_of(state | {"epochs": 3}) == replace(JOB, samples=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "has version 2, of which this mfu-callback knows nothing; it reads 1"),
        ({"version": None}, "has version None"),
        ({"tokens": -1}, "is damaged: tokens=-1"),
        ({"steps": 1.5}, r"is damaged: steps=1\.5"),
        ({"flops": torch.tensor(3)}, r"is damaged: flops=tensor\(3\)"),
        ({"at": math.nan}, "is damaged: at=nan"),
        ({"began_at": None}, "is damaged: began_at=None"),
        ({"device_hours": True}, "is damaged: device_hours=True"),
        ({"wall_time_sec": {"training": "long"}}, "is damaged: wall_time_sec="),
        ({"wall_time_sec": {"coffee": 1.0}}, "is damaged: wall_time_sec="),
        ({"wall_time_sec": [1.0]}, "is damaged: wall_time_sec="),
    ],
)
def test_a_state_that_is_none_says_why(change, message):
    with pytest.raises(ValueError, match=message):
        job_of(state_of(JOB) | change)


@pytest.mark.parametrize("missing", ["began_at", "at", "wall_time_sec", "version"])
def test_a_state_without_what_a_job_is_known_by_is_none(missing):
    state = state_of(JOB)
    del state[missing]
    with pytest.raises(ValueError, match=missing):
        job_of(state)


@pytest.mark.parametrize("state", [None, 3, [1], "state"])
def test_what_is_no_mapping_is_no_state(state):
    with pytest.raises(ValueError, match="and no mapping"):
        job_of(state)


@pytest.mark.parametrize(
    ("began_at", "last_seen", "lost", "down"),
    [
        (1140.0, 1125.0, 25.0, 15.0),
        (1140.0, 0.0, 0.0, 40.0),  # nothing is known
        (1140.0, 1500.0, 40.0, 0.0),
        (1090.0, 1095.0, 0.0, 0.0),  # another machine's clock
    ],
)
def test_the_gap_is_lost_until_the_earlier_fit_was_last_seen_and_down_from_then_on(began_at, last_seen, lost, down):
    wall = JOB.gone_on(began_at, last_seen)
    assert wall == {**WALL, "lost": 7.0 + lost, "down": down}


def test_a_fit_that_goes_on_adds_to_what_was_carried():
    now = FakeNow()
    now.seconds = 1140.0
    progress = Progress(2, now)
    progress.go_on_from(JOB, 1125.0)
    now.seconds = 1150.0
    own = Done(steps=3, samples=4, tokens=32, real_tokens=20, flops=64, device_sec=9.0)
    job = progress.job(own, {"training": 8.0, "rest": 1.0})
    assert job == Job(
        began_at=1000.0,
        at=1150.0,
        restarts=2,
        steps=8,
        samples=28,
        tokens=224,
        real_tokens=None,  # the checkpoint does not know them
        flops=2**40 + 128,
        device_hours=pytest.approx(0.5 + 18.0 / 3600),
        wall_time_sec={**WALL, "training": 68.0, "lost": 32.0, "down": 15.0, "rest": 4.0},
    )
    assert sum(job.wall_time_sec.values()) == 149.0  # and a second that the parts of this fit do not have
    progress.end()
    now.seconds = 9999.0
    assert progress.job(own, {}).at == 1150.0


def test_a_fit_of_its_own_is_a_job_of_its_own():
    now = FakeNow()
    now.seconds = 5.0
    progress = Progress(1, now)
    now.seconds = 6.0
    job = progress.job(Done(steps=1, samples=2, device_sec=1.0), {"training": 1.0})
    assert (job.began_at, job.at, job.restarts, job.steps, job.samples) == (5.0, 6.0, 0, 1, 2)


def test_what_the_others_have_done_since_they_told_is_foreseen_from_their_share_until_then():
    then = Done(steps=4, samples=8, tokens=64, real_tokens=math.nan, flops=100.0, device_sec=10.0)
    told = [then, replace(then, samples=16, tokens=32, device_sec=12.0)]
    now = Done(steps=6, samples=12, tokens=96, real_tokens=math.nan, flops=150.0, device_sec=15.0)
    all_now = foreseen(now, then, of_all(told), 2)
    assert (all_now.steps, all_now.samples, all_now.tokens, all_now.flops) == (6, 36, 144, 300.0)
    assert all_now.device_sec == pytest.approx(33.0)
    assert math.isnan(all_now.real_tokens)
    before = foreseen(now, Done(), Done(), 2)
    assert (before.steps, before.samples, before.tokens, before.device_sec) == (6, 24, 192, 30.0)
