"""scripts/checks/import_time.py, with one round."""

import pytest

from scripts.checks.import_time import IMPORTS, main


@pytest.mark.parametrize(("most_ms", "status"), [("1e6", 0), ("0", 1)])
def test_every_import_is_a_row_and_a_limit_that_is_not_kept_an_exit_status(most_ms, status, capsys):
    assert main(["--rounds", "1", "--most-ms", most_ms]) == status
    printed = capsys.readouterr().out
    assert [code for code in IMPORTS if f"│ {code} " in printed] == list(IMPORTS)
