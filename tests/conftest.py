import shutil
from pathlib import Path
from uuid import uuid4

import pytest
import torch

from mfu_callback.peaks import rates_in_training
from mfu_callback.peaks.cache import DIRECTORY_VARIABLE


@pytest.fixture(scope="session", autouse=True)
def cache_of_all_tests(tmp_path_factory):
    """Measured peaks of the tests, and of the processes that they start, lie apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("cache")
        patch.setenv(DIRECTORY_VARIABLE, str(directory))
        # What the end of every fit asks for, measured once for all tests.
        for dtype in (torch.float32, torch.float64):
            rates_in_training(torch.device("cpu"), dtype, time_limit_sec=0.5)
        yield directory


@pytest.fixture(autouse=True)
def own_cache(cache_of_all_tests, tmp_path_factory, monkeypatch):
    """And those of one test apart from those of another, except for how fast the dtypes are."""
    directory = Path(tmp_path_factory.getbasetemp() / "caches" / uuid4().hex)
    shutil.copytree(cache_of_all_tests, directory, ignore=shutil.ignore_patterns("peak-*"))
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(directory))
