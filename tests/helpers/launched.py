"""Runs a script on two processes by torchrun, once in each way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

_TIMEOUT_SEC = 240


class Launched:
    """Runs of a script, which is called with a directory and with how to run, and saves what each rank ends with.

    Args:
        script: The script.
        directory: Where it saves.
    """

    def __init__(self, script: str | None, directory: Path) -> None:
        self.directory = directory
        self._script = str(script)
        self._printed: dict[str, str] = {}

    def ends(self, how: str) -> list[dict[str, Any]]:
        """What both ranks end with."""
        self.printed(how)
        return [torch.load(self.directory / f"{how}-{rank}.pt", weights_only=False) for rank in range(2)]

    def printed(self, how: str) -> str:
        """What both ranks print."""
        if how not in self._printed:
            self._printed[how] = self._run(how)
        return self._printed[how]

    def _run(self, how: str) -> str:
        done = run_on_two_processes(self._script, self.directory, how)
        assert has_ended(done), done.stderr
        return done.stdout


def run_on_two_processes(script: Path | str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A script's end, with what it printed.

    A run that hangs is run once more: gloo's threads do so now and then as a process ends, without us too.

    Raises:
        subprocess.TimeoutExpired: If the second run hangs as well.
    """
    try:
        return _run_once(script, *arguments)
    except subprocess.TimeoutExpired:
        return _run_once(script, *arguments)


def _run_once(script: Path | str, *arguments: object) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": ":".join(sys.path)}
    command = [*launch, str(script), *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | environment) as process:
        try:
            printed, errors = process.communicate(timeout=_TIMEOUT_SEC)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun then ends the two
            raise
    return subprocess.CompletedProcess(command, process.returncode, printed, errors)


def has_ended(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether a run came to its end, after which gloo may have aborted it."""
    return done.returncode == 0 or is_aborted_by_gloo(done)


def is_aborted_by_gloo(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether a process of a run was aborted at its exit by gloo's threads, as happens now and then without us too."""
    return done.returncode != 0 and "terminate called without an active exception" in done.stderr


def of_all(summary: dict[str, Any]) -> dict[str, Any]:
    """The figures of a summary that are of all ranks; the others are of the rank that has it."""
    return {name: value for name, value in summary.items() if name not in ("wall_time_sec", "step_time_sec", "memory")}
