import logging
from pathlib import Path

import pytest

from mfu_callback.tools import torch_features
from mfu_callback.tools.torch_features import FEATURES, say_missing

PAGE = Path(__file__).parents[2] / "docs/versions.md"


def test_the_page_shows_exactly_this_table():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert rows == [f"| `{feature.name}` | {feature.left_out} | {feature.since} |" for feature in FEATURES]


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_what_is_missing_is_said_once(feature, caplog, monkeypatch):
    monkeypatch.setattr(torch_features, "_said", set())
    monkeypatch.setattr(torch_features.torch, "__version__", "2.4.1")
    with caplog.at_level(logging.WARNING):
        say_missing(feature.name)
        say_missing(feature.name)
    assert [record.getMessage() for record in caplog.records] == [
        f"torch 2.4.1 has no {feature.name}: {feature.left_out}. Install torch {feature.since} or later."
    ]
