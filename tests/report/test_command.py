"""`python -m mfu_callback.report`, as a command on the logs of real runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader, Dataset

from gpt import GPTModule
from mfu_callback import MFUCallback
from mfu_callback.logs.run_log import RunLog
from mfu_callback.report.compare import compare
from mfu_callback.report.page.html_file import write_page
from tests.helpers.event_files import cut_off, event_files
from tests.helpers.records import record_of_several, write_record
from tests.helpers.runs import PEAK, TINY, make_trainer, tiny_data

HOSTILE = "<img src=x onerror=alert(1)>[red]&{{name}}"


def report(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mfu_callback.report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


class Slow(Dataset):  # type: ignore[type-arg]
    """Real batches of tokens, after a wait."""

    def __init__(self, seconds: float) -> None:
        data = tiny_data()
        data.setup("fit")
        self.samples, self.seconds = data.train_dataloader().dataset, seconds

    def __len__(self) -> int:
        return 80

    def __getitem__(self, index: int) -> object:
        import time

        time.sleep(self.seconds)
        return self.samples[index]


def train(directory: Path, name: str, *, wait_sec: float = 0.0, csv: bool = False) -> None:
    logger = CSVLogger(directory, name="", version=name) if csv else TensorBoardLogger(directory, name="", version=name)
    trainer = make_trainer(MFUCallback(peak=PEAK, warmup_steps=1), logger=logger, max_steps=12)
    trainer.fit(GPTModule(TINY), DataLoader(Slow(wait_sec), batch_size=4))


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, the second of which waits for its data."""
    directory = tmp_path_factory.mktemp("runs")
    train(directory, "quick")
    train(directory, "waiting", wait_sec=0.08)
    return directory


def test_the_table_the_waterfall_and_the_advice_of_the_latest_run(logdir: Path) -> None:
    done = report(logdir)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert [name for name in ("quick", "waiting") if re.search(rf"│ {name} +│", done.stdout)] == ["quick", "waiting"]
    assert "Run waiting, 11 steps" in done.stdout
    assert "Where the machine went" in done.stdout
    assert "are waiting for data" in done.stdout
    assert "1 TFLOP/s" in done.stdout


def test_another_run_by_its_name(logdir: Path) -> None:
    done = report(logdir, "--run", "quick")
    assert "Run quick, 11 steps" in done.stdout
    done = report(logdir, "--run", "none")
    assert done.returncode == 2
    assert "has no run named 'none'. It has: quick, waiting" in done.stderr


def test_a_comparison_says_what_changed_and_which_phase_explains_it(tmp_path: Path) -> None:
    waits = WATERFALL | {"mfu": 0.2, "kernels": 0.05, "optimizer": 0.05, "data": 0.55, "other": 0.05}
    write_record(tmp_path / "quick", {"steps": 9, "tokens_per_sec": 100.0, "waterfall": WATERFALL})
    write_record(tmp_path / "waiting", {"steps": 9, "tokens_per_sec": 50.0, "waterfall": waits})
    done = report(tmp_path, "--run", "waiting", "--compare", tmp_path, "--compare-run", "quick")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "times as long" in said
    assert "100% of the difference is waiting for data: 1.000e-03 s before, 1.100e-02 s now." in said
    rows = {line.split("│")[1].strip(): line for line in done.stdout.splitlines() if line.count("│") > 4}
    assert "seconds of a token" in rows
    assert rows["data"].split("│")[4].strip().startswith("+")


def test_a_floor_for_ci(logdir: Path) -> None:
    assert report(logdir, "--fail-below-mfu", "1e-9").returncode == 0
    done = report(logdir, "--fail-below-mfu", "0.4")
    assert done.returncode == 1
    assert "the MFU of waiting is " in done.stderr
    assert "--fail-below-mfu asks for 0.4" in done.stderr


def test_a_run_without_mfu_is_below_any_floor(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,throughput/tokens_per_sec\n1,5\n")
    done = report(tmp_path, "--fail-below-mfu", "0.4")
    assert done.returncode == 1
    assert "the MFU of . is unknown" in done.stderr


@pytest.mark.parametrize("value", ["0", "40", "-1", "x", "nan"])
def test_a_floor_that_is_no_fraction_is_refused(value: str) -> None:
    done = report(".", f"--fail-below-mfu={value}")
    assert done.returncode == 2
    assert "is no fraction of the peak: 0.4 is 40 %" in done.stderr


def test_csv_logs_of_a_run_and_the_summary_beside_them(tmp_path: Path) -> None:
    train(tmp_path, "csv", csv=True)
    done = report(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Run csv, 11 steps" in done.stdout
    assert "attention full, backward 2 x" in done.stdout
    (tmp_path / "csv" / "mfu_summary.json").unlink()
    done = report(tmp_path)
    assert "Run csv, not ended yet or cut short" in done.stdout
    assert " s mean" in done.stdout


def test_of_runs_whose_logger_writes_no_log_here_the_summary_is_reported(logdir: Path, tmp_path: Path) -> None:
    text = (logdir / "quick" / "mfu_summary.json").read_text()
    for seconds, name in ((200, "a1b2"), (100, "zz9")):  # the names of such runs tell nothing about their order
        file = tmp_path / "project" / name / "mfu_summary.json"
        file.parent.mkdir(parents=True)
        file.write_text(text)
        os.utime(file, (seconds, seconds))
    done = report(tmp_path, "--html", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert "Run project/a1b2, 11 steps" in done.stdout
    assert "project/zz9" in (tmp_path / "page.html").read_text()


def test_nothing_to_report(tmp_path: Path) -> None:
    done = report(tmp_path)
    assert done.returncode == 2
    assert "has logged MFU: add MFUCallback()" in done.stderr
    done = report(tmp_path / "none")
    assert done.returncode == 2
    assert "is not a directory" in done.stderr
    done = report(tmp_path, "--compare-run", "x")
    assert done.returncode == 2
    assert "give --compare LOGDIR2 too" in done.stderr


def test_damaged_and_foreign_files_are_named_and_the_rest_reported(logdir: Path, tmp_path: Path) -> None:
    for name in ("quick", "waiting"):
        (tmp_path / name).mkdir()
        (file,) = event_files(logdir / name)
        (tmp_path / name / file.name).write_bytes(file.read_bytes())
    cut_off(event_files(tmp_path / "quick")[0], 7)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "events.out.tfevents.1.txt").write_text("an event file, they said")
    done = report(tmp_path, "--run", "waiting")
    assert done.returncode == 0
    assert "quick: events.out.tfevents" in done.stderr
    assert "ends in the middle of a record" in done.stderr
    assert "foreign: events.out.tfevents.1.txt is not an event file" in done.stderr
    assert "Without a value of MFUCallback: foreign" in done.stdout
    assert "Run waiting, 11 steps" in done.stdout


def test_names_are_text_whatever_they_are(tmp_path: Path) -> None:
    (tmp_path / HOSTILE).mkdir()
    (tmp_path / HOSTILE / "metrics.csv").write_text("step,throughput/mfu\n1,0.5\n")
    done = report(tmp_path, "--html", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert f"Run {HOSTILE}, " in done.stdout
    page = (tmp_path / "page.html").read_text()
    assert "<img src=x" not in page
    assert r"\u003cimg src=x onerror=alert(1)>[red]" in page


def test_the_page_is_complete_in_itself(logdir: Path, tmp_path: Path) -> None:
    done = report(logdir, "--html", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert f"Written: {tmp_path}" in done.stdout.replace("\n", "")
    page = (tmp_path / "page.html").read_text()
    before_plotly, after_plotly = page[: page.index("<script>")], page[page.index('id="held"') :]
    assert "default-src 'none'" in before_plotly
    assert not re.search(r"(src|href)=", before_plotly + after_plotly.replace("node.src || node.href", ""))
    assert not re.search(r"^(import|export) ", after_plotly, re.MULTILINE)


def test_a_page_that_cannot_be_written_is_an_error(logdir: Path, tmp_path: Path) -> None:
    done = report(logdir, "--html", tmp_path / "none" / "page.html")
    assert done.returncode == 2
    assert "page.html" in done.stderr


def test_without_plotly_the_page_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mfu_callback.report.page.html_file.plotly_file", lambda: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install plotly$"):
        write_page(tmp_path / "page.html", [RunLog(name="run")], title="x")


def test_without_what_reads_event_files_the_remedy_is_named(logdir: Path) -> None:
    script = "import sys; sys.modules['google_crc32c'] = None\nfrom mfu_callback.report.__main__ import main\n"
    script += f"sys.exit(main([{str(logdir)!r}]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install tensorboard google-crc32c" in done.stderr


def test_the_command_needs_neither_torch_nor_lightning(logdir: Path) -> None:
    script = "import sys; sys.modules['torch'] = sys.modules['lightning'] = None\n"
    script += f"from mfu_callback.report.__main__ import main\nsys.exit(main([{str(logdir)!r}]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_goes_away_is_no_error(logdir: Path) -> None:
    command = f"{sys.executable} -m mfu_callback.report {logdir} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


WATERFALL = {"mfu": 0.4, "data": 0.1, "optimizer": 0.1, "other": 0.1, "kernels": 0.2, "unreachable": 0.1}


def test_the_parts_of_a_difference_add_up() -> None:
    before = {"tokens_per_sec": 100.0, "waterfall": WATERFALL}
    shares = {"mfu": 0.2, "data": 0.55, "optimizer": 0.05, "other": 0.05, "kernels": 0.1, "unreachable": 0.05}
    after = {"tokens_per_sec": 50.0, "waterfall": shares}
    compared = compare(before, after)
    assert (compared.unit, compared.before, compared.after) == ("token", 0.01, 0.02)
    assert sum(now - was for was, now in compared.parts.values()) == pytest.approx(0.01)
    assert compared.explaining == "data"
    assert "2 times as long. 100% of the difference is waiting for data" in compared.sentence()


def test_a_run_of_before_these_parts_is_compared_with_one_on_several_devices() -> None:
    shares = {"mfu": 0.2, "data": 0.05, "optimizer": 0.05, "other": 0.05, "kernels": 0.1, "unreachable": 0.05}
    several = {"tokens_per_sec": 50.0, "waterfall": shares | {"communication": 0.4, "waiting": 0.1}}
    compared = compare({"tokens_per_sec": 100.0, "waterfall": WATERFALL}, several)
    assert compared.parts["communication"] == (0.0, 0.4 * 0.02)
    assert sum(now - was for was, now in compared.parts.values()) == pytest.approx(0.01)
    assert "80% of the difference is collectives between the devices that nothing hides" in compared.sentence()
    of_one = WATERFALL | {"communication": 0.0, "waiting": 0.0}
    both = compare({"tokens_per_sec": 100.0, "waterfall": of_one}, {"tokens_per_sec": 50.0, "waterfall": of_one})
    assert set(both.parts) == set(WATERFALL)


def test_all_of_a_run_on_several_devices_is_printed(tmp_path: Path) -> None:
    write_record(tmp_path / "several", record_of_several())
    done = report(tmp_path)
    assert done.returncode == 0, done.stderr
    for said in (
        "rank 1 on node: 40 ms a step later than the others, in data, in all steps",
        "1 GiB resident of 16 GiB (6%)",
        "│ communication │   5.00% │",
        "│   gaps        │   4.00% │",
        "batches of even length on all devices",
        "│ aten::op2 │",
        "of its roofline",
    ):
        assert said in done.stdout


def test_what_is_alike_or_unknown_is_not_explained() -> None:
    same = {"tokens_per_sec": 100.0, "waterfall": WATERFALL}
    assert compare(same, same).explaining is None
    assert "no real difference" in compare(same, same).sentence()
    without = {"tokens_per_sec": 50.0, "waterfall": None}
    assert compare(same, without).sentence().endswith("2 times as long.")
    assert "cannot be compared" in compare(same, {}).sentence()


def test_without_tokens_samples_or_steps_are_compared() -> None:
    assert compare({"samples_per_sec": 4.0}, {"samples_per_sec": 2.0}).unit == "sample"
    assert compare({"step_time_sec": 4.0}, {"mean_step_time_sec": 2.0}).after == 2.0


def test_facts_that_differ_are_listed() -> None:
    before = {"run": {"precision": "32-true", "devices": 1}, "peak": {"flops_per_sec": 1e12, "source": "given: peak="}}
    after = {"run": {"precision": "bf16-mixed", "devices": 1}}
    assert compare(before, after).facts == (
        ("precision", "32-true", "bf16-mixed"),
        ("peak", "1 TFLOP/s", "unknown"),
        ("source of the peak", "given: peak=", "unknown"),
    )
