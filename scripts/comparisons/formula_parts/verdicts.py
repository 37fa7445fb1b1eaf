"""Who is right and why: rows of a team, the terms of its formula, and the architectures that they are in.

Where a team's formula has no row for an architecture, it is claimed to be equal to the hand count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scripts.comparisons.formula_parts import terms
from scripts.comparisons.formula_parts.architectures import ARCHITECTURES
from scripts.comparisons.formula_parts.shape import Architecture
from scripts.comparisons.formula_parts.teams.litgpt import LITGPT
from scripts.comparisons.formula_parts.teams.maxtext import MAXTEXT
from scripts.comparisons.formula_parts.teams.megatron_bridge import MEGATRON_BRIDGE
from scripts.comparisons.formula_parts.teams.nemo import FUNCTIONS, NEMO
from scripts.comparisons.formula_parts.teams.team import Team
from scripts.comparisons.formula_parts.teams.torchtitan import TORCHTITAN, TORCHTITAN_BACKEND
from scripts.comparisons.formula_parts.teams.verl import VERL
from scripts.comparisons.formula_parts.terms import Term, constant_vocabulary, own_vocabulary

TEAMS: tuple[Team, ...] = (MEGATRON_BRIDGE, NEMO, VERL, TORCHTITAN, TORCHTITAN_BACKEND, MAXTEXT, LITGPT)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim: in these architectures, the team's formula differs by this term."""

    team: Team
    term: Term
    architectures: tuple[str, ...]


def terms_of(team: Team, name: str) -> tuple[Term, ...]:
    """Returns the terms that are claimed to explain a team's number."""
    return tuple(verdict.term for verdict in VERDICTS if verdict.team is team and name in verdict.architectures)


def _where(team: Team, condition: Callable[[Architecture], object]) -> tuple[str, ...]:
    """Returns the names of those that the team supports and the condition holds for."""
    return tuple(name for name in team.supports if condition(ARCHITECTURES[name]))


def _all_but(team: Team, names: Iterable[str]) -> tuple[str, ...]:
    left_out = set(names)
    return tuple(name for name in team.supports if name not in left_out)


def _has_experts(a: Architecture) -> bool:
    return a.experts is not None


def _has_delta(a: Architecture) -> bool:
    return a.delta is not None


def _own_head_dim(a: Architecture) -> bool:
    return a.heads * a.dim != a.width


GPT_OSS = ("GPT-OSS 20B", "GPT-OSS 120B")
GEMMAS = ("Gemma 2 9B", "Gemma 3 27B")
NEMO_QWEN = tuple(name for name, function in FUNCTIONS.items() if function == "qwen3")
FULL_SQUARE = tuple(name for name, function in FUNCTIONS.items() if function in ("transformer", "bert"))

VERDICTS: tuple[Verdict, ...] = (
    Verdict(MEGATRON_BRIDGE, terms.masked(terms.half, terms.band_and_diagonal), MEGATRON_BRIDGE.supports),
    Verdict(MEGATRON_BRIDGE, terms.NO_ROUTER, _where(MEGATRON_BRIDGE, _has_experts)),
    Verdict(MEGATRON_BRIDGE, terms.ALL_WINDOWED, GEMMAS),
    Verdict(MEGATRON_BRIDGE, terms.LATENT_NORMS, _where(MEGATRON_BRIDGE, lambda a: a.latent)),
    Verdict(MEGATRON_BRIDGE, terms.NO_SHARED_GATE, _where(MEGATRON_BRIDGE, _has_delta)),
    Verdict(MEGATRON_BRIDGE, terms.DELTA_RECURRENT, _where(MEGATRON_BRIDGE, _has_delta)),
    Verdict(MEGATRON_BRIDGE, terms.CONVOLUTION_ENDS, _where(MEGATRON_BRIDGE, _has_delta)),
    Verdict(NEMO, terms.masked(terms.half, terms.band), _all_but(NEMO, (*FULL_SQUARE, *GPT_OSS))),
    Verdict(NEMO, terms.masked(terms.triangle, terms.band_and_diagonal), GPT_OSS),
    Verdict(NEMO, terms.NO_ROUTER, _where(NEMO, _has_experts)),
    Verdict(NEMO, terms.HEAD_DIM_IGNORED, NEMO_QWEN),
    Verdict(NEMO, terms.NO_TRANSFORM, ("BERT large",)),
    Verdict(NEMO, constant_vocabulary(51200), ("GPT-3 175B",)),
    Verdict(NEMO, constant_vocabulary(29000), ("BERT large",)),
    Verdict(NEMO, constant_vocabulary(32000), ("Mixtral 8x22B",)),
    Verdict(VERL, terms.masked(terms.half, terms.band), VERL.supports),
    Verdict(VERL, terms.EMBEDDING, VERL.supports),
    Verdict(VERL, terms.WINDOW_IGNORED, ("Mistral 7B",)),
    Verdict(VERL, terms.HALVED_BANDS, ("Gemma 3 27B", *GPT_OSS)),
    Verdict(VERL, terms.QUERY_KEY_NORMS, ("Apertus 8B",)),
    Verdict(VERL, terms.NO_SHARED_EXPERT, ("Qwen1.5-MoE A2.7B",)),
    Verdict(VERL, terms.NO_SHARED_GATE, ("Qwen1.5-MoE A2.7B",)),
    Verdict(TORCHTITAN, terms.VECTORS, TORCHTITAN.supports),
    Verdict(TORCHTITAN_BACKEND, terms.VECTORS, TORCHTITAN_BACKEND.supports),
    Verdict(TORCHTITAN_BACKEND, terms.EMBEDDING, _where(TORCHTITAN_BACKEND, lambda a: not a.tied)),
    Verdict(TORCHTITAN_BACKEND, terms.HALF_THE_ATTENTION, TORCHTITAN_BACKEND.supports),
    Verdict(TORCHTITAN_BACKEND, terms.ALL_EXPERTS, _where(TORCHTITAN_BACKEND, _has_experts)),
    Verdict(MAXTEXT, terms.masked(terms.half, terms.band), MAXTEXT.supports),
    Verdict(MAXTEXT, terms.WINDOW_IGNORED, ("Mistral 7B",)),
    Verdict(MAXTEXT, terms.NO_OUTPUT_GATE, _where(MAXTEXT, _has_delta)),
    Verdict(MAXTEXT, terms.NO_SHARED_GATE, _where(MAXTEXT, _has_delta)),
    Verdict(MAXTEXT, terms.DELTA_RECURRENT, _where(MAXTEXT, _has_delta)),
    Verdict(MAXTEXT, terms.CONVOLUTION_ENDS, _where(MAXTEXT, _has_delta)),
    Verdict(MAXTEXT, own_vocabulary(50304), ("GPT-3 175B",)),
    Verdict(MAXTEXT, own_vocabulary(256128), ("Gemma 2 9B",)),
    Verdict(MAXTEXT, own_vocabulary(262144), ("Gemma 3 27B",)),
    Verdict(LITGPT, terms.ATTENTION_FIVE_TIMES, LITGPT.supports),
    Verdict(LITGPT, terms.WIDTH_FOR_HEADS, _where(LITGPT, _own_head_dim)),
    Verdict(LITGPT, terms.EMBEDDING, LITGPT.supports),
    Verdict(LITGPT, terms.VECTORS, LITGPT.supports),
    Verdict(LITGPT, terms.ALL_EXPERTS, _where(LITGPT, _has_experts)),
    Verdict(LITGPT, own_vocabulary(262144, matrices=2), ("Gemma 3 27B",)),
)
