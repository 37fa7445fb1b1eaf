from uuid import uuid4

import pytest

from mfu_callback.peaks.cache import DIRECTORY_VARIABLE


@pytest.fixture(scope="session", autouse=True)
def cache_of_all_tests(tmp_path_factory):
    """Measured peaks of the tests, and of the processes that they start, lie apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DIRECTORY_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_cache(cache_of_all_tests, tmp_path_factory, monkeypatch):
    """And those of one test apart from those of another."""
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path_factory.getbasetemp() / "caches" / uuid4().hex))
