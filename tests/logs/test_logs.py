"""Reading what runs have logged: event files, sound and damaged, CSV files, and the figures made of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from gpt import GPTModule
from mfu_callback import MFUCallback
from mfu_callback.logs.directory import read_runs
from mfu_callback.logs.figures import figures_of, step_time_sec
from mfu_callback.logs.record_json import record_from
from mfu_callback.logs.records import CutOffError, DamagedFileError, records
from mfu_callback.logs.run_log import RunLog, Series, own_tag
from mfu_callback.meter.tags import MFU, PARTS_OF_SEVERAL, STEP_TIME_SEC, TOKENS_PER_SEC, WATERFALL
from tests.helpers.event_files import cut_off, damage, event_files
from tests.helpers.runs import PEAK, TINY, make_trainer, tiny_data


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was logged to TensorBoard and to a CSV file."""
    directory = tmp_path_factory.mktemp("logs")
    loggers = [TensorBoardLogger(directory, name="", version="board"), CSVLogger(directory, name="csv", version="")]
    trainer = make_trainer(MFUCallback(peak=PEAK, warmup_steps=1), logger=loggers, max_steps=20)
    trainer.fit(GPTModule(TINY), datamodule=tiny_data())
    return directory


def by_name(directory: Path) -> dict[str, RunLog]:
    return {run.name: run for run in read_runs(directory)}


def test_an_event_file_and_a_csv_file_of_one_run_say_the_same(logdir: Path) -> None:
    runs = by_name(logdir)
    assert list(runs) == ["board", "csv"]
    assert runs["board"].scalars.keys() == runs["csv"].scalars.keys()
    for tag, series in runs["board"].scalars.items():
        other = runs["csv"].scalars[tag]
        assert series.steps == other.steps == list(range(1, 20))
        assert series.values == pytest.approx(other.values)
        assert len(series.wall_times) == 19
        assert other.wall_times == []


def test_figures_of_the_windows_are_those_of_the_whole_run(logdir: Path) -> None:
    run = by_name(logdir)["board"]
    whole, made = figures_of(run), figures_of(replace(run, record=None))
    assert whole["steps"] == 19
    for name in ("mfu", "tokens_per_sec", "samples_per_sec"):
        assert made[name] == pytest.approx(whole[name], rel=1e-4)
    assert made["waterfall"] == pytest.approx(whole["waterfall"], abs=1e-4)
    assert sum(made["waterfall"].values()) == pytest.approx(1, abs=1e-6)
    assert made["mean_step_time_sec"] == pytest.approx(sum(whole["phases_sec"].values()), rel=1e-4)


def test_windows_weigh_as_much_as_they_last() -> None:
    # Ten steps of 1 s at 0.5, then ten of 3 s at 0.1: (10 * 0.5 + 30 * 0.1) / 40.
    scalars = {
        STEP_TIME_SEC: Series(steps=[9, 19], values=[1.0, 3.0]),
        MFU: Series(steps=[9, 19], values=[0.5, 0.1]),
        TOKENS_PER_SEC: Series(steps=[19], values=[7.0]),
    }
    figures = figures_of(RunLog(name="run", scalars=scalars))
    assert figures["mfu"] == pytest.approx(0.2)
    assert figures["tokens_per_sec"] == 7.0
    assert step_time_sec(figures) == 2.0
    assert figures["hfu"] is None


def test_of_a_total_the_last_value_is_the_whole() -> None:
    scalars = {"total/tokens": Series(steps=[1, 3], values=[20.0, 60.0])}
    assert figures_of(RunLog(name="run", scalars=scalars))["total_tokens"] == 60.0


def test_a_run_without_step_times_has_plain_means() -> None:
    figures = figures_of(RunLog(name="run", scalars={MFU: Series(steps=[1, 2], values=[0.2, 0.4])}))
    assert figures["mfu"] == pytest.approx(0.3)
    assert step_time_sec(figures) is None


def test_a_run_that_goes_on_has_the_facts_of_its_record_and_the_figures_of_its_points() -> None:
    record = {"steps": 0, "mfu": None, "peak": {"flops_per_sec": 1e12}}
    figures = figures_of(RunLog(name="run", record=record, scalars={MFU: Series(steps=[1], values=[0.2])}))
    assert figures["peak"] == {"flops_per_sec": 1e12}
    assert figures["mfu"] == 0.2


def copied(logdir: Path, tmp_path: Path) -> Path:
    (source,) = event_files(logdir / "board")
    file = tmp_path / source.name
    file.write_bytes(source.read_bytes())
    return file


def test_a_file_that_is_cut_off_gives_what_comes_before(logdir: Path, tmp_path: Path) -> None:
    file = copied(logdir, tmp_path)
    cut_off(file, 2000)
    (run,) = read_runs(tmp_path)
    assert 0 < len(run.scalars[MFU].steps) < 19 or run.record is not None
    (problem,) = run.problems
    assert problem.startswith(f"{file.name} ends in the middle of a record, at byte ")


def test_a_file_that_is_damaged_gives_what_comes_before(logdir: Path, tmp_path: Path) -> None:
    file = copied(logdir, tmp_path)
    ends = [end for end, _ in records(file)]
    half = ends[len(ends) // 2]
    damage(file, half + 20)
    (run,) = read_runs(tmp_path)
    assert run.problems == (f"{file.name} is damaged at byte {half:,}; what comes before is shown",)
    assert 0 < len(run.scalars[MFU].steps) < 19


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"<html>not found</html> and so on", "is not an event file; what comes before is shown"),
        (b"\x01\x02", "ends in the middle of a record, at byte 0"),
    ],
)
def test_files_that_are_none_are_named_and_the_rest_is_read(
    logdir: Path, tmp_path: Path, content: bytes, problem: str
) -> None:
    (tmp_path / "good").mkdir()
    copied(logdir, tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "events.out.tfevents.1").write_bytes(content)
    runs = by_name(tmp_path)
    assert len(runs["good"].scalars[MFU].steps) == 19
    assert not runs["bad"].has_values
    assert problem in runs["bad"].problems[0]


def test_a_checksum_that_fits_over_something_that_is_no_event(tmp_path: Path) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    file = tmp_path / "events.out.tfevents.2"
    with file.open("wb") as opened:
        RecordWriter(opened).write(b"\xff\xfe no event")
    (run,) = read_runs(tmp_path)
    assert "holds something other than events" in run.problems[0]


def test_event_files_of_other_tools_have_no_values_of_ours(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("loss", 1.0, 1)
        writer.add_text("mfu_callback/run", "no record")
        writer.add_scalar("throughput/mfu/more", 1.0, 1)
    (run,) = read_runs(tmp_path)
    assert not run.has_values
    assert run.problems == ()


def test_points_that_are_no_numbers_are_left_out_and_those_logged_twice_count_once(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for step, value in [(1, 0.1), (2, math.nan), (3, math.inf), (4, 0.2), (4, 0.4), (2, 0.3)]:
            writer.add_scalar("throughput/mfu", value, step)
        writer.add_scalar("throughput/tokens_per_sec", 5.0, 1, new_style=True)
    (run,) = read_runs(tmp_path)
    assert run.scalars[MFU] == Series(
        steps=[1, 2, 4], values=[0.1, 0.3, 0.4], wall_times=run.scalars[MFU].wall_times
    ) or (run.scalars[MFU].steps == [1, 2, 4])
    assert run.scalars[MFU].values == pytest.approx([0.1, 0.3, 0.4])
    assert run.scalars[TOKENS_PER_SEC].values == [5.0]


@pytest.mark.parametrize(
    ("tag", "own"),
    [
        ("throughput/mfu", "throughput/mfu"),
        ("a-b-throughput/mfu", "throughput/mfu"),
        ("athroughput/mfu", None),
        ("train/loss", None),
        ("", None),
    ],
)
def test_tags_are_known_whatever_the_loggers_prefix(tag: str, own: str | None) -> None:
    assert own_tag(tag) == own


def test_records_of_real_runs_are_records(logdir: Path) -> None:
    text = (logdir / "board" / "mfu_summary.json").read_text()
    assert record_from(text) == json.loads(text)
    with_more = json.loads(text) | {"what a later version may add": [1]}
    assert record_from(json.dumps(with_more)) == with_more


def test_names_and_texts_hold_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    directory = tmp_path / "run\x1b[2J\u202egnp\udcff"
    directory.mkdir()
    (directory / "metrics.csv").write_text("step,throughput/mfu\n1,0.5\n")
    (directory / "mfu_summary.json").write_text(json.dumps({"steps": 1, "advice": "\x1b]0;title\x07", "run": {}}))
    (run,) = read_runs(tmp_path)
    assert run.name == r"run\x1b[2J\u202egnp\udcff"
    assert figures_of(run)["advice"] == r"\x1b]0;title\x07"


def test_a_record_beside_a_csv_file_belongs_to_it(logdir: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text((logdir / "csv" / "metrics.csv").read_text())
    (tmp_path / "mfu_summary.json").write_text(json.dumps({"steps": 5, "mfu": 0.25}))
    (run,) = read_runs(tmp_path)
    assert run.name == "."
    assert figures_of(run)["mfu"] == 0.25
    (tmp_path / "mfu_summary.json").write_text("{")
    (run,) = read_runs(tmp_path)
    assert run.record is None
    assert run.problems == ("mfu_summary.json cannot be read",)


@pytest.mark.parametrize(
    ("content", "steps", "problems"),
    [
        ("step,throughput/mfu\n1,0.5\n2,\n3,0.2", [1, 3], ()),
        ("step,throughput/mfu\n1,0.5\n2,0.", [1, 2], ()),
        ("step,throughput/mfu\nx,0.5\n2,y\n3,0.1,9,9\n4", [3], ()),
        ("a,b\n1,2\n", [], ("metrics.csv has no column named step",)),
        ("", [], ("metrics.csv has no column named step",)),
        ("step,throughput/mfu\n\x00\x01,0.5\n7,0.5\n", [7], ()),
    ],
)
def test_a_csv_file_with_gaps_or_cut_off(
    tmp_path: Path, content: str, steps: list[int], problems: tuple[str, ...]
) -> None:
    (tmp_path / "metrics.csv").write_text(content)
    (run,) = read_runs(tmp_path)
    assert run.scalars.get(MFU, Series()).steps == steps
    assert run.problems == problems


def test_links_in_a_circle_are_walked_once(logdir: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    copied(logdir, tmp_path / "run")
    (tmp_path / "run" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "run")
    assert len(read_runs(tmp_path)) == 1


def test_no_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="is not a directory"):
        read_runs(tmp_path / "none")


def test_records_are_read_on_from_any_place(logdir: Path) -> None:
    (file,) = event_files(logdir / "board")
    all_of_them = list(records(file))
    end, _ = all_of_them[3]
    assert list(records(file, end)) == all_of_them[4:]


def test_each_kind_of_damage_has_its_error(logdir: Path, tmp_path: Path) -> None:
    file = copied(logdir, tmp_path)
    damage(file, 0)
    with pytest.raises(DamagedFileError, match="is not an event file"):
        list(records(file))
    damage(file, 0)
    cut_off(file, 1)
    with pytest.raises(CutOffError):
        list(records(file))


def test_all_of_the_waterfall_or_none_of_it() -> None:
    scalars: dict[str, Any] = {name: Series(steps=[1], values=[1 / 8]) for name in WATERFALL.values()}
    assert figures_of(RunLog(name="run", scalars=scalars))["waterfall"] == pytest.approx(
        dict.fromkeys(WATERFALL, 1 / 8)
    )
    for part in PARTS_OF_SEVERAL:  # not logged with a single device
        scalars.pop(WATERFALL[part])
    none = dict.fromkeys(PARTS_OF_SEVERAL, 0.0)
    expected = dict.fromkeys(WATERFALL, 1 / 8) | none
    assert figures_of(RunLog(name="run", scalars=scalars))["waterfall"] == pytest.approx(expected)
    scalars.pop("waterfall/data")
    assert figures_of(RunLog(name="run", scalars=scalars))["waterfall"] is None
