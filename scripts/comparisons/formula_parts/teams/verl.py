"""verl: a function per model type, which reads the configuration of transformers."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from scripts.comparisons.formula_parts.exact import Exact, exact
from scripts.comparisons.formula_parts.ours import config
from scripts.comparisons.formula_parts.shape import Architecture
from scripts.comparisons.formula_parts.sources import OTHER_VERSION, CheckoutError, load
from scripts.comparisons.formula_parts.teams.team import Team

FILE = "verl/utils/flops_counter.py"
TERA = 10**12
FUNCTIONS = "ESTIMATE_FUNC"  # by model type
SUPPORTS = (
    *("Llama 2 7B", "Llama 2 70B", "Llama 3 8B", "Llama 3 70B", "Llama 3.1 405B", "Mistral 7B", "Apertus 8B"),
    *("Qwen2 0.5B", "Qwen2 7B", "Qwen2.5 72B", "Qwen3 0.6B", "Qwen3 8B", "Qwen3 32B", "Seed-OSS 36B", "Gemma 3 27B"),
    *("Qwen1.5-MoE A2.7B", "Qwen3 30B-A3B", "Qwen3 235B-A22B", "DeepSeek-V3", "GPT-OSS 20B", "GPT-OSS 120B"),
)


class _ExactConfig:
    """A configuration whose whole numbers are exact; what it lacks, it lacks."""

    def __init__(self, inner: object) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return exact(getattr(self._inner, name))


def count(checkout: Path, a: Architecture) -> Fraction | int:
    """Runs the function of the model type; it gives TFLOP/s, so the step takes one second."""
    functions = load(checkout, FILE, None)[FUNCTIONS]
    sizes = config(a)
    if sizes.model_type not in functions:
        raise CheckoutError(f"{checkout / FILE}: {FUNCTIONS} has no {sizes.model_type}. {OTHER_VERSION}")
    length = Exact(a.length)
    tflops: Fraction = functions[sizes.model_type](_ExactConfig(sizes), length, [length], Exact(1))
    return tflops * TERA


VERL = Team(name="verl", repository="volcengine/verl", file=FILE, supports=SUPPORTS, count=count)
