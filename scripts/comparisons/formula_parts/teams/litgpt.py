"""LitGPT: one function for all models, which counts the parameters of LitGPT's own model.

Its files are imported, since the model is theirs as well; they need no more than torch and lightning.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from scripts.comparisons.formula_parts.shape import Architecture
from scripts.comparisons.formula_parts.sources import CheckoutError, read
from scripts.comparisons.formula_parts.teams.team import Team

FILE = "litgpt/utils.py"
NAMES = {
    "Pythia 12B": "pythia-12b",
    "Falcon 7B": "falcon-7b",
    "Falcon 40B": "falcon-40b",
    "Llama 2 7B": "Llama-2-7b-hf",
    "Llama 2 70B": "Llama-2-70b-hf",
    "Llama 3 8B": "Llama-3-8B",
    "Llama 3 70B": "Llama-3-70B",
    "Llama 3.1 405B": "Llama-3.1-405B",
    "Mistral 7B": "Mistral-7B-v0.1",
    "Qwen2.5 72B": "Qwen2.5-72B",
    "Qwen3 0.6B": "Qwen3-0.6B",
    "Qwen3 8B": "Qwen3-8B",
    "Qwen3 32B": "Qwen3-32B",
    "Gemma 2 9B": "Gemma-2-9b",
    "Gemma 3 27B": "Gemma-3-27b-it",
    "Phi-3 mini": "Phi-3-mini-4k-instruct",
    "OLMo 2 7B": "OLMo-2-1124-7B",
    "Mixtral 8x7B": "Mixtral-8x7B-v0.1",
    "Mixtral 8x22B": "Mixtral-8x22B-v0.1",
    "Qwen3 30B-A3B": "Qwen3-30B-A3B",
    "Qwen3 235B-A22B": "Qwen3-235B-A22B",
}


def count(checkout: Path, a: Architecture) -> int:
    """Runs ``estimate_flops`` on their model of this name, on the meta device.

    Raises:
        CheckoutError: If it cannot be imported.
    """
    read(checkout, FILE)
    utils, model, config = _modules(checkout)
    sizes = config.Config.from_name(NAMES[a.name], block_size=a.length)
    with torch.device("meta"):
        gpt = model.GPT(sizes)
    flops: int = utils.estimate_flops(gpt, training=True)
    return flops


def _modules(checkout: Path) -> tuple[Any, Any, Any]:
    with _first_on_the_path(checkout):
        try:
            utils, model, config = (importlib.import_module(f"litgpt.{name}") for name in ("utils", "model", "config"))
        except ImportError as error:
            raise CheckoutError(f"{checkout} cannot be imported: {error}. Install what it asks for.") from error
    return utils, model, config


@contextmanager
def _first_on_the_path(checkout: Path) -> Iterator[None]:
    sys.path.insert(0, str(checkout))
    try:
        yield
    finally:
        sys.path.remove(str(checkout))


LITGPT = Team(name="litgpt", repository="Lightning-AI/litgpt", file=FILE, supports=tuple(NAMES), count=count)
