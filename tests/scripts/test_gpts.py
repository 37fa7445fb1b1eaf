"""scripts/comparisons/gpts.py, with a tiny model and few steps."""

import re

import numpy as np
import pytest
import torch

from gpt import GPTConfig
from scripts.comparisons import gpts as script
from scripts.comparisons.gpt_parts.contestants import CONTESTANTS, TRICKS, _module_at
from scripts.comparisons.gpt_parts.worker import MATMULS, Job, Worker

TINY = GPTConfig(n_layer=2, n_head=2, n_embd=32, vocab_size=256, context_length=32)
# A stand-in for a checkout of nanoGPT: a model with the names of Hugging Face's and linear projections.
NANO = """
from dataclasses import dataclass
import torch
from gpt import GPT as Ours, GPTConfig as Config
from gpt.hugging_face import from_hf

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class GPT(Ours):
    def __init__(self, config):
        sizes = dict(n_layer=config.n_layer, n_head=config.n_head, n_embd=config.n_embd)
        super().__init__(Config(**sizes, vocab_size=config.vocab_size, context_length=config.block_size))

    def load_state_dict(self, state):
        turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
        theirs = {name: weight.T if name.endswith(turned) else weight for name, weight in state.items()}
        return super().load_state_dict(from_hf(theirs, self.state_dict()))

    def forward(self, tokens, targets=None):
        out = super().forward(tokens, targets)
        return out if targets is None else (None, out)

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        print("decayed")
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)
"""


@pytest.fixture
def tiny(monkeypatch):
    """The script's size is a tiny one."""
    monkeypatch.setattr(script, "get_config", lambda size: TINY)


@pytest.fixture
def nano(tmp_path):
    """The directory of the stand-in."""
    (tmp_path / "model.py").write_text(NANO)
    return str(tmp_path)


def rows(printed):
    """The cells of each row of the printed tables, by the first."""
    cells = [[cell.strip() for cell in line.strip("│ \n").split("│")] for line in printed.splitlines() if "│" in line]
    return {first: rest for first, *rest in cells}


def test_all_train_in_turns_and_lose_the_same(tiny, nano, capsys):
    options = ["--shapes", "2x16", "--precision", "fp32", "--rounds", "2", "--warmup", "1"]
    assert script.main([*options, "--nanogpt", nano]) == 0
    printed = capsys.readouterr().out
    table = rows(printed)
    assert list(table) == list(CONTESTANTS)
    assert "gpt-small, 2 x 16 tokens" in printed
    assert "float32" in printed
    for name in ("nanoGPT", "Hugging Face", "plain"):
        assert float(table[name][-1]) < 1e-5
        assert re.fullmatch(r"\d+\.\d{3}", table[name][2])


def test_a_real_text_is_trained_on(tiny, tmp_path, capsys):
    (tmp_path / "text.txt").write_bytes(bytes(range(256)) * 4)
    options = ["--shapes", "2x16", "--precision", "fp32", "--rounds", "1", "--warmup", "3"]
    assert script.main([*options, "--contestants", "plain", "--text", str(tmp_path / "text.txt")]) == 0
    table = rows(capsys.readouterr().out)
    assert list(table) == ["ours", "plain"]
    assert float(table["plain"][-1]) < 1e-5


def test_ours_without_each_of_its_tricks_loses_the_same(tiny, capsys):
    options = ["--shapes", "2x16", "--precision", "fp32", "--rounds", "1", "--warmup", "2"]
    assert script.main([*options, "--tricks"]) == 0
    table = rows(capsys.readouterr().out)
    assert list(table) == ["ours", *TRICKS]
    assert all(float(table[name][-1]) < 1e-5 for name in TRICKS)


def test_memory_is_that_of_each_alone(tiny, monkeypatch, capsys):
    monkeypatch.setattr(script, "MEMORY_SHAPE", (2, 16))
    assert script.main(["--memory", "--precision", "fp32", "--contestants", "plain"]) == 0
    table = rows(capsys.readouterr().out)
    assert list(table) == ["ours", "plain"]
    assert table["ours"][1] == "1.000"


def test_the_table_has_medians_of_the_ratios_and_mfus_of_the_rounds():
    answers = {
        "ours": [{"seconds": s, "loss": 1.0, "counts": c} for s, c in ((9, False), (1, True), (2, True), (4, True))],
        "plain": [{"seconds": s, "loss": x, "counts": c} for s, x, c in ((9, 1, 0), (2, 1, 1), (6, 1.5, 1), (4, 1, 1))],
        MATMULS: [{"flops_per_sec": p, "counts": c} for p, c in ((1, False), (100, True), (100, True), (50, True))],
    }
    table = script.table_of("t", answers, tokens=8, flops=100)
    columns = [list(column.cells) for column in table.columns]
    assert columns[1] == ["4", "2"]  # tokens/s: 8 over 2 and 4 seconds
    assert columns[3] == ["", "2.000"]  # of 2, 3 and 1
    assert columns[5] == ["0.500", "0.500"]  # of 1, 0.5, 0.5 and of 0.5, 0.17, 0.5
    assert columns[6] == ["", "5.00e-01"]


@pytest.mark.parametrize(
    ("available", "groups"),
    [(300, [["ours", "a", "b"]]), (250, [["ours", "a"], ["ours", "b"]]), (150, [])],
)
def test_what_does_not_fit_together_runs_in_pairs_or_not_at_all(available, groups):
    assert script.groups_of(["ours", "a", "b"], 100, available) == groups


def test_a_size_that_does_not_fit_is_said(tiny, monkeypatch, capsys):
    monkeypatch.setattr(script, "available_bytes", lambda: 1 << 20)
    assert script.main(["--shapes", "2x16", "--precision", "fp32"]) == 0
    assert "do not fit into the memory, so none is timed" in capsys.readouterr().out


def test_a_shape_of_another_form_is_refused(capsys):
    with pytest.raises(SystemExit):
        script.main(["--shapes", "2by16"])
    assert "'2by16' is no shape: give sequences x tokens, such as 2x512" in capsys.readouterr().err


def test_ours_alone_keeps_memory_unless_all_shall():
    for words, keeping in (([], []), (["--keep-memory"], ["ours"]), (["--keep-memory-all"], ["ours", "plain"])):
        options = script.parser().parse_args(words)
        options.dtype = torch.float32
        jobs = [script.job_of(name, TINY, (1, 8), options) for name in ("ours", "plain")]
        assert [job.contestant for job in jobs if job.environment] == keeping


def test_the_fast_dtype_is_the_one_that_multiplies_fastest(monkeypatch):
    rates = {
        dtype: type("Rate", (), {"in_training": rate}) for dtype, rate in ((torch.float32, 2), (torch.bfloat16, 1))
    }
    monkeypatch.setattr(script, "rates_in_training", lambda device: rates)
    assert script.fast_dtype() == torch.float32


def test_a_process_that_fails_says_why():
    worker = Worker(
        Job(contestant="nanoGPT", config=TINY, batch_size=1, length=8, dtype=torch.float32, nanogpt="/none")
    )
    with pytest.raises(RuntimeError, match="give --nanogpt the directory of a checkout"):
        worker.step()
    worker.close()


def test_a_checkout_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="give --nanogpt"):
        _module_at(tmp_path / "model.py")


def test_the_flops_of_a_step_are_three_forward_passes():
    tokens = 2 * 16
    forward = tokens * (TINY.n_layer * (24 * 32**2 + 4 * 16 * 32) + 2 * 32 * 256)
    assert script.step_flops(TINY, (2, 16)) == 3 * forward
    assert np.isclose(script.bytes_needed(TINY, (2, 16), torch.float32), (600 << 20), rtol=1e-2)


def test_three_shapes_are_trained_unless_said_otherwise():
    assert script.parser().parse_args([]).shapes == [(1, 1024), (2, 512), (8, 128)]
    assert script.parser().parse_args(["--shapes", "4x32"]).shapes == [(4, 32)]
