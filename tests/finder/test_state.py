"""The state of the finder in checkpoints, of this version, of earlier ones and of later ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mfu_callback import BatchSizeFinder
from mfu_callback.finder import BatchSizeResult, SweepPoint, Trial
from mfu_callback.finder.state import VERSION, result_of, state_of
from tests.helpers.finder_models import Tabular, fitted, trainer

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")

# As mfu-callback 0.1.0 writes it, without a version.
OF_0_1_0 = {
    "batch_size": 16,
    "trials": (
        {"size": 2, "fits": True, "seconds": 0.01, "peak_bytes": 13196, "why": "ran"},
        {"size": 17, "fits": False, "seconds": 0.02, "peak_bytes": None, "why": "did not fit in another process"},
    ),
    "sweep": (
        {
            **{"size": 2, "step_time_sec": 0.5, "samples_per_sec": 4.0},
            **{"tokens_per_sec": None, "mfu": None, "peak_bytes": 13196},
        },
    ),
    "limit": "190 MiB",
}
RESULT = BatchSizeResult(
    batch_size=16,
    trials=(
        Trial(size=2, fits=True, seconds=0.01, peak_bytes=13196, why="ran"),
        Trial(size=17, fits=False, seconds=0.02, peak_bytes=None, why="did not fit in another process"),
    ),
    sweep=(
        SweepPoint(size=2, step_time_sec=0.5, samples_per_sec=4.0, tokens_per_sec=None, mfu=None, peak_bytes=13196),
    ),
    limit="190 MiB",
)


def loaded(state: Any) -> BatchSizeResult | None:
    finder = BatchSizeFinder()
    finder.load_state_dict(state)
    return finder.result


def test_a_state_without_a_version_is_read() -> None:
    assert loaded(OF_0_1_0) == RESULT


def test_a_state_has_its_version_and_is_read() -> None:
    state = state_of(RESULT)
    assert state["version"] == VERSION == 1
    assert loaded(state) == RESULT


def test_a_run_is_resumed_from_a_checkpoint_without_a_version(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    finder = BatchSizeFinder(max_size=16)
    fitted(Tabular(), finder, max_steps=-1, max_epochs=1).save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=False)
    assert checkpoint["callbacks"][finder.state_key]["version"] == 1
    checkpoint["callbacks"][finder.state_key] = OF_0_1_0
    torch.save(checkpoint, path)

    resumed = BatchSizeFinder()
    run = trainer(resumed, max_steps=-1, max_epochs=2)
    run.fit(Tabular(), ckpt_path=path)
    assert resumed.result == RESULT
    assert run.train_dataloader.batch_size == 16


def test_a_later_version_is_refused_with_both_versions_and_the_remedy() -> None:
    finder = BatchSizeFinder()
    finder.load_state_dict(OF_0_1_0)
    with pytest.raises(MisconfigurationException) as caught:
        finder.load_state_dict({"version": 7, "sizes": {"fit": 16}})
    for words in ("of version 7", "versions up to 1", "Upgrade mfu-callback", "callbacks and set the"):
        assert words in str(caught.value)
    assert finder.result == RESULT


def test_what_a_state_lacks_has_its_default_and_what_is_unknown_is_left_out() -> None:
    state = {"version": 1, "batch_size": 16, "trials": [{**OF_0_1_0["trials"][0], "of_tomorrow": 1}], "more": [1]}
    assert loaded(state) == BatchSizeResult(batch_size=16, trials=RESULT.trials[:1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "new"}, "version is 'new', which is no integer"),
        ({"version": True}, "version is True, which is no integer"),
        ({"trials": None}, "trials is a NoneType and no list"),
        ({"trials": [3]}, "one of trials is a int and no mapping"),
        ({"trials": [{"size": 2, "fits": True}]}, "one of trials has no seconds, peak_bytes, why"),
        ({"sweep": [{"size": 2}]}, "one of sweep has no step_time_sec, samples_per_sec"),
        ({"batch_size": "16"}, "batch_size is '16', which is no positive integer"),
        ({"batch_size": True}, "batch_size is True"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
    ids=str,
)
def test_a_malformed_state_is_refused_in_words(change: dict[str, Any], words: str) -> None:
    with pytest.raises(MisconfigurationException, match="state of BatchSizeFinder cannot be read: ") as caught:
        loaded(OF_0_1_0 | change)
    assert words in str(caught.value)
    assert "Resume from another checkpoint, or take BatchSizeFinder out" in str(caught.value)


@pytest.mark.parametrize("state", [{"batch_size": 4}, {"of": "another callback"}, [1], "text"], ids=str)
def test_what_is_no_state_is_refused_in_words(state: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"the state (has no|is a)"):
        result_of(state)
