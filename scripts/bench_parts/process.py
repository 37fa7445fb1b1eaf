"""Runs a script of the benchmark in a process of its own, listens to it, and ends it in time."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

SIGNALS_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SECONDS_TO_END = 1.0  # after a request to end, before it is ended by force


class OutOfTimeError(Exception):
    """A process had not ended when it should have."""


class EndedError(Exception):
    """A process ended without a result; the message says how."""


def run_script(name: str, argument: str, listen: Callable[[dict[str, Any]], None], *, log: Path, end_at: float) -> None:
    """Run a script beside this one until it ends, and pass on the events that it writes.

    It and all processes that it starts are ended if this process is interrupted, and when it is late. It ends by itself
    if this process disappears (`end_with_parent`).

    Args:
        name: The script's name without ".py".
        argument: Its only argument.
        listen: Called with each event, a JSON object in a line of the script's standard output.
        log: The file for everything else that it prints.
        end_at: When it must be over, in seconds since 1970.

    Raises:
        OutOfTimeError: If it was late.
        EndedError: If its exit status was not 0.
    """
    command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), argument]
    log.parent.mkdir(parents=True, exist_ok=True)
    pipe = subprocess.PIPE
    process = None
    try:
        with log.open("w") as errors, signals_held():
            process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=errors, text=True, start_new_session=True
            )
        for line in _lines(process, end_at):
            listen(json.loads(line))
        process.wait(max(0.0, end_at - time.time()))
    except (queue.Empty, subprocess.TimeoutExpired):
        raise OutOfTimeError from None
    finally:
        if process is not None:
            _end(process)
    if process.returncode:
        raise EndedError(f"{how_it_ended(process.returncode)}; see {log}")


@contextmanager
def signals_held() -> Iterator[None]:
    """Let signals that ask for an end wait until the block is left: what it starts is then known and can be ended."""
    arrived: list[int] = []
    before = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in SIGNALS_TO_END}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in arrived:
            signal.raise_signal(number)


def events_to_stdout() -> TextIO:
    """Returns a stream to standard output that nothing else writes to from now on, C libraries included."""
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return events


def end_with_parent() -> None:
    """End this process once the one that started it has disappeared: its standard input is then at its end."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def how_it_ended(return_code: int) -> str:
    """Returns how a process ended, in words."""
    if return_code == -signal.SIGKILL:
        return "killed, most likely because memory ran out"
    return f"ended by signal {-return_code}" if return_code < 0 else f"ended with status {return_code}"


def _lines(process: subprocess.Popen[str], end_at: float) -> Any:
    """Yields the lines that a process writes; raises `queue.Empty` when it is late."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for line in stream:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (line := lines.get(timeout=max(0.01, end_at - time.time()))) is not None:
        yield line


def _end(process: subprocess.Popen[str]) -> None:
    """End a process that has not ended, and all that it has started; they have no results to lose."""
    assert process.stdin is not None
    process.stdin.close()
    if process.poll() is not None:
        return
    _signal(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_SECONDS_TO_END)
    _signal(process, signal.SIGKILL)  # it, or what it has started and left behind
    process.wait()


def _signal(process: subprocess.Popen[str], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group whose processes have ended
        os.killpg(process.pid, number)
