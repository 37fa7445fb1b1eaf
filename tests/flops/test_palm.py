"""The closed form, against our count and against what papers have published."""

import pytest
import torch

from gpt import GPT, SIZES
from mfu_callback import count_flops, model_flops_utilization, palm_flops_per_token

ARGUMENTS = {"parameters": 10, "layers": 2, "heads": 4, "head_dim": 8, "length": 16}


@pytest.mark.parametrize("size", SIZES)
def test_three_times_our_count_is_the_closed_form_to_the_last_flop(size):
    config, batch, length = SIZES[size], 2, 1024
    with torch.device("meta"):
        model, tokens = GPT(config), torch.zeros(batch, length, dtype=torch.long)
    matrices = config.n_layer * 12 * config.n_embd**2 + config.vocab_size * config.n_embd
    per_token = palm_flops_per_token(
        parameters=matrices,
        layers=config.n_layer,
        heads=config.n_head,
        head_dim=config.n_embd // config.n_head,
        length=length,
    )
    assert 3 * count_flops(model, tokens).forward == batch * length * per_token


@pytest.mark.parametrize(
    ("parameters", "layers", "heads", "printed", "half_a_digit"),
    [
        (8.63e9, 32, 16, 0.0550e12, 0.00005e12),
        (62.50e9, 64, 32, 0.388e12, 0.0005e12),
        (540.35e9, 118, 48, 3.28e12, 0.005e12),
    ],
)
def test_tflops_per_token_of_the_palm_models(parameters, layers, heads, printed, half_a_digit):
    """Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311: inputs of table 1 (heads of 256, sequences of 2,048),
    "TFLOPs per token (non-attn+attn)" of table 22. The tolerance is half of the last digit printed."""
    flops = palm_flops_per_token(parameters=int(parameters), layers=layers, heads=heads, head_dim=256, length=2048)
    assert flops == pytest.approx(printed, abs=half_a_digit)


# What appendix B of the same paper computes, number by number; its table 3 has the MFU.
PUBLISHED = {
    # 238.3K tokens/s on 6144 TPU v4 of 275 TFLOP/s. The appendix takes 540B parameters.
    "PaLM 540B": {
        "tokens_per_sec": 238.3e3,
        "chips": 6144,
        "peak": 275e12,
        "shape": {"parameters": 540 * 10**9, "layers": 118, "heads": 48, "head_dim": 256, "length": 2048},
        "mfu": 0.462,
        "without_attention": 0.457,
    },
    # 1920 sequences of 2048 tokens in 60.1 s on 2240 A100 of 312 TFLOP/s. The step time and the shape (105 layers
    # 20,480 wide, 128 heads) are those of Smith et al. 2022, https://arxiv.org/abs/2201.11990.
    "Megatron-Turing NLG 530B": {
        "tokens_per_sec": 1920 * 2048 / 60.1,
        "chips": 2240,
        "peak": 312e12,
        "shape": {"parameters": 530 * 10**9, "layers": 105, "heads": 128, "head_dim": 160, "length": 2048},
        "mfu": 0.302,
        "without_attention": 0.297,
    },
    # 0.0152 steps/s on 4096 TPU v3 of 123 TFLOP/s; 80 layers, 128 heads of 128. The batch is published as "six million
    # tokens" only: 3,072 sequences of 2,048 give the printed MFU, six million to the token give 31.0 %.
    "Gopher 280B": {
        "tokens_per_sec": 0.0152 * 3072 * 2048,
        "chips": 4096,
        "peak": 123e12,
        "shape": {"parameters": 280 * 10**9, "layers": 80, "heads": 128, "head_dim": 128, "length": 2048},
        "mfu": 0.325,
        "without_attention": None,
    },
}
# The paper prints tenths of a percentage point; some of its figures are rounded down (29.77 % is printed as 29.7 %).
TOLERANCE = 0.001


@pytest.mark.parametrize("run", PUBLISHED.values(), ids=PUBLISHED.keys())
def test_published_mfu(run):
    def mfu(flops_per_token):
        return model_flops_utilization(run["tokens_per_sec"], flops_per_token, run["peak"], run["chips"])

    assert mfu(palm_flops_per_token(**run["shape"])) == pytest.approx(run["mfu"], abs=TOLERANCE)
    if run["without_attention"] is not None:
        assert mfu(6 * run["shape"]["parameters"]) == pytest.approx(run["without_attention"], abs=TOLERANCE)


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("value", [0, -1])
def test_an_argument_below_one_is_named(name, value):
    with pytest.raises(ValueError, match=rf"^{name}={value} must be a whole number of at least 1\.$"):
        palm_flops_per_token(**ARGUMENTS | {name: value})


def test_the_terms():
    assert palm_flops_per_token(**ARGUMENTS) == 6 * 10 + 12 * 2 * 4 * 8 * 16
