import pytest

from mfu_callback.peaks.cache import DIRECTORY_VARIABLE


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Measured peaks of the tests, and of the processes that they start, lie apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DIRECTORY_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield
