"""Published models without a mixture of experts, one row each."""

from __future__ import annotations

from typing import Any

from scripts.comparisons.formula_parts.shape import Architecture, Vectors

HUB = "https://huggingface.co"
LAYER_NORMS = Vectors(per_norm=2, biases=("qkv", "output", "mlp"))
QUERY_KEY_NORMS = Vectors(query_key_norm="head")
QKV_BIASES = Vectors(biases=("qkv",))


def _gated(name: str, model: str = "LlamaForCausalLM", **sizes: Any) -> Architecture:
    """A decoder whose MLPs have a gate: Llama's kind."""
    return Architecture(name=name, model=model, **sizes)


PLAIN = (
    Architecture(
        name="GPT-2 XL",
        model="GPT2LMHeadModel",
        source=f"{HUB}/openai-community/gpt2-xl/blob/main/config.json",
        **{"layers": 48, "width": 1600, "heads": 25, "inner": 6400, "vocab": 50257, "length": 1024},
        gated=False,
        tied=True,
        vectors=LAYER_NORMS,
    ),
    Architecture(
        name="GPT-3 175B",
        model="GPT2LMHeadModel",
        source="https://arxiv.org/abs/2005.14165, table 2.1",
        **{"layers": 96, "width": 12288, "heads": 96, "inner": 49152, "vocab": 50257, "length": 2048},
        gated=False,
        tied=True,
        vectors=LAYER_NORMS,
    ),
    Architecture(
        name="Pythia 12B",
        model="GPTNeoXForCausalLM",
        source=f"{HUB}/EleutherAI/pythia-12b/blob/main/config.json",
        **{"layers": 36, "width": 5120, "heads": 40, "inner": 20480, "vocab": 50688, "length": 2048},
        gated=False,
        vectors=LAYER_NORMS,
    ),
    Architecture(
        name="BLOOM 176B",
        model="BloomForCausalLM",
        source=f"{HUB}/bigscience/bloom/blob/main/config.json",
        **{"layers": 70, "width": 14336, "heads": 112, "inner": 57344, "vocab": 250880, "length": 2048},
        gated=False,
        tied=True,
        eager=True,
    ),
    Architecture(
        name="Falcon 7B",
        model="FalconForCausalLM",
        source=f"{HUB}/tiiuae/falcon-7b/blob/main/config.json",
        **{"layers": 32, "width": 4544, "heads": 71, "kv_heads": 1, "inner": 18176, "vocab": 65024, "length": 2048},
        gated=False,
        tied=True,
        vectors=Vectors(norms=1, per_norm=2),
        options={"multi_query": True, "new_decoder_architecture": False, "parallel_attn": True, "bias": False},
    ),
    Architecture(
        name="Falcon 40B",
        model="FalconForCausalLM",
        source=f"{HUB}/tiiuae/falcon-40b/blob/main/config.json",
        **{"layers": 60, "width": 8192, "heads": 128, "kv_heads": 8, "inner": 32768, "vocab": 65024, "length": 2048},
        gated=False,
        tied=True,
        vectors=Vectors(norms=2, per_norm=2),
        options={"new_decoder_architecture": True, "parallel_attn": True, "bias": False},
    ),
    Architecture(
        name="StarCoder2 15B",
        model="Starcoder2ForCausalLM",
        source=f"{HUB}/bigcode/starcoder2-15b/blob/main/config.json",
        **{"layers": 40, "width": 6144, "heads": 48, "kv_heads": 4, "inner": 24576, "vocab": 49152, "length": 8192},
        **{"window": 4096, "windowed": 40},
        gated=False,
        vectors=LAYER_NORMS,
    ),
    Architecture(
        name="Nemotron-4 15B",
        model="NemotronForCausalLM",
        source="https://arxiv.org/abs/2402.16819, table 1",
        **{"layers": 32, "width": 6144, "heads": 48, "kv_heads": 8, "inner": 24576, "vocab": 256000},
        gated=False,
    ),
    Architecture(
        name="Nemotron-4 340B",
        model="NemotronForCausalLM",
        source="https://arxiv.org/abs/2406.11704, table 1",
        **{"layers": 96, "width": 18432, "heads": 96, "kv_heads": 8, "inner": 73728, "vocab": 256000},
        gated=False,
    ),
    Architecture(
        name="Apertus 8B",
        model="ApertusForCausalLM",
        source=f"{HUB}/swiss-ai/Apertus-8B-2509/blob/main/config.json",
        **{"layers": 32, "width": 4096, "heads": 32, "kv_heads": 8, "inner": 21504, "vocab": 131072},
        gated=False,
        vectors=QUERY_KEY_NORMS,
    ),
)

GATED = (
    _gated(
        "Llama 2 7B",
        source=f"{HUB}/meta-llama/Llama-2-7b-hf/blob/main/config.json",
        **{"layers": 32, "width": 4096, "heads": 32, "inner": 11008, "vocab": 32000},
    ),
    _gated(
        "Llama 2 70B",
        source=f"{HUB}/meta-llama/Llama-2-70b-hf/blob/main/config.json",
        **{"layers": 80, "width": 8192, "heads": 64, "kv_heads": 8, "inner": 28672, "vocab": 32000},
    ),
    _gated(
        "Llama 3 8B",
        source=f"{HUB}/meta-llama/Meta-Llama-3-8B/blob/main/config.json",
        **{"layers": 32, "width": 4096, "heads": 32, "kv_heads": 8, "inner": 14336, "vocab": 128256},
    ),
    _gated(
        "Llama 3 70B",
        source=f"{HUB}/meta-llama/Meta-Llama-3-70B/blob/main/config.json",
        **{"layers": 80, "width": 8192, "heads": 64, "kv_heads": 8, "inner": 28672, "vocab": 128256},
    ),
    _gated(
        "Llama 3.1 405B",
        source=f"{HUB}/meta-llama/Llama-3.1-405B/blob/main/config.json",
        **{"layers": 126, "width": 16384, "heads": 128, "kv_heads": 8, "inner": 53248, "vocab": 128256},
    ),
    _gated(
        "Mistral 7B",
        "MistralForCausalLM",
        source=f"{HUB}/mistralai/Mistral-7B-v0.1/blob/main/config.json",
        **{"layers": 32, "width": 4096, "heads": 32, "kv_heads": 8, "inner": 14336, "vocab": 32000, "length": 8192},
        **{"window": 4096, "windowed": 32},
    ),
    _gated(
        "Qwen2 0.5B",
        "Qwen2ForCausalLM",
        source=f"{HUB}/Qwen/Qwen2-0.5B/blob/main/config.json",
        **{"layers": 24, "width": 896, "heads": 14, "kv_heads": 2, "inner": 4864, "vocab": 151936},
        tied=True,
        vectors=QKV_BIASES,
    ),
    _gated(
        "Qwen2 7B",
        "Qwen2ForCausalLM",
        source=f"{HUB}/Qwen/Qwen2-7B/blob/main/config.json",
        **{"layers": 28, "width": 3584, "heads": 28, "kv_heads": 4, "inner": 18944, "vocab": 152064},
        vectors=QKV_BIASES,
    ),
    _gated(
        "Qwen2.5 72B",
        "Qwen2ForCausalLM",
        source=f"{HUB}/Qwen/Qwen2.5-72B/blob/main/config.json",
        **{"layers": 80, "width": 8192, "heads": 64, "kv_heads": 8, "inner": 29568, "vocab": 152064},
        vectors=QKV_BIASES,
    ),
    _gated(
        "Qwen3 0.6B",
        "Qwen3ForCausalLM",
        source=f"{HUB}/Qwen/Qwen3-0.6B/blob/main/config.json",
        **{"layers": 28, "width": 1024, "heads": 16, "kv_heads": 8, "head_dim": 128, "inner": 3072, "vocab": 151936},
        tied=True,
        vectors=QUERY_KEY_NORMS,
    ),
    _gated(
        "Qwen3 8B",
        "Qwen3ForCausalLM",
        source=f"{HUB}/Qwen/Qwen3-8B/blob/main/config.json",
        **{"layers": 36, "width": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "inner": 12288, "vocab": 151936},
        vectors=QUERY_KEY_NORMS,
    ),
    _gated(
        "Qwen3 32B",
        "Qwen3ForCausalLM",
        source=f"{HUB}/Qwen/Qwen3-32B/blob/main/config.json",
        **{"layers": 64, "width": 5120, "heads": 64, "kv_heads": 8, "head_dim": 128, "inner": 25600, "vocab": 151936},
        vectors=QUERY_KEY_NORMS,
    ),
    _gated(
        "Seed-OSS 36B",
        "SeedOssForCausalLM",
        source=f"{HUB}/ByteDance-Seed/Seed-OSS-36B-Base/blob/main/config.json",
        **{"layers": 64, "width": 5120, "heads": 80, "kv_heads": 8, "head_dim": 128, "inner": 27648, "vocab": 155136},
    ),
    _gated(
        "Gemma 2 9B",
        "Gemma2ForCausalLM",
        source=f"{HUB}/google/gemma-2-9b/blob/main/config.json",
        **{"layers": 42, "width": 3584, "heads": 16, "kv_heads": 8, "head_dim": 256, "inner": 14336, "vocab": 256000},
        **{"window": 4096, "windowed": 21, "length": 8192},
        tied=True,
        vectors=Vectors(norms=4),
        eager=True,
    ),
    _gated(
        "Gemma 3 27B",
        "Gemma3ForCausalLM",
        source=f"{HUB}/google/gemma-3-27b-pt/blob/main/config.json",
        **{"layers": 62, "width": 5376, "heads": 32, "kv_heads": 16, "head_dim": 128, "inner": 21504, "vocab": 262208},
        **{"window": 1024, "windowed": 52},
        tied=True,
        vectors=Vectors(norms=4, query_key_norm="head"),
    ),
    _gated(
        "Phi-3 mini",
        "Phi3ForCausalLM",
        source=f"{HUB}/microsoft/Phi-3-mini-4k-instruct/blob/main/config.json",
        **{"layers": 32, "width": 3072, "heads": 32, "inner": 8192, "vocab": 32064},
        **{"window": 2047, "windowed": 32},
        options={"pad_token_id": 32000, "original_max_position_embeddings": 4096},
    ),
    _gated(
        "OLMo 2 7B",
        "Olmo2ForCausalLM",
        source=f"{HUB}/allenai/OLMo-2-1124-7B/blob/main/config.json",
        **{"layers": 32, "width": 4096, "heads": 32, "inner": 11008, "vocab": 100352},
        vectors=Vectors(query_key_norm="all"),
    ),
    _gated(
        "GLM-4 9B",
        "Glm4ForCausalLM",
        source=f"{HUB}/zai-org/GLM-4-9B-0414/blob/main/config.json",
        **{"layers": 40, "width": 4096, "heads": 32, "kv_heads": 2, "head_dim": 128, "inner": 13696, "vocab": 151552},
        vectors=Vectors(norms=4),
        options={"pad_token_id": 151329},
    ),
)

OTHERS = (
    Architecture(
        name="BERT large",
        model="BertForMaskedLM",
        source=f"{HUB}/google-bert/bert-large-uncased/blob/main/config.json",
        **{"layers": 24, "width": 1024, "heads": 16, "inner": 4096, "vocab": 30522, "length": 512},
        gated=False,
        tied=True,
    ),
    Architecture(
        name="T5 11B",
        model="T5ForConditionalGeneration",
        source=f"{HUB}/google-t5/t5-11b/blob/main/config.json",
        **{"layers": 24, "width": 1024, "heads": 128, "head_dim": 128, "inner": 65536, "vocab": 32128, "length": 512},
        gated=False,
        tied=True,
        eager=True,
    ),
)

DENSE = (*PLAIN, *GATED, *OTHERS)
