"""The command line of the benchmark: what it refuses, and what it says of its options."""

import re
import sys
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch

from scripts import bench
from scripts.bench_parts.arguments import make_parser
from scripts.bench_parts.checks import check, faults_of_devices
from tests.helpers.bench_runs import run_bench


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "gpt-huge"], "invalid choice: 'gpt-huge'"),
        (["--batch-size", "0"], "'0' is neither a number of at least 1 nor auto"),
        (["--batch-size", "many"], "'many' is neither a number of at least 1 nor auto"),
        (["--context-length", "1025"], "--context-length 1025: give 1 to 1024"),
        (["--max-steps", "2"], "--max-steps 2: give at least 3; the first are warm-up"),
        (["--minutes", "0"], "'0' is not a number of minutes above 0"),
        (["--minutes", "soon"], "'soon' is not a number of minutes above 0"),
        (["--devices", "0"], "--devices: 0: give at least 1"),
        (["--repeat", "0"], "--repeat: 0: give at least 1"),
        (["--accumulate-grad-batches", "none"], "--accumulate-grad-batches: none: give at least 1"),
        (["--strategy", "deepspeed"], "invalid choice: 'deepspeed'"),
        (["--compile", "fastest"], "invalid choice: 'fastest'"),
        (
            ["--against", "nowhere.json"],
            "nowhere.json: No such file or directory; give the bench.json of an earlier run",
        ),
        (["--flops-only", "--against", "{earlier}"], "--against: --flops-only trains nothing; leave one of them out"),
        (["--flops-only", "--repeat", "2"], "--repeat: --flops-only trains nothing; leave one of them out"),
        (
            ["--strategy", "fsdp2"],
            "--strategy fsdp2: divides the weights among several devices; give --devices 2 or more",
        ),
        (["--accelerator", "cpu", "--tf32"], "--tf32: only CUDA multiplies in TF32, and this is cpu; leave it out"),
        (
            ["--accelerator", "cpu", "--compile", "reduce-overhead"],
            "needs CUDA graphs, and this is cpu; give --compile",
        ),
        (["--as-notebook", "--devices", "2"], "--devices 2: the notebook did no such thing; leave --as-notebook out"),
        (["--as-notebook", "--compile"], "--compile: the notebook did no such thing"),
        (["--as-notebook", "--checkpoint-activations"], "--checkpoint-activations: the notebook did no such thing"),
        (["--budget", "much", "--batch-size", "auto"], "'much' is not a size"),
        (["--budget", "8GiB", "--batch-size", "2"], "--budget: is for --batch-size auto"),
        (["--flops-only", "--batch-size", "auto"], "--batch-size auto: --flops-only trains nothing"),
        (["--accelerator", "cpu", "--precision", "16-true"], "fp16 is about 100 times slower than fp32 on a CPU"),
        (["--accelerator", "cpu", "--precision", "16-mixed"], "give auto, bf16-true or 32-true"),
    ],
)
def test_bad_input_is_refused_with_the_option_and_the_remedy(arguments, message, monkeypatch, capsys, tmp_path):
    (tmp_path / "bench.json").write_text('[{"size": "gpt-small"}]')
    given = [text.replace("{earlier}", str(tmp_path / "bench.json")) for text in arguments]
    monkeypatch.setattr(sys, "argv", ["bench.py", *given])
    with pytest.raises(SystemExit) as caught:
        bench.main()
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without an accelerator")
def test_an_accelerator_that_is_not_there_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.py", "--accelerator", "cuda"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "--accelerator cuda: this machine has none" in capsys.readouterr().err


def parsed(*given):
    parser = make_parser(None)
    arguments = parser.parse_args(given)
    check(parser, arguments)
    return arguments


def test_each_option_is_one_line_of_the_help(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    lines = make_parser("what it does").format_help().split("what is trained:")[1].splitlines()
    assert [line for line in lines if line and not re.match(r"  --[a-z0-9-]+ |how |what ", line)] == []


def test_what_is_not_given_is_left_to_the_plan():
    arguments = parsed("--accelerator", "cpu")
    assert (arguments.batch_size, arguments.context_length, arguments.max_steps) == (None, None, None)
    assert (arguments.compile, arguments.repeat, arguments.accumulate_grad_batches) == (None, 1, 1)


def test_compile_has_a_mode_that_need_not_be_given():
    assert parsed("--accelerator", "cpu", "--compile").compile == "default"
    assert parsed("--accelerator", "cpu", "--compile", "max-autotune").compile == "max-autotune"


def test_an_earlier_run_is_read_before_anything_runs(tmp_path):
    file = tmp_path / "bench.json"
    file.write_text('[{"size": "gpt-small", "mfu": 0.5}]')
    name, (row,) = parsed("--accelerator", "cpu", "--against", str(file)).against
    assert (name, row.size, row.mfu) == (str(file), "gpt-small", 0.5)


def of_cuda(**changes):
    """Options on a machine with CUDA, which need not be there."""
    fields = {"accelerator": "cuda", "devices": 1, "precision": "auto", "strategy": "auto", "tf32": False}
    return Namespace(**fields | {"compile": None, "accumulate_grad_batches": 1} | changes)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"devices": 4}, "--devices 4: this machine has 2; give 2 at most"),
        ({"tf32": True}, "--tf32: is for float32, and --precision is auto; give --precision 32-true"),
        ({"tf32": True, "precision": "32-true"}, None),
        ({"compile": "reduce-overhead"}, None),
        (
            {"compile": "reduce-overhead", "accumulate_grad_batches": 2},
            "--compile reduce-overhead: CUDA graphs write over gradients that are accumulated; give --compile",
        ),
        ({"precision": "16-mixed"}, None),
    ],
)
def test_what_cuda_cannot_do_is_refused(changes, fault, monkeypatch):
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(device_count=lambda: 2))
    assert next(faults_of_devices(of_cuda(**changes)), None) == fault


def test_the_help_says_what_a_run_takes():
    assert "in ten minutes at most" in run_bench("--help").stdout
