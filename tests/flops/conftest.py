"""What several tests of counting share."""

import pytest

from mfu_callback import register_flop_formula


@pytest.fixture
def registered():
    """Registers formulas for the time of a test."""
    handles = []

    def register(*args, **kwargs):
        handles.append(register_flop_formula(*args, **kwargs))
        return handles[-1]

    yield register
    for handle in handles:
        handle.remove()
