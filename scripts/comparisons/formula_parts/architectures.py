"""All architectures that are compared, by name; those with a mixture of experts are rows of this file."""

from __future__ import annotations

from scripts.comparisons.formula_parts.dense import DENSE, HUB, QUERY_KEY_NORMS
from scripts.comparisons.formula_parts.shape import Architecture, Delta, Experts, Latent, Vectors

DEEPSEEK = {"topk_method": "group_limited_greedy", "n_group": 8}

SPARSE = (
    Architecture(
        name="Mixtral 8x7B",
        model="MixtralForCausalLM",
        source=f"{HUB}/mistralai/Mixtral-8x7B-v0.1/blob/main/config.json",
        **{"layers": 32, "width": 4096, "heads": 32, "kv_heads": 8, "inner": 14336, "vocab": 32000},
        experts=Experts(number=8, chosen=2, inner=14336),
    ),
    Architecture(
        name="Mixtral 8x22B",
        model="MixtralForCausalLM",
        source=f"{HUB}/mistralai/Mixtral-8x22B-Instruct-v0.1/blob/main/config.json",
        **{"layers": 56, "width": 6144, "heads": 48, "kv_heads": 8, "inner": 16384, "vocab": 32768},
        experts=Experts(number=8, chosen=2, inner=16384),
    ),
    Architecture(
        name="Qwen1.5-MoE A2.7B",
        model="Qwen2MoeForCausalLM",
        source=f"{HUB}/Qwen/Qwen1.5-MoE-A2.7B/blob/main/config.json",
        **{"layers": 24, "width": 2048, "heads": 16, "kv_heads": 16, "inner": 5632, "vocab": 151936},
        experts=Experts(number=60, chosen=4, inner=1408, shared=5632, shared_gate=True),
        vectors=Vectors(biases=("qkv",)),
        options={"shared_expert_intermediate_size": 5632},
    ),
    Architecture(
        name="Qwen3 30B-A3B",
        model="Qwen3MoeForCausalLM",
        source=f"{HUB}/Qwen/Qwen3-30B-A3B/blob/main/config.json",
        **{"layers": 48, "width": 2048, "heads": 32, "kv_heads": 4, "head_dim": 128, "inner": 6144, "vocab": 151936},
        experts=Experts(number=128, chosen=8, inner=768),
        vectors=QUERY_KEY_NORMS,
    ),
    Architecture(
        name="Qwen3 235B-A22B",
        model="Qwen3MoeForCausalLM",
        source=f"{HUB}/Qwen/Qwen3-235B-A22B/blob/main/config.json",
        **{"layers": 94, "width": 4096, "heads": 64, "kv_heads": 4, "head_dim": 128, "inner": 12288, "vocab": 151936},
        experts=Experts(number=128, chosen=8, inner=1536),
        vectors=QUERY_KEY_NORMS,
    ),
    Architecture(
        name="Qwen3-Next 80B-A3B",
        model="Qwen3NextForCausalLM",
        source=f"{HUB}/Qwen/Qwen3-Next-80B-A3B-Instruct/blob/main/config.json",
        **{"layers": 48, "width": 2048, "heads": 16, "kv_heads": 2, "head_dim": 256, "inner": 5120, "vocab": 151936},
        experts=Experts(number=512, chosen=10, inner=512, shared=512, shared_gate=True),
        delta=Delta(key_heads=16, value_heads=32, key_dim=128, value_dim=128, kernel=4, every=4),
        options={"shared_expert_intermediate_size": 512},
    ),
    Architecture(
        name="DeepSeek-V2",
        model="DeepseekV2ForCausalLM",
        source=f"{HUB}/deepseek-ai/DeepSeek-V2/blob/main/config.json",
        **{"layers": 60, "width": 5120, "heads": 128, "kv_heads": 128, "inner": 12288, "vocab": 102400},
        experts=Experts(number=160, chosen=6, inner=1536, shared=2 * 1536, dense_layers=1),
        latent=Latent(query_rank=1536, kv_rank=512, nope=128, rope=64, value=128),
        options={**DEEPSEEK, "n_shared_experts": 2, "first_k_dense_replace": 1, "topk_group": 3},
    ),
    Architecture(
        name="DeepSeek-V2-Lite",
        model="DeepseekV2ForCausalLM",
        source=f"{HUB}/deepseek-ai/DeepSeek-V2-Lite/blob/main/config.json",
        **{"layers": 27, "width": 2048, "heads": 16, "kv_heads": 16, "inner": 10944, "vocab": 102400},
        experts=Experts(number=64, chosen=6, inner=1408, shared=2 * 1408, dense_layers=1),
        latent=Latent(query_rank=None, kv_rank=512, nope=128, rope=64, value=128),
        options={"topk_method": "greedy", "n_shared_experts": 2, "first_k_dense_replace": 1},
    ),
    Architecture(
        name="DeepSeek-V3",
        model="DeepseekV3ForCausalLM",
        source=f"{HUB}/deepseek-ai/DeepSeek-V3/blob/main/config.json",
        **{"layers": 61, "width": 7168, "heads": 128, "kv_heads": 128, "inner": 18432, "vocab": 129280},
        experts=Experts(number=256, chosen=8, inner=2048, shared=2048, dense_layers=3),
        latent=Latent(query_rank=1536, kv_rank=512, nope=128, rope=64, value=128),
        options={"n_shared_experts": 1, "first_k_dense_replace": 3, "n_group": 8, "topk_group": 4},
    ),
    Architecture(
        name="Kimi K2",
        model="DeepseekV3ForCausalLM",
        source=f"{HUB}/moonshotai/Kimi-K2-Base/blob/main/config.json",
        **{"layers": 61, "width": 7168, "heads": 64, "kv_heads": 64, "inner": 18432, "vocab": 163840},
        experts=Experts(number=384, chosen=8, inner=2048, shared=2048, dense_layers=1),
        latent=Latent(query_rank=1536, kv_rank=512, nope=128, rope=64, value=128),
        options={"n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
    ),
    Architecture(
        name="GPT-OSS 20B",
        model="GptOssForCausalLM",
        source=f"{HUB}/openai/gpt-oss-20b/blob/main/config.json",
        **{"layers": 24, "width": 2880, "heads": 64, "kv_heads": 8, "head_dim": 64, "inner": 2880, "vocab": 201088},
        **{"window": 128, "windowed": 12},
        experts=Experts(number=32, chosen=4, inner=2880),
        vectors=Vectors(biases=("qkv", "output", "mlp"), sinks=True),
        eager=True,
    ),
    Architecture(
        name="GPT-OSS 120B",
        model="GptOssForCausalLM",
        source=f"{HUB}/openai/gpt-oss-120b/blob/main/config.json",
        **{"layers": 36, "width": 2880, "heads": 64, "kv_heads": 8, "head_dim": 64, "inner": 2880, "vocab": 201088},
        **{"window": 128, "windowed": 18},
        experts=Experts(number=128, chosen=4, inner=2880),
        vectors=Vectors(biases=("qkv", "output", "mlp"), sinks=True),
        eager=True,
    ),
)

ARCHITECTURES: dict[str, Architecture] = {a.name: a for a in (*DENSE, *SPARSE)}
