import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from mfu_callback import Peak
from mfu_callback.peaks.__main__ import main
from mfu_callback.peaks.cache import DIRECTORY_VARIABLE, CacheKey, keep_best
from mfu_callback.peaks.fp32_precision import fp32_precision
from mfu_callback.peaks.show import this_machine_table
from mfu_callback.peaks.survey import Surveyed, devices_here, survey
from mfu_callback.peaks.tables.devices import DEVICES

PEAK = Peak(flops_per_sec=1e15, name="X", dtype=torch.float32, source="measured: best of 20 matmuls")


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))


def run(*arguments):
    command = [sys.executable, "-W", "ignore", "-m", "mfu_callback.peaks", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_measures_this_machine_and_keeps_what_is_not_noisy():
    done = run("--dtype", "float32", "--time-limit", "0.2", "--json", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["device"], row["dtype"], row["row"], row["datasheet"]) == ("cpu", "float32", None, None)
    assert row["measured"]["flops_per_sec"] > 1e8
    assert row["measured"]["kind"] == "measured"
    kept = None if row["measured"]["is_noisy"] else row["measured"]  # this machine may be busy
    again = run("--dtype", "float32", "--no-measure", "--json", "--device", "cpu")
    assert json.loads(again.stdout)[0]["measured"] == kept
    keep_best(PEAK, CacheKey.of(torch.device("cpu"), torch.float32))
    cleared = run("--clear")
    assert cleared.stdout.startswith("Measured peaks removed: 1, from ")
    nothing = run("--dtype", "float32", "--no-measure", "--json", "--device", "cpu")
    assert (nothing.returncode, json.loads(nothing.stdout)[0]["measured"]) == (1, None)


def test_the_table_for_people(capsys):
    assert main(["--device", "cpu", "--dtype", "bfloat16", "--dtype", "float32", "--time-limit", "0.1"]) == 0
    out = capsys.readouterr().out
    assert "measured over datasheet" in out
    assert "\ncpu bfloat16: measured: best of " in out
    assert "\ncpu float32: measured: best of " in out


def test_all_prints_every_row_with_its_source(capsys):
    assert main(["--all"]) == 0
    out = capsys.readouterr().out
    lines = {line.split("│")[1].strip(): line for line in out.splitlines() if line.startswith("│")}
    assert set(lines) == {device.name for device in DEVICES}
    for device in DEVICES:
        number = lines[device.name].split("│")[-2].strip()
        assert f"\n[{number}] {device.source}\n" in out
        assert device.architecture is None or f"\n{device.architecture.name}: {device.architecture.source}\n" in out
    assert "* derived: units x boost clock" in out
    assert "…" not in out


def test_all_as_json_says_of_every_rate_where_it_is_from(capsys):
    assert main(["--all", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert len(rows) == len(DEVICES)
    a100 = rows["A100 SXM4 80GB"]
    assert a100["rates"]["bfloat16"]["tflops_per_sec"] == 312
    assert a100["rates"]["bfloat16"]["kind"] == "datasheet"
    assert (a100["memory_gb"], a100["bandwidth_gb_per_sec"]) == (80, 2039)
    kinds = {rate["kind"] for row in rows.values() for rate in row["rates"].values()}
    assert kinds == {"datasheet", "derived"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "gpu"], "argument --device: this machine has no device 'gpu' for torch"),
        (["--device", "cuda:99"], "argument --device: this machine has no device 'cuda:99' for torch"),
        (["--device", "meta"], "argument --device: this machine has no device 'meta' for torch"),
        (["--dtype", "int4"], "argument --dtype: invalid choice: 'int4'"),
        (["--time-limit", "0"], "argument --time-limit: '0' is not a number of seconds above 0"),
        (["--time-limit", "soon"], "argument --time-limit: 'soon' is not a number of seconds above 0"),
    ],
)
def test_a_wrong_option_is_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_ends_it_quietly():
    command = f"{sys.executable} -W ignore -m mfu_callback.peaks --all --json | head -2"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_cannot_be_cleared_is_an_error_in_a_line(monkeypatch, capsys):
    def fail():
        raise PermissionError("read-only file system")

    monkeypatch.setattr("mfu_callback.peaks.__main__.clear_cache", fail)
    assert main(["--clear"]) == 2
    assert capsys.readouterr().err == "python -m mfu_callback.peaks: read-only file system\n"


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    for option in ("--device", "--dtype", "--time-limit", "--no-measure", "--all", "--json", "--clear"):
        assert option in out


def test_a_survey_leaves_torchs_precision_settings_as_they_were():
    before = (fp32_precision("cuda"), fp32_precision("cpu"))
    survey(torch.device("cpu"), "tf32", time_limit_sec=0.1)
    assert (fp32_precision("cuda"), fp32_precision("cpu")) == before
    assert torch.get_float32_matmul_precision() == "highest"


def test_what_cannot_be_measured_is_said(monkeypatch, capsys):
    def fail(*arguments, **options):
        raise RuntimeError("no such kernel\nand a long trace")

    monkeypatch.setattr("mfu_callback.peaks.survey.measure_peak", fail)
    assert main(["--device", "cpu", "--dtype", "bfloat16"]) == 1
    assert "not measured: no such kernel" in capsys.readouterr().out


def test_the_accelerators_are_surveyed_one_by_one(monkeypatch):
    two = {"is_available": lambda: True, "current_accelerator": lambda: torch.device("cuda"), "device_count": lambda: 2}
    monkeypatch.setattr(torch, "accelerator", SimpleNamespace(**two), raising=False)
    assert devices_here() == [torch.device("cuda:0"), torch.device("cuda:1")]


def test_a_known_device_is_shown_with_its_row_and_the_ratio():
    row = next(device for device in DEVICES if device.name == "A100 SXM4 80GB")
    datasheet = Peak(flops_per_sec=312e12, name=row.name, dtype=torch.bfloat16, source=row.source)
    measured = Peak(flops_per_sec=234e12, name=row.name, dtype=torch.bfloat16, source="measured: x", is_noisy=True)
    shown = Surveyed(
        device="cuda:0",
        name="NVIDIA A100-SXM4-80GB",
        row=row,
        why_no_row=None,
        dtype="bfloat16",
        datasheet=datasheet,
        measured=measured,
    )
    assert shown.ratio == 0.75
    cells = [list(column.cells) for column in this_machine_table([shown]).columns]
    assert str(cells[0][0]) == "cuda:0: NVIDIA A100-SXM4-80GB\nrow: A100 SXM4 80GB\n80 GB\n2,039 GB/s"
    assert [column[0] for column in cells[1:5]] == ["bfloat16", "312", "234 (noisy)", "0.750"]
