"""torch.nn's own architectures against closed forms that are written from their sizes alone."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from mfu_callback import count_flops
from tests.helpers.contexts import Within, autocast, in_every_context

zeros = torch.zeros


def linear(rows, inputs, outputs):
    return 2 * rows * inputs * outputs


in_both_modes = pytest.mark.parametrize("training", [True, False])


def recurrent(gates, inputs, hidden, steps, *, num_layers=1, bidirectional=False, proj_size=0, **_):
    """Every real step multiplies the input and the state by the weights of all gates, then projects the output."""
    directions, state, flops = 1 + bidirectional, proj_size or hidden, 0
    for _ in range(num_layers):
        flops += directions * steps * 2 * (gates * hidden * (inputs + state) + hidden * proj_size)
        inputs = directions * state
    return flops


KINDS = ((nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1))
STACKED = {"num_layers": 2, "bidirectional": True}
RECURRENT = [
    *[(*kind, {}) for kind in KINDS],
    *[(*kind, STACKED) for kind in KINDS],
    (nn.LSTM, 4, {"proj_size": 2}),
    (nn.LSTM, 4, STACKED | {"proj_size": 2}),
    (nn.LSTM, 4, {"batch_first": True, "bias": False}),
    (nn.GRU, 3, {"batch_first": True, "num_layers": 2, "dropout": 0.5}),
    (nn.RNN, 1, {"nonlinearity": "relu", "num_layers": 2}),
]
LENGTHS = [10, 4, 1]


def sequences(kind, settings):
    """The input in one of its forms, and the number of its real steps."""
    if kind == "unbatched":
        return zeros(10, 8), 10
    if kind == "packed":
        return nn.utils.rnn.pack_sequence([zeros(length, 8) for length in LENGTHS]), sum(LENGTHS)
    return zeros(*((3, 10) if settings.get("batch_first") else (10, 3)), 8), 30


def runs(module, inputs):
    """Whether this machine computes a module at all: oneDNN has bf16 LSTMs on CPUs with AVX-512 alone."""
    try:
        with torch.no_grad():
            module(inputs)
    except RuntimeError as error:
        if "could not create a primitive" in str(error):
            return False
        raise
    return True


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@in_both_modes
@in_every_context
@pytest.mark.parametrize("form", ["batched", "unbatched", "packed"])
@pytest.mark.parametrize("hidden", [3, 48])
@pytest.mark.parametrize(("kind", "gates", "settings"), RECURRENT)
def test_a_recurrent_layer_counts_its_real_steps(kind, gates, settings, hidden, form, context, training):
    inputs, steps = sequences(form, settings)
    layer = Within(context, kind(8, hidden, **settings)).train(training)
    if context is autocast and not runs(layer, inputs):
        pytest.skip("this CPU has no bf16 kernel for this layer")
    count = count_flops(layer, inputs)
    assert (count.forward, count.uncounted) == (recurrent(gates, 8, hidden, steps, **settings), ())


class Unrolled(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, steps):
        state = None
        for step in steps:
            state = self.cell(step, state)


@in_every_context
@pytest.mark.parametrize(("cell", "gates"), [(nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)])
def test_a_cell_in_a_loop_counts_every_step(cell, gates, context):
    count = count_flops(Within(context, Unrolled(cell(8, 6))), zeros(10, 3, 8))
    assert (count.forward, count.uncounted) == (recurrent(gates, 8, 6, 30), ())


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("weight_norm", [parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_a_recurrent_layer_under_weight_norm_counts_like_one_without(kind, gates, weight_norm):
    module = weight_norm(weight_norm(kind(8, 48), "weight_hh_l0"), "weight_ih_l0")
    count = count_flops(module, zeros(10, 3, 8))
    assert (count.forward, count.uncounted) == (recurrent(gates, 8, 48, 30), ())


BATCH, LENGTH, WIDTH, HIDDEN = 3, 10, 16, 40
X, Y = zeros(BATCH, LENGTH, WIDTH), zeros(BATCH, 7, WIDTH)


def attention(queries, keys, *, batch=BATCH, key_width=WIDTH, value_width=WIDTH):
    """The four projections and the full square."""
    projections = linear(queries, WIDTH, 2 * WIDTH) + linear(keys, key_width + value_width, WIDTH)
    return batch * (projections + 4 * queries * keys * WIDTH)


def encoder_layer(lengths=(LENGTH,) * BATCH):
    return sum(attention(n, n, batch=1) + 2 * linear(n, WIDTH, HIDDEN) for n in lengths)


def decoder_layer(queries, keys):
    return attention(queries, queries) + attention(queries, keys) + BATCH * 2 * linear(queries, WIDTH, HIDDEN)


CAUSAL = nn.Transformer.generate_square_subsequent_mask(LENGTH)
PADDED_AT_THE_END = torch.arange(LENGTH) >= torch.tensor(LENGTHS)[:, None]
PADDED_AT_THE_START = PADDED_AT_THE_END.flip(1)
MULTIHEAD = [
    ({}, (X, X, X), {}, attention(LENGTH, LENGTH)),
    ({}, (Y, X, X), {}, attention(7, LENGTH)),
    ({"bias": False}, (Y, X, X + 1), {}, attention(7, LENGTH)),
    ({"kdim": 5, "vdim": 6}, (Y, X[..., :5], X[..., :6]), {}, attention(7, LENGTH, key_width=5, value_width=6)),
    ({}, (X, X, X), {"attn_mask": CAUSAL, "is_causal": True}, attention(LENGTH, LENGTH)),
    ({}, (X, X, X), {"key_padding_mask": PADDED_AT_THE_END}, attention(LENGTH, LENGTH)),
    ({}, (X[0], X[0], X[0]), {}, attention(LENGTH, LENGTH, batch=1)),
    # One more key that is learnt and one of zeros: no projection is spent on them.
    (
        {"add_bias_kv": True, "add_zero_attn": True},
        (X, X, X),
        {},
        attention(LENGTH, LENGTH) + BATCH * 4 * LENGTH * 2 * WIDTH,
    ),
]


@in_both_modes
@in_every_context
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize(("settings", "inputs", "call", "flops"), MULTIHEAD)
def test_multihead_attention_counts_its_projections_and_its_square(
    settings, inputs, call, flops, need_weights, context, training
):
    module = nn.MultiheadAttention(WIDTH, 4, batch_first=True, **settings).train(training)
    count = count_flops(Within(context, module), *inputs, need_weights=need_weights, **call)
    assert (count.forward, count.uncounted) == (flops, ())


def encoder(**settings):
    layer = nn.TransformerEncoderLayer(WIDTH, 4, HIDDEN, batch_first=True, **settings)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=can_drop_padding(settings))


def can_drop_padding(settings):
    """Whether torch may compute the real tokens alone, as a nested tensor; only in eval mode, without gradients."""
    return "norm_first" not in settings and "bias" not in settings


@in_both_modes
@in_every_context
@pytest.mark.parametrize("settings", [{}, {"norm_first": True}, {"activation": "gelu", "bias": False}])
@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"mask": CAUSAL, "is_causal": True},
        {"src_key_padding_mask": PADDED_AT_THE_END},
        {"src_key_padding_mask": PADDED_AT_THE_START},
    ],
    ids=["all", "causal", "padded at the end", "padded at the start"],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
def test_a_transformer_encoder_counts_the_tokens_that_it_computes(settings, masks, context, training):
    drops = can_drop_padding(settings) and not training and context is not torch.enable_grad
    drops = drops and masks.get("src_key_padding_mask") is PADDED_AT_THE_END
    count = count_flops(Within(context, encoder(**settings)).train(training), X, **masks)
    assert (count.forward, count.uncounted) == (2 * encoder_layer(LENGTHS if drops else (LENGTH,) * BATCH), ())


@in_both_modes
@in_every_context
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True, but:UserWarning")  # nn.Transformer always asks for it
def test_a_transformer_and_its_decoder_alone(norm_first, context, training):
    sizes = {"dim_feedforward": HIDDEN, "batch_first": True, "norm_first": norm_first}
    transformer = Within(context, nn.Transformer(WIDTH, 4, 2, 3, **sizes)).train(training)
    decoder = Within(context, transformer.module.decoder)
    causal = {"tgt_mask": CAUSAL[:7, :7], "tgt_is_causal": True}
    count = count_flops(transformer, X, Y, **causal)
    assert (count.forward, count.uncounted) == (2 * encoder_layer() + 3 * decoder_layer(7, LENGTH), ())
    count = count_flops(decoder, Y, X, **causal)
    assert (count.forward, count.uncounted) == (3 * decoder_layer(7, LENGTH), ())


@in_both_modes
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("build", "shape", "flops"),
    [
        (lambda: nn.LSTM(8, 6, 2, bidirectional=True), (10, 3, 8), recurrent(4, 8, 6, 30, **STACKED)),
        (lambda: nn.GRU(8, 6), (10, 3, 8), recurrent(3, 8, 6, 30)),
        (lambda: nn.RNN(8, 6), (10, 8), recurrent(1, 8, 6, 10)),
        (lambda: Unrolled(nn.GRUCell(8, 6)), (10, 3, 8), recurrent(3, 8, 6, 30)),
        (lambda: encoder(norm_first=True), X.shape, 2 * encoder_layer()),
        (encoder, X.shape, 2 * encoder_layer()),
    ],
)
def test_other_types_and_the_meta_device_count_like_single_precision(build, shape, flops, dtype, device, training):
    module = build().to(device, dtype).train(training)
    count = count_flops(module, zeros(shape, device=device, dtype=dtype))
    assert (count.forward, count.uncounted) == (flops, ())
