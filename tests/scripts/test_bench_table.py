"""Runs of one size in turns, comparison with an earlier run, and what is written to paste."""

import json
from argparse import Namespace
from dataclasses import asdict, replace

import pytest

from scripts.bench_parts import conditions
from scripts.bench_parts.against import NoRowsError, differences, ratios, rows_in
from scripts.bench_parts.plot import draw
from scripts.bench_parts.report import page, tables, title_of
from scripts.bench_parts.roofline import Point, points_of
from scripts.bench_parts.row import Row, middle_of
from scripts.bench_parts.run import run_again
from scripts.bench_parts.table import COLUMNS, options_text, table_of
from tests.helpers.bench_runs import GIB, measured_row, request

ROW = measured_row()
RUNS = [replace(ROW, tokens_per_sec=speed, mfu=speed / 256, step_time_sec=1024 / speed) for speed in (128, 96, 112)]


def test_of_several_runs_the_one_in_the_middle_is_kept_whole():
    row = middle_of(RUNS)
    assert (row.tokens_per_sec, row.mfu) == (112, 112 / 256)
    assert [run["tokens_per_sec"] for run in row.runs] == [128, 96, 112]
    assert row.range_of("tokens_per_sec") == (96, 128)


def test_of_an_even_number_it_is_the_slower_of_the_middle_two():
    assert middle_of(RUNS[:2]).tokens_per_sec == 96


def test_a_single_run_has_no_range():
    row = middle_of([ROW])
    assert row == ROW
    assert row.range_of("tokens_per_sec") is None


def test_a_run_that_failed_is_named_beside_the_others():
    row = middle_of([ROW, Row(size="gpt-small", error="killed")])
    assert (row.tokens_per_sec, row.error) == (128.0, "run 2 of 2: killed")
    alike = replace(ROW, reason="training needs 23.3 GiB in 32-true")
    assert middle_of([alike, alike]).reason == "training needs 23.3 GiB in 32-true"


def test_where_no_run_measured_anything_the_first_reason_is_said():
    row = middle_of([Row(size="gpt-xl", reason="too slow"), Row(size="gpt-xl", reason="late")])
    assert (row.tokens_per_sec, row.reason) == (None, "too slow")


def test_the_table_shows_the_range_of_the_runs():
    grid = table_of([middle_of(RUNS)], "title")
    cells = dict(zip(grid.heads, grid.rows[0], strict=True))
    assert cells["tokens/s"] == "112.0 (96.0 to 128.0)"
    assert cells["MFU"] == "0.438 (0.375 to 0.500)"
    assert cells["step s"] == "9.143"


def test_a_further_run_has_the_shape_of_the_first(tmp_path):
    asked = request(tmp_path, batch_size=None, context_length=None, find_batch_size=True)
    again = run_again(asked, replace(ROW, batch_size=12, context_length=512), 2)
    assert (again.name, again.batch_size, again.context_length, again.find_batch_size) == (
        "gpt-small-2",
        12,
        512,
        False,
    )
    assert run_again(asked, Row(size="gpt-small", error="killed"), 2) == replace(asked, turn=2)


def test_what_was_switched_on_is_said():
    assert options_text(ROW) == ""
    assert options_text(Row(size="gpt-xl", reason="does not fit")) == ""
    row = replace(ROW, strategy="fsdp2", compile="default", checkpoint_activations=True, accumulate_grad_batches=4)
    said = "strategy fsdp2, compiled (default), checkpointed activations, 4 batches a step"
    assert options_text(row) == said
    arguments = Namespace(flops_only=False, devices=2, repeat=3)
    assert title_of([row], arguments) == f"AMD EPYC, 2 threads, 2 devices, {said}, median (and range) of 3 runs"


def test_ratios_are_those_of_this_run_over_the_earlier_one():
    then = replace(ROW, tokens_per_sec=100.0, mfu=0.4, peak_memory_bytes=5 * GIB, peak_flops_per_sec=250e9)
    grid = ratios([ROW, Row(size="gpt-xl", mfu=0.5)], [then], "earlier.json")
    assert grid.title == "Over earlier.json: ratio (now / then)"
    assert grid.rows == [
        [
            "gpt-small",
            "1.280 (128.0 / 100.0)",
            "1.250 (0.500 / 0.400)",
            "0.800 (4.00 GiB / 5.00 GiB)",
            "0.900 (0.225 TFLOP/s / 0.25 TFLOP/s)",
        ]
    ]
    assert differences([ROW], [then], "earlier.json") == []


def test_what_one_of_two_runs_lacks_is_a_dash():
    then = replace(ROW, tokens_per_sec=None, mfu=None, peak_memory_bytes=None, peak_flops_per_sec=None)
    assert ratios([ROW], [then], "earlier.json").rows == [["gpt-small", "-", "-", "-", "-"]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"precision": "bf16-true"}, "precision bf16-true -> 32-true"),
        ({"batch_size": 2, "context_length": 512}, "batch_size 2 -> 1, context_length 512 -> 1024"),
        (
            {"device": "AMD EPYC, 4 threads", "torch": "2.4.1"},
            "device AMD EPYC, 4 threads -> AMD EPYC, 2 threads, torch",
        ),
        ({"compile": "default"}, "compile default -> none"),
        ({"accumulate_grad_batches": 4}, "accumulate_grad_batches 4 -> 1"),
    ],
)
def test_settings_that_differ_are_said(changes, said):
    (sentence,) = differences([ROW], [replace(ROW, **changes)], "earlier.json")
    assert sentence.startswith(f"gpt-small differs in more than its speed: {said}")


def test_a_size_that_the_earlier_run_lacks_is_said():
    assert differences([ROW], [replace(ROW, size="gpt-xl")], "a.json") == ["gpt-small: not in a.json"]


def test_ranges_that_overlap_show_no_difference():
    now, then = middle_of(RUNS), middle_of([replace(run, tokens_per_sec=run.tokens_per_sec - 30) for run in RUNS])
    assert differences([now], [then], "a.json") == [
        "gpt-small: the ranges of tokens/s overlap, which shows no difference"
    ]
    far = middle_of([replace(run, tokens_per_sec=run.tokens_per_sec - 90) for run in RUNS])
    assert differences([now], [far], "a.json") == []


def test_rows_of_an_earlier_version_load(tmp_path):
    """Of before the options of the runs and the operators were in the rows; a later one may have others."""
    old = {"size": "gpt-small", "precision": "32-true", "tokens_per_sec": 118.1, "mfu": 0.593, "vector": 1}
    (tmp_path / "bench.json").write_text(json.dumps([old]))
    (row,) = rows_in(tmp_path / "bench.json")
    assert (row.tokens_per_sec, row.torch, row.compile) == (118.1, None, None)
    assert differences([ROW], [row], "bench.json") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory"),
        ("tokens", "it is not JSON"),
        ("[]", "it has no rows of sizes"),
        ('{"mfu": 0.4}', "it has no rows of sizes"),
        ('["gpt-small"]', "it has no rows of sizes"),
        ('[{"mfu": 0.4}]', "it has no rows of sizes"),
    ],
)
def test_what_is_no_bench_json_says_why(text, message, tmp_path):
    file = tmp_path / "bench.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(NoRowsError, match=message):
        rows_in(file)


def test_the_page_has_the_table_the_sentences_and_the_conditions():
    arguments = Namespace(flops_only=False, devices=1, repeat=1, against=("a.json", [ROW]), as_notebook=False)
    lines = page(tables([ROW], arguments), ["gpt-small: late"], "measured by hand").splitlines()
    assert lines[:5] == [
        "**AMD EPYC, 2 threads, 1 device**",
        "",
        "| size | parameters | precision | batch | context | steps | fwd FLOPs complete | tokens/s | step s | MFU"
        " | peak memory |",
        "| :-- | --: | :-- | --: | --: | --: | --: | --: | --: | --: | --: |",
        "| gpt-small | 124M | 32-true | 1 | 1024 | 7 | 3.0000e+11 | 128.0 | 8.000 | 0.500 | 4.00 GiB |",
    ]
    assert lines[6] == "* gpt-small: late"
    assert "**Over a.json: ratio (now / then)**" in lines
    assert lines[-1] == "measured by hand"


def test_a_cell_cannot_end_its_column():
    grid = replace(table_of([ROW], "a | b"), rows=[["a | b"]])
    assert r"a \| b" in grid.markdown()


def test_the_conditions_name_the_command_the_versions_and_the_revision(monkeypatch):
    monkeypatch.setattr("sys.argv", ["scripts/bench.py", "--output", "a directory"])
    line = conditions.line("AMD EPYC, 2 threads")
    assert line.startswith("`python scripts/bench.py --output 'a directory'` on AMD EPYC, 2 threads, 20")
    assert f"torch {conditions.version_of('torch')}, lightning " in line


def test_a_directory_without_git_has_no_revision(tmp_path):
    assert conditions.revision(tmp_path) is None


def test_no_other_package_has_a_version():
    assert conditions.version_of("mfu-callback-of-nobody") is None


OPERATORS = [
    {"name": "aten::mm", "kind": "matmul", "phase": "backward", "sec": 2.0, "share": 0.5, "flops": 4e12, "bytes": 1e10},
    {
        "name": "aten::add",
        "kind": "memory",
        "phase": "forward",
        "sec": 1.0,
        "share": 0.25,
        "flops": None,
        "bytes": 2e10,
    },
    {"name": "no operator", "kind": "gap", "phase": "forward", "sec": 1.0, "share": 0.25, "flops": None, "bytes": None},
]


def test_products_and_the_whole_step_have_a_place_on_the_roofline():
    product = Point(name="aten::mm backward", kind="matmul", flops_per_byte=400.0, flops_per_sec=2e12, share=0.5)
    step = Point(name="step", kind="step", flops_per_byte=4e12 / 3e10, flops_per_sec=1e12, share=1.0)
    assert points_of(replace(ROW, operators=OPERATORS)) == [product, step]
    assert points_of(ROW) == []
    assert points_of(replace(ROW, operators=OPERATORS[1:])) == []


@pytest.mark.parametrize("changes", [{}, {"operators": OPERATORS, "waterfall": {"mfu": 0.5, "kernels": 0.5}}])
def test_every_row_can_be_drawn(changes, tmp_path):
    row = replace(ROW, bandwidth_bytes_per_sec=2e10 if changes else None, **changes)
    draw([row, middle_of(RUNS), Row(size="gpt-xl", reason="too slow")], tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_without_a_measured_row_can_be_drawn(tmp_path):
    draw([Row(size="gpt-xl", reason="too slow")], tmp_path / "bench.png")
    assert (tmp_path / "bench.png").exists()


def test_every_column_is_a_field_of_the_rows():
    assert {column.field for column in COLUMNS} <= set(asdict(ROW))
