"""FLOPs of fused recurrent layers: each real time step multiplies every weight matrix once.

The weight matrices hold the input and hidden parts of the 4 gates of an LSTM, the 3 of a GRU or the one of an RNN, for
every layer and direction, and an LSTM's projection. Layers that are not fused run as ordinary matmuls and need no rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mfu_callback.flops.rules.call import Call, Rule


def _one_pass(steps: torch.Tensor, weights: Sequence[torch.Tensor]) -> int:
    """``steps`` is (..., C): a padded or packed sequence; biases are vectors and do not count."""
    return 2 * (steps.numel() // steps.shape[-1]) * sum(weight.numel() for weight in weights if weight.dim() == 2)


def _layer(call: Call) -> int:
    # The last two weights are the biases. A layer without biases passes zeros of the weights' shapes instead.
    return _one_pass(call["input"], [call["weight0"], call["weight1"]])


def _layer_backward(call: Call) -> int:
    return 2 * _one_pass(call["input"], [call["weight1"], call["weight2"]])


def _layers(call: Call) -> int:
    return _one_pass(call["input"], call.get("weight", "params"))


def _layers_backward(call: Call) -> int:
    """The gradients of the steps, and those of the weights if they are requested (the last item of the mask)."""
    mask = call.get("output_mask")
    return (2 if mask is None or mask[3] else 1) * _layers(call)


RECURRENT_RULES: dict[str, Rule] = {
    "aten::mkldnn_rnn_layer": _layer,
    "aten::mkldnn_rnn_layer_backward": _layer_backward,
    **dict.fromkeys(("aten::_cudnn_rnn", "aten::miopen_rnn", "aten::_lstm_mps"), _layers),
    **dict.fromkeys(
        ("aten::_cudnn_rnn_backward", "aten::miopen_rnn_backward", "aten::lstm_mps_backward"), _layers_backward
    ),
}
