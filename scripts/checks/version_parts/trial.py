"""One environment: made, tried, deleted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.checks.version_parts.rows import Outcome, Row, read_failures, read_tests

_FIT = Path(__file__).with_name("real_fit.py")
# Builds of torch for a GPU, with its libraries, unpacked and on the way there.
NEEDED_BYTES = 14 * 2**30
# What the tests of FOLDERS and the fit ask for beside the wheel's own dependencies, transformers and timm.
_TOOLS = ("tensorboard", "google-crc32c", "plotly", "matplotlib", "pytest", "hypothesis", "prometheus-client")
_TIMEOUT_SEC = 7200


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where rows are tried.

    Args:
        root: The checkout, for its tests.
        wheel: The wheel to install.
        directory: Where environments are made.
        is_kept: Whether environments stay.
    """

    root: Path
    wheel: Path
    directory: Path
    is_kept: bool


def try_row(row: Row, place: Place, tests: list[str]) -> Outcome:
    """Make the environment of a row, test in it, fit in it, and delete it."""
    python = find_python(row.python)
    free = shutil.disk_usage(place.directory).free
    if row.reason_to_leave_out:
        return Outcome(row=row, left_out=row.reason_to_leave_out)
    if python is None:
        return Outcome(row=row, left_out=f"no Python {row.python} here")
    if free < NEEDED_BYTES:
        return Outcome(row=row, left_out=f"{free / 2**30:.0f} GiB of disk are free, {NEEDED_BYTES / 2**30:.0f} needed")
    directory = place.directory / f"torch-{row.torch}-lightning-{row.lightning}-python-{row.python}"
    try:
        return _tried(row, python, place, directory, tests)
    finally:
        if not place.is_kept:
            shutil.rmtree(directory, ignore_errors=True)


def find_python(version: str) -> str | None:
    """The interpreter of a version: pyenv's newest of it, or one on the path."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = sorted(root.glob(f"{version}.*/bin/python"), key=lambda file: int(file.parts[-3].split(".")[2]))
    return str(found[-1]) if found else shutil.which(f"python{version}")


def _tried(row: Row, python: str, place: Place, directory: Path, tests: list[str]) -> Outcome:
    failure = _install(row, python, place, directory)
    if failure is not None:
        return Outcome(row=row, left_out=failure)
    own = directory / "bin" / "python"
    code = "from importlib.metadata import version; print(version('torch'), version('lightning'))"
    torch, lightning = _run([own, "-c", code], directory).stdout.split()
    fit = _fit(own, directory)
    known = _test(own, place, directory, tests) if tests else {"left_out": "tests: not asked for"}
    return Outcome(row=row, torch=torch, lightning=lightning, fit=fit, **known)


def _install(row: Row, python: str, place: Place, directory: Path) -> str | None:
    """Make the environment; returns why it failed, or None."""
    _run([python, "-m", "venv", directory], place.directory)
    pip = [directory / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--no-cache-dir"]
    done = _run([*pip, place.wheel, *row.requirements, *_TOOLS], directory)
    if done.returncode:
        return f"pip: {_last_error(done.stderr)}"
    _run([*pip, row.transformers], directory)  # some of the tests need it, and are not run where it cannot be had
    # It asks for torchvision, which CPU builds of torch do not go with.
    _run([*pip, "--no-deps", "timm"], directory)
    return None


def _fit(python: Path, directory: Path) -> str:
    done = _run([python, _FIT, directory / "logs"], directory)
    if done.returncode:
        return _last_error(done.stderr)
    wrong = json.loads(done.stdout.splitlines()[-1])
    return ", ".join(f"{name}: {value}" for name, value in wrong.items()) or "right"


def _test(python: Path, place: Place, directory: Path, tests: list[str]) -> dict[str, Any]:
    """Returns what a run of the tests has come to, as fields of an `Outcome`."""
    for name in ("tests", "gpt", "scripts", "docs"):
        shutil.copytree(place.root / name, directory / name, dirs_exist_ok=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(place.root / name, directory)
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", *tests]
    done = _run(command, directory)
    (directory / "pytest.txt").write_text(done.stdout)
    counts = read_tests(done.stdout)
    left_out = None if counts else f"pytest: {_last_error(done.stdout + done.stderr)}"
    return {"tests": counts, "failures": read_failures(done.stdout), "left_out": left_out}


def _run(command: list[object], directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=directory, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_SEC)


def _last_error(printed: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line or "Error" in line]
    return (errors or lines or ["it said nothing"])[-1][:160]
