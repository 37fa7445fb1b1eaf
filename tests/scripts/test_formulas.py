import subprocess
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest

from scripts.comparisons import formulas
from scripts.comparisons.formula_parts import table, terms
from scripts.comparisons.formula_parts.architectures import ARCHITECTURES
from scripts.comparisons.formula_parts.exact import Exact, exact, exact_values
from scripts.comparisons.formula_parts.hand_counts import hand_count
from scripts.comparisons.formula_parts.ours import build, our_count
from scripts.comparisons.formula_parts.sources import CheckoutError, load
from scripts.comparisons.formula_parts.vectors import vector_weights
from scripts.comparisons.formula_parts.verdicts import TEAMS, VERDICTS, terms_of

PAGE = Path(__file__).parents[2] / "docs" / "flop-formulas.md"
WHOLE = ("Falcon 7B", "BERT large", "Qwen2 0.5B", "Llama 3 8B", "Mistral 7B", "DeepSeek-V2-Lite", "GPT-OSS 20B")
WITH_VECTORS = (
    "GPT-2 XL",
    "Falcon 7B",
    "Llama 3 8B",
    "Qwen2 7B",
    "Qwen3 0.6B",
    "Gemma 2 9B",
    "Gemma 3 27B",
    "OLMo 2 7B",
)
LLAMA = "Llama 2 7B"


def first_layers(name):
    """The architecture with as few layers as have one of each kind, at its published widths."""
    return replace(ARCHITECTURES[name], layers=4)


def test_at_least_twenty_architectures_have_a_count_by_hand_and_a_source():
    assert len(ARCHITECTURES) >= 20
    assert all(hand_count(a) > 0 and a.source.startswith("https://") for a in ARCHITECTURES.values())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_our_count_of_the_first_layers_is_the_count_by_hand(name):
    a = first_layers(name)
    assert our_count(a) == hand_count(a)


@pytest.mark.parametrize("name", WHOLE)
def test_our_count_at_the_published_size_is_the_count_by_hand(name):
    assert our_count(ARCHITECTURES[name]) == hand_count(ARCHITECTURES[name])


def test_llama_by_hand_is_the_number_that_everybody_knows():
    a = ARCHITECTURES[LLAMA]
    parameters, embedding = 6_738_415_616, 32000 * 4096
    norms = 65 * 4096
    attention = 12 * 32 * 4096 * 4096
    assert hand_count(a) == 4096 * (6 * (parameters - embedding - norms) + attention)


@pytest.mark.parametrize("name", WITH_VECTORS)
def test_the_weights_of_norms_and_biases_by_hand_are_those_of_the_model(name):
    a = first_layers(name)
    weights = sum(p.numel() for p in build(a).parameters() if p.dim() == 1)
    assert weights == vector_weights(a)


@pytest.mark.parametrize(("length", "window"), [(8, 3), (8, 8), (8, 20), (10, 1)])
def test_pairs_are_those_of_the_mask(length, window):
    a = replace(ARCHITECTURES["Mistral 7B"], length=length, window=window)
    causal = [(i, j) for i, j in product(range(length), repeat=2) if j <= i]
    assert terms.triangle(a) == len(causal)
    assert terms.band_and_diagonal(a) == sum(i - j < window for i, j in causal)
    # Half of the square, and of the band's part: each pair on the diagonal counts half.
    assert terms.half(a) == len(causal) - Fraction(length, 2)
    assert terms.band(a) == terms.band_and_diagonal(a) - Fraction(min(window, length), 2)


def test_a_float_in_a_formula_is_taken_exactly():
    sixteen_digits = Exact(10**16 + 1)
    assert sixteen_digits * 0.5 * 2.0 / 1e12 * 10**12 == 10**16 + 1
    assert 1.0 / Exact(3) * 3 == 1
    assert isinstance(2 - Exact(1), Exact)
    assert list(range(Exact(2))) == [0, 1]
    assert [exact(True), exact("x"), exact_values(a=2).a / 4] == [True, "x", Fraction(1, 2)]
    with pytest.raises(TypeError, match="1/2 is not a whole number"):
        range(Exact(1, 2))


def test_every_verdict_is_about_architectures_that_the_team_has_a_formula_for():
    for verdict in VERDICTS:
        assert verdict.architectures
        assert set(verdict.architectures) <= set(verdict.team.supports) <= set(ARCHITECTURES)
    assert len({(v.team.name, v.term.name, name) for v in VERDICTS for name in v.architectures}) == sum(
        len(v.architectures) for v in VERDICTS
    )


def test_a_term_is_added_up_from_the_architecture_alone():
    verl = next(team for team in TEAMS if team.name == "verl")
    mistral = ARCHITECTURES["Mistral 7B"]
    assert [term.name for term in terms_of(verl, "Mistral 7B")] == ["masked pairs", "embedding", "window ignored"]
    masked, embedding, ignored = (term.flops(mistral) for term in terms_of(verl, "Mistral 7B"))
    assert embedding == 6 * 8192 * 32000 * 4096
    assert masked + ignored == -6 * 32 * 32 * 256 * 8192**2 // 2


@pytest.mark.parametrize("teams", [("verl",), ("NeMo", "verl")])
def test_a_missing_checkout_names_the_option_and_the_remedy(teams, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        formulas.main(["--checkouts", str(tmp_path), "--only", LLAMA, "--teams", *teams])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert f"--checkouts {tmp_path}: there is no {teams[0]}/ in it" in error
    assert (
        f"git clone https://github.com/{'volcengine' if teams[0] == 'verl' else 'NVIDIA'}/{teams[0]} {tmp_path}"
        in error
    )
    assert "--teams" in error


def made_up(tmp_path, function):
    """A checkout of verl in which this function is the formula of Llama."""
    file = tmp_path / "verl" / "verl" / "utils" / "flops_counter.py"
    file.parent.mkdir(parents=True)
    file.write_text(f"import no_such_library\n\n{function}\n\nESTIMATE_FUNC = {{'llama': theirs}}\n")
    return ["--checkouts", str(tmp_path), "--only", LLAMA, "--teams", "verl"]


def formula(flops):
    return f"def theirs(config: no_such_library.Config, tokens, lengths, seconds):\n    return seconds * {flops} / 1e12"


def claimed(name=LLAMA):
    """What verl's formula gives where its verdict holds."""
    verl = next(team for team in TEAMS if team.name == "verl")
    a = ARCHITECTURES[name]
    return hand_count(a) + sum(int(term.flops(a)) for term in terms_of(verl, name))


def test_a_formula_whose_terms_add_up_is_explained(tmp_path, capsys):
    assert formulas.main(made_up(tmp_path, formula(claimed()))) == 0
    out = capsys.readouterr().out
    assert "volcengine/verl commit unknown" in out
    assert "unexplained" not in out.replace("unexplained ┃", "")
    assert "+1.7 % a" in out


@pytest.mark.parametrize("markdown", [(), ("--markdown",)])
def test_a_single_flop_that_no_term_explains_ends_with_status_one(tmp_path, capsys, markdown):
    arguments = made_up(tmp_path, formula(claimed() - 1))
    assert formulas.main([*arguments, *markdown]) == 1
    out = capsys.readouterr().out
    assert f"{LLAMA}: verl's terms leave -1 FLOPs unexplained" in out
    assert "unexplained: -1 " in out


def test_a_formula_that_fails_says_that_the_checkout_is_of_another_version(tmp_path, capsys):
    arguments = made_up(tmp_path, "def theirs(config, tokens, lengths, seconds):\n    return config.no_such_size")
    with pytest.raises(SystemExit):
        formulas.main(arguments)
    error = capsys.readouterr().err
    assert f"flops_counter.py fails on {LLAMA}: AttributeError" in error
    assert "docs/flop-formulas.md names the commits" in error


def test_a_count_of_ours_that_is_not_the_hand_count_ends_with_status_one(monkeypatch, capsys):
    monkeypatch.setattr("scripts.comparisons.formula_parts.comparison.our_count", lambda a: 7)
    assert formulas.main(["--only", LLAMA]) == 1
    assert f"{LLAMA}: ours is 7, by hand it is 188,763,812,659,200" in capsys.readouterr().out


def test_without_checkouts_ours_is_compared_with_the_count_by_hand(capsys):
    assert formulas.main(["--only", "Falcon 7B", "--markdown"]) == 0
    assert "| Falcon 7B | 2048 | 92,369,043,062,784 | equal |" in capsys.readouterr().out


def test_the_commit_of_a_checkout_is_named(tmp_path, capsys):
    arguments = made_up(tmp_path, formula(claimed()))
    git = ["git", "-C", str(tmp_path / "verl"), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "-m", "a"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert formulas.main(arguments) == 0
    assert f"volcengine/verl {commit}" in capsys.readouterr().out


SOURCE = """
import no_such_library

SIZES = {"llama": 4}

class Model:
    class Config:
        def per_token(self, length: no_such_library.Length):
            return helper(self.width) * length

def helper(width):
    return width * SIZES["llama"]
"""


def test_functions_are_cut_out_of_a_file_whose_imports_are_not_there(tmp_path):
    (tmp_path / "model.py").write_text(SOURCE)
    theirs = load(tmp_path, "model.py", ["SIZES", "helper", "per_token"])
    assert theirs["per_token"](exact_values(width=3), 5) == 60
    with pytest.raises(CheckoutError, match=r"model\.py has no other\. The checkout is of another version"):
        load(tmp_path, "model.py", ["other"])
    with pytest.raises(CheckoutError, match=r"lost\.py is not there\. The checkout is of another version"):
        load(tmp_path, "lost.py", ["helper"])


def test_small_differences_keep_a_digit():
    assert [table.percent(part) for part in (0.0648, -0.0013, 0.00003, 0.0000032, 2.418)] == [
        *("+6.5 %", "-0.13 %", "+0.003 %", "+0.00032 %"),
        "+241.8 %",
    ]


def test_flops_are_whole_unless_a_formula_went_wrong():
    assert [table.flops(Fraction(count)) for count in (-1200, Fraction(1, 2))] == ["-1,200", "1/2"]


def test_the_page_has_the_count_by_hand_of_every_architecture():
    page = PAGE.read_text()
    missing = [a.name for a in ARCHITECTURES.values() if f"| {a.name} | {a.length} | {hand_count(a):,} |" not in page]
    assert missing == []
    assert all(team.repository in page and team.name in page for team in TEAMS)
    assert all(verdict.term.why in page for verdict in VERDICTS)
