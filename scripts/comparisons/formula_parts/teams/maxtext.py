"""MaxText: one function for all models, run on MaxText's own configuration file of each."""

from __future__ import annotations

import enum
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

from scripts.comparisons.formula_parts.exact import exact_values
from scripts.comparisons.formula_parts.shape import Architecture
from scripts.comparisons.formula_parts.sources import load, read
from scripts.comparisons.formula_parts.teams.team import Team

FILE = "src/maxtext/utils/maxtext_utils.py"
TYPES = "src/maxtext/common/common_types.py"
CONFIGS = "src/maxtext/configs"
TERA = 10**12
FUNCTION = "calculate_tflops_training_per_device"
HELPERS = (
    "calculate_gemma2_tflops_training_per_device",
    "calculate_mixed_attention_model_tflops_training_per_device",
    "calculate_mla_tflops_per_device",
    "calculate_ffn_mamtul_tflops_per_device",
    "calculate_routed_and_shared_ffn_tflops_per_device",
    "calculate_gated_delta_net_flops_per_device",
    "get_shared_expert_mlp_dim",
    "get_dense_moe_layers",
)
FILES = {
    "GPT-3 175B": "gpt3-175b",
    "Llama 2 7B": "llama2-7b",
    "Llama 2 70B": "llama2-70b",
    "Llama 3 8B": "llama3-8b",
    "Llama 3 70B": "llama3-70b",
    "Llama 3.1 405B": "llama3.1-405b",
    "Mistral 7B": "mistral-7b",
    "Qwen2 7B": "qwen2.5-7b",
    "Qwen3 0.6B": "qwen3-0.6b",
    "Qwen3 8B": "qwen3-8b",
    "Qwen3 32B": "qwen3-32b",
    "Gemma 2 9B": "gemma2-9b",
    "Gemma 3 27B": "gemma3-27b",
    "Mixtral 8x7B": "mixtral-8x7b",
    "Mixtral 8x22B": "mixtral-8x22b",
    "Qwen3 30B-A3B": "qwen3-30b-a3b",
    "Qwen3 235B-A22B": "qwen3-235b-a22b",
    "Qwen3-Next 80B-A3B": "qwen3-next-80b-a3b",
    "DeepSeek-V2": "deepseek2-236b",
    "DeepSeek-V2-Lite": "deepseek2-16b",
    "DeepSeek-V3": "deepseek3-671b",
    "Kimi K2": "kimi-k2-1t",
    "GPT-OSS 20B": "gpt-oss-20b",
    "GPT-OSS 120B": "gpt-oss-120b",
}
# What one batch of one sequence sets, and what is left out: no other module than the model itself.
RUN = {
    "per_device_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "use_dpo": False,
    "use_multimodal": False,
    "mtp_num_layers": 0,
    "engram_layers": [],
}


def count(checkout: Path, a: Architecture) -> Fraction | int:
    """Runs the function; it gives TFLOPs of a device, here of the one there is."""
    blocks = load(checkout, TYPES, ["DecoderBlockType"], {"enum": enum})["DecoderBlockType"]
    function = load(checkout, FILE, [FUNCTION, *HELPERS], {"DecoderBlockType": blocks})[FUNCTION]
    total: Fraction = function(_config(checkout, a, blocks), log=False)[0]
    return total * TERA


def _config(checkout: Path, a: Architecture, blocks: Any) -> SimpleNamespace:
    """Returns the options of their file over their defaults; ``base_`` sizes are the sizes at scale 1."""
    options = {**_options(checkout, "base.yml"), **_options(checkout, f"models/{FILES[a.name]}.yml"), **RUN}
    sizes = {name.removeprefix("base_"): value for name, value in options.items() if name.startswith("base_")}
    chosen = {"decoder_block": blocks(options["decoder_block"]), "max_target_length": a.length}
    return exact_values(**{**options, **sizes, **chosen})


def _options(checkout: Path, name: str) -> dict[str, Any]:
    options: dict[str, Any] = yaml.safe_load(read(checkout, f"{CONFIGS}/{name}"))
    return options


MAXTEXT = Team(name="MaxText", repository="AI-Hypercomputer/maxtext", file=FILE, supports=tuple(FILES), count=count)
