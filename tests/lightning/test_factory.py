"""The MFUCallback that MFU_CALLBACK puts into the Trainers of any script."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mfu_callback.lightning.factory import callbacks_from_environment
from mfu_callback.lightning.from_environment import MFUCallbackFromEnvironment, arguments_in, callback_of

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "helpers" / "environment_run.py"
PACKAGES = ("lightning.pytorch", "pytorch_lightning")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory for the PYTHONPATH in which the package is installed, as far as entry points go."""
    directory = tmp_path_factory.mktemp("site")
    information = directory / "mfu_callback-0.1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: mfu-callback\nVersion: 0.1.0\n")
    project = (ROOT / "pyproject.toml").read_text()
    sections = re.findall(r'^\[project\.entry-points\."(.+)"\]\n(\w+) = "(.+)"$', project, re.MULTILINE)
    assert {group for group, _, _ in sections} == {f"{package}.callbacks_factory" for package in PACKAGES}
    lines = [f"[{group}]\n{name} = {at}\n" for group, name, at in sections]
    (information / "entry_points.txt").write_text("".join(lines))
    return directory


@pytest.fixture(scope="module", params=PACKAGES)
def outcome(request, installed, tmp_path_factory):
    """What Trainers of a package ended with, in a process of their own."""
    path = os.pathsep.join([str(installed), str(ROOT)])
    command = [sys.executable, "-W", "ignore", str(SCRIPT), request.param]
    environment = os.environ | {"PYTHONPATH": path}
    directory = tmp_path_factory.mktemp("script")
    done = subprocess.run(command, env=environment, cwd=directory, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_without_the_variable_nothing_is_added_and_one_small_module_is_imported(outcome):
    assert set(map(tuple, outcome["off"].values())) == {()}
    assert outcome["imported"] == ["mfu_callback", "mfu_callback.lightning", "mfu_callback.lightning.factory"]


def test_with_the_variable_a_script_that_knows_nothing_of_it_logs_its_mfu(outcome):
    assert set(map(tuple, outcome["on"].values())) == {("MFUCallbackFromEnvironment",)}
    run = outcome["defaults"]
    assert run["warnings"] == []
    assert run["steps"] == 1  # the second fit has four, three of which are warm-up
    assert {"time/step_sec", "throughput/samples_per_sec", "throughput/mfu"} <= set(run["metrics"])


def test_the_variable_may_have_arguments(outcome):
    assert outcome["options"]["peak"] == 3e12
    assert outcome["options"]["steps"] == 3
    assert outcome["options"]["warnings"] == []


def test_a_wrong_argument_is_named_in_a_warning_and_the_defaults_are_used(outcome):
    (warning,) = outcome["wrong"]["warnings"]
    assert warning == (
        "MFU_CALLBACK='peak=3e12,sync=windw': sync='windw' is not known. Use one of ('step', 'events', 'window')."
        " MFUCallback runs with its defaults instead."
    )
    assert outcome["wrong"]["steps"] == 1
    assert outcome["wrong"]["peak"] != 3e12
    (warning,) = outcome["unknown"]
    assert "'pek' is no argument of MFUCallback. Use 1, or some of flops, " in warning


def test_a_callback_of_the_scripts_own_is_the_only_one(outcome):
    own = outcome["own"]
    assert own["before"] == ["MFUCallback", "MFUCallbackFromEnvironment"]
    assert own["after"] == ["MFUCallback"]
    assert own["is_users"]
    assert own["peak"] == 7e12


def test_a_run_goes_on_where_the_callback_cannot_be_made(outcome):
    callbacks, steps, warning = outcome["broken"]
    assert callbacks == []
    assert steps == 8
    assert warning.startswith("MFU_CALLBACK is set, but MFUCallback could not be made (ModuleNotFoundError: ")


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", {}),
        (" peak=312e12 , sync=window,", {"peak": 312e12, "sync": "window"}),
        ("peak=measured,backward_factor=measured", {"peak": "measured", "backward_factor": "measured"}),
        ("peak=None,summary=none", {"peak": None, "summary": None}),
        ("modules=True,board=false,warmup_steps=5", {"modules": True, "board": False, "warmup_steps": 5}),
        ("flops=6e9,tokens=4096,ranks_per_batch=2", {"flops": 6e9, "tokens": 4096, "ranks_per_batch": 2}),
    ],
)
def test_arguments_are_read_from_the_variable(text, arguments):
    assert arguments_in(text) == arguments
    messages = []
    assert type(callback_of(text, messages.append)) is MFUCallbackFromEnvironment
    assert messages == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modules=maybe", "modules='maybe' must be of the type bool."),
        ("modules=1", "modules='1' must be of the type bool."),
        ("warmup_steps=1.5", "warmup_steps='1.5' must be of the type int."),
        (
            "warmup_steps=-1",
            "warmup_steps=-1 must be a whole number of at least 0. 0 leaves out only the steps that count FLOPs.",
        ),
        ("sync=1", "sync='1' must be of the type typing.Literal['step', 'events', 'window']."),
        (
            "peak=",
            "peak='' is not known. Use None, 'measured', a Peak, or the FLOP/s of one device as a number above 0, ",
        ),
        ("flops=math.sqrt", "flops='math.sqrt' is not known."),
        ("tokens=builtins.len", "tokens='builtins.len' must be of the type "),
        ("peak=3e12;sync=window", "peak='3e12;sync=window' is not known."),
        ("yes", "'yes' is no argument of MFUCallback."),
    ],
)
def test_wrong_arguments_are_named(text, message):
    messages = []
    assert type(callback_of(text, messages.append)) is MFUCallbackFromEnvironment
    (warning,) = messages
    assert warning.startswith(f"{text!r}: {message}")


def test_the_page_says_which_values_switch_it_off(monkeypatch):
    page = (ROOT / "docs" / "lightning.md").read_text()
    (off,) = re.findall(r"are the defaults; (.*?), an empty variable and none are off", page)
    for value in ["", *re.findall(r"`(\w+)`", off)]:
        monkeypatch.setenv("MFU_CALLBACK", value)
        assert callbacks_from_environment() == []
