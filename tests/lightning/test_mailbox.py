"""What a spawned process hands to the process that spawned it."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest

from mfu_callback.lightning.mailbox import Mailbox

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
both_ways = pytest.mark.parametrize("method", ["spawn", "fork"])


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary directory of the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def run(method: str, function: Any, *arguments: Any) -> None:
    process = multiprocessing.get_context(method).Process(target=function, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == 0


def put(mailbox: Mailbox, *data: Any) -> None:
    for one in data:
        mailbox.put(one)


def put_and_look(mailbox: Mailbox) -> None:
    mailbox.put(3)
    assert mailbox.take() is None


def look(mailbox: Mailbox) -> None:
    assert mailbox.take() is None


def let_go(mailboxes: list[Mailbox]) -> None:
    mailboxes.clear()
    gc.collect()


@both_ways
def test_the_last_that_was_put_is_taken_once(method: str, directory: Path) -> None:
    mailbox = Mailbox()
    assert mailbox.take() is None
    assert list(directory.iterdir()) == []
    run(method, put, mailbox, {"size": 1}, {"size": 2, "why": "a\nb"})
    assert mailbox.take() == {"size": 2, "why": "a\nb"}
    assert mailbox.take() is None
    assert list(directory.iterdir()) == []
    run(method, put, mailbox, {})
    assert mailbox.take() == {}


@both_ways
def test_no_other_process_takes_what_is_there(method: str) -> None:
    mailbox = Mailbox()
    run(method, put_and_look, mailbox)
    run(method, look, mailbox)
    assert mailbox.take() == 3


@both_ways
def test_what_is_never_taken_goes_with_the_mailbox_of_its_owner_alone(method: str, directory: Path) -> None:
    mailboxes = [Mailbox()]
    run(method, put, mailboxes[0], "kept")
    run(method, let_go, mailboxes)
    assert len(list(directory.iterdir())) == 1
    let_go(mailboxes)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda mailbox: pickle.loads(pickle.dumps(mailbox))])
def test_a_copy_has_a_file_of_its_own(copied: Any) -> None:
    mailbox = Mailbox()
    mailbox.put(1)
    other = copied(mailbox)
    assert other.take() is None
    other.put(2)
    assert (mailbox.take(), other.take()) == (1, 2)


def test_what_cannot_be_written_does_not_replace_what_was(directory: Path) -> None:
    mailbox = Mailbox()
    mailbox.put([1])
    with pytest.raises(TypeError, match="not JSON serializable"):
        mailbox.put([2, object()])
    assert mailbox.take() == [1]
    assert list(directory.iterdir()) == []


def test_the_file_is_for_this_user_alone(directory: Path) -> None:
    mailbox = Mailbox()
    mailbox.put(1)
    (file,) = directory.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_machine_without_a_temporary_directory_can_make_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", raises)
    assert Mailbox().take() is None
