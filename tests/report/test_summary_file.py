import json
from concurrent.futures import ThreadPoolExecutor

from mfu_callback.report.summary_file import write_summary


def test_a_run_in_the_directory_of_another_keeps_the_file_of_the_other(tmp_path):
    for run in (1, 2, 3):
        write_summary({"steps": run}, tmp_path)
    written = {file.name: json.loads(file.read_text())["steps"] for file in tmp_path.iterdir()}
    assert written == {"mfu_summary_1.json": 1, "mfu_summary_2.json": 2, "mfu_summary.json": 3}


def test_runs_that_end_at_once_in_one_directory_keep_all_their_files(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda run: write_summary({"steps": run}, tmp_path), range(40)))
    assert sorted(json.loads(file.read_text())["steps"] for file in tmp_path.iterdir()) == list(range(40))


def test_without_a_directory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_summary({}, None)
    assert list(tmp_path.iterdir()) == []
