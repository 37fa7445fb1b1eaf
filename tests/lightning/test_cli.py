"""Both callbacks in the YAML file of docs/lightning.md, with the LightningCLI of both packages."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("jsonargparse")
from lightning.pytorch.cli import LightningCLI

from mfu_callback import BatchSizeFinder, MFUCallback

PAGE = (Path(__file__).parents[2] / "docs" / "lightning.md").read_text()
(SCRIPT,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(CONFIG,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """The page's script and its file in a directory of their own, in which the test runs."""
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "config.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "train.py"


@pytest.fixture
def cli(train, monkeypatch):
    """Runs the CLI in this process with the page's model and some arguments."""
    # Lightning 2.6 calls a method that newer versions of jsonargparse deprecate.
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    spec = importlib.util.spec_from_file_location("train", train)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments, run=False):
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        return LightningCLI(module.Model, run=run, seed_everything_default=False)

    return run


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_the_example_of_the_page_trains_under_both_packages(train, package):
    train.write_text(SCRIPT.replace("lightning.pytorch", package))
    command = [sys.executable, "-W", "ignore", "train.py", "fit", "--config", "config.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (file,) = Path("lightning_logs/version_0").glob("mfu_summary.json")
    summary = json.loads(file.read_text())
    assert summary["steps"] == 5  # 8 without the three of the warm-up, the first of which is counted
    assert summary["peak"]["flops_per_sec"] == 312e12
    assert summary["conventions"] == "attention full, backward measured"
    assert summary["run"]["finder"]["batch_size"] == 16
    saved = yaml.safe_load(Path("lightning_logs/version_0/config.yaml").read_text())
    assert [one["class_path"] for one in saved["trainer"]["callbacks"]] == [
        "mfu_callback.MFUCallback",
        "mfu_callback.BatchSizeFinder",
    ]


def test_a_callback_imported_before_the_other_package_is_refused_in_the_words_of_the_page(train):
    both = SCRIPT.replace("lightning.pytorch", "pytorch_lightning")
    train.write_text(f"from mfu_callback import MFUCallback\n{both}")
    command = [sys.executable, "-W", "ignore", "train.py", "fit", "--config", "config.yaml", "--print_config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    (words,) = re.findall(r'refused: "(.*?)"', PAGE)
    assert f"Import path mfu_callback.MFUCallback {words}" in done.stderr


def test_the_configuration_is_printed_with_all_arguments_and_is_read_again(cli, capsys):
    with pytest.raises(SystemExit) as stop:
        cli("fit", "--config", "config.yaml", "--print_config", run=True)
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    mfu, finder = printed["trainer"]["callbacks"]
    assert mfu["init_args"] | {"peak": 312e12, "sync": "window", "backward_factor": "measured"} == mfu["init_args"]
    assert mfu["init_args"].keys() == MFUCallback.__init__.__kwdefaults__.keys()
    assert finder["init_args"].keys() == BatchSizeFinder.__init__.__kwdefaults__.keys()
    Path("printed.yaml").write_text(yaml.safe_dump({"trainer": printed["trainer"]}))
    again = cli("--config", "printed.yaml").trainer.callbacks
    assert [type(one) for one in again[:2]] == [MFUCallback, BatchSizeFinder]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("flops", "6e9"),
        ("flops", "thop-modules"),
        ("flops", "math.sqrt"),
        ("backward_factor", "1.5"),
        ("peak", "measured"),
        ("peak", "null"),
        ("tokens", "12"),
        ("tokens", "builtins.len"),
        ("attention", "causal"),
        ("summary", "null"),
        ("ranks_per_batch", "2"),
    ],
)
def test_every_kind_of_value_that_the_callback_takes_can_be_written(cli, argument, value):
    made = cli("--trainer.callbacks+=mfu_callback.MFUCallback", f"--trainer.callbacks.{argument}={value}")
    expected = {"math.sqrt": __import__("math").sqrt, "builtins.len": len}.get(value, yaml.safe_load(value))
    assert getattr(made.trainer.callbacks[0]._arguments, argument) == (6e9 if value == "6e9" else expected)


@pytest.mark.parametrize(
    ("kind", "argument", "value", "allowed"),
    [
        ("MFUCallback", "flops", "dispach", "['thop', 'dispatch', 'thop-modules']"),
        ("MFUCallback", "backward_factor", "mesured", "['measured']"),
        ("MFUCallback", "attention", "casual", "['full', 'causal']"),
        ("MFUCallback", "peak", "fast", "['measured']"),
        ("MFUCallback", "sync", "windw", "['step', 'events', 'window']"),
        ("MFUCallback", "summary", "long", "['auto', 'table', 'line']"),
        ("MFUCallback", "tokens", "many", "int"),
        ("MFUCallback", "warmup_steps", "1.5", "int"),
        ("MFUCallback", "ranks_per_batch", "all", "int"),
        ("MFUCallback", "board", "maybe", "bool"),
        ("BatchSizeFinder", "objective", "speed", "['memory', 'throughput']"),
        ("BatchSizeFinder", "margin", "none at all", "float"),
        ("BatchSizeFinder", "max_size", "large", "int"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_argument(cli, capsys, kind, argument, value, allowed):
    with pytest.raises(SystemExit):
        cli(f"--trainer.callbacks+=mfu_callback.{kind}", f"--trainer.callbacks.{argument}={value}")
    error = capsys.readouterr().err
    assert f'"{argument}"' in error
    assert allowed in error


def test_a_value_out_of_range_is_refused_when_the_callback_is_made(cli):
    with pytest.raises(ValueError, match="warmup_steps=-1 must be a whole number of at least 0"):
        cli("--trainer.callbacks+=mfu_callback.MFUCallback", "--trainer.callbacks.warmup_steps=-1")
