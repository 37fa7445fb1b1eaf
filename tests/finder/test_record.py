"""The result in the files of a run, read without the run, its callbacks or Lightning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from mfu_callback import BatchSizeFinder, MFUCallback
from mfu_callback.logs.directory import read_runs
from tests.helpers.finder_models import Tabular, fitted, trainer
from tests.helpers.runs import PEAK

ROOT = Path(__file__).parents[2]
# What TensorBoard answers of the runs of a directory, and which of what made the runs is loaded there.
TAB = """
import json, sys
from pathlib import Path
from tests.helpers.served_tab import get, plugin_on
plugin = plugin_on(Path(sys.argv[1]))
loaded = [name for name in ("lightning", "pytorch_lightning", "torch") if name in sys.modules]
print(json.dumps({"active": plugin.is_active(), "runs": get(plugin, "/runs")["runs"], "loaded": loaded}))
"""


def run_python(*arguments: object) -> str:
    """What a new process prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def measured(**options: Any) -> MFUCallback:
    return MFUCallback(peak=PEAK, warmup_steps=1, summary=None, **options)


def fit(directory: Path, *callbacks: Any, version: str = "run", csv: bool = False, **options: Any) -> Any:
    """Fit with a finder in the directory of the version; return the finder's result as plain data."""
    finder = BatchSizeFinder(max_size=12)
    logger = (CSVLogger if csv else TensorBoardLogger)(directory, name="", version=version)
    fitted(Tabular(), finder, *callbacks, logger=logger, **options)
    assert finder.result is not None
    return as_json(finder.result.as_dict())


def summaries(directory: Path) -> dict[str, Any]:
    return {file.name: json.loads(file.read_text()) for file in directory.rglob("mfu_summary*.json")}


@pytest.mark.parametrize("csv", [False, True])
def test_the_result_is_in_the_file_of_a_run_without_an_mfu_callback(tmp_path: Path, csv: bool) -> None:
    result = fit(tmp_path, csv=csv)
    assert result["batch_size"] == 12
    assert summaries(tmp_path) == {"mfu_summary.json": {"run": {"finder": result}}}
    (run,) = read_runs(tmp_path)
    assert run.record == {"run": {"finder": result}}
    assert run.problems == ()


def test_an_mfu_callback_writes_the_result_with_its_own_figures_into_one_file(tmp_path: Path) -> None:
    result = fit(tmp_path, measured())
    (record,) = summaries(tmp_path).values()
    assert record["steps"] == 2
    assert record["run"]["finder"] == result
    assert record["run"]["batch_size"] == 12


def test_the_tab_and_the_report_read_it_in_processes_that_know_no_lightning(tmp_path: Path) -> None:
    results = {"measured": fit(tmp_path, measured(), version="measured"), "alone": fit(tmp_path, version="alone")}
    answer = json.loads(run_python("-c", TAB, tmp_path))
    assert answer["active"]
    assert answer["loaded"] == []
    assert {run["name"]: run["figures"]["run"]["finder"] for run in answer["runs"]} == results
    for name in results:
        printed = run_python("-m", "mfu_callback.report", tmp_path, "--run", name)
        assert "batch size 12 a process, found by 3 trials within " in " ".join(printed.split())
        assert ("not measured" in printed) == (name == "alone")


def test_the_tab_is_there_for_a_result_alone(tmp_path: Path) -> None:
    fit(tmp_path)
    assert json.loads(run_python("-c", TAB, tmp_path))["active"]


def test_an_mfu_callback_that_is_to_write_no_board_keeps_the_result_out_of_event_files(tmp_path: Path) -> None:
    result = fit(tmp_path, measured(board=False), log_every_n_steps=1)
    (run,) = json.loads(run_python("-c", TAB, tmp_path))["runs"]
    assert run["figures"]["run"] is None
    assert summaries(tmp_path)["mfu_summary.json"]["run"]["finder"] == result


def test_a_second_fit_keeps_the_file_of_the_first(tmp_path: Path) -> None:
    first, second = fit(tmp_path), fit(tmp_path)
    found = {name: record["run"]["finder"] for name, record in summaries(tmp_path).items()}
    assert found == {"mfu_summary_1.json": first, "mfu_summary.json": second}


def test_a_resumed_run_has_the_result_of_its_checkpoint(tmp_path: Path) -> None:
    finder = BatchSizeFinder(max_size=12)
    fitted(Tabular(), finder, max_steps=-1, max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    run = trainer(BatchSizeFinder(), max_steps=-1, max_epochs=2, logger=CSVLogger(tmp_path, name="", version="run"))
    run.fit(Tabular(), ckpt_path=tmp_path / "last.ckpt")
    assert summaries(tmp_path)["mfu_summary.json"]["run"]["finder"] == as_json(finder.result.as_dict())


def test_a_run_without_a_logger_or_of_a_trial_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fitted(Tabular(), BatchSizeFinder(max_size=12))
    fitted(Tabular(), BatchSizeFinder(max_size=12), logger=CSVLogger(tmp_path), fast_dev_run=True)
    assert list(tmp_path.rglob("*")) == []


def test_a_directory_that_cannot_be_written_to_is_a_warning(tmp_path: Path) -> None:
    finder, logger = BatchSizeFinder(max_size=12), TensorBoardLogger(tmp_path, name="", version="run")
    (tmp_path / "run" / "mfu_summary.json").mkdir(parents=True)
    with pytest.warns(UserWarning, match="the result was not written to the run's directory"):
        fitted(Tabular(), finder, logger=logger)
    assert finder.result is not None
