"""FLOPs of convolutions.

In a convolution, each output element needs one filter, of C_in / groups x kernel elements. In a transposed convolution,
each input element needs one filter, of C_out / groups x kernel elements. In both, ``weight[0]`` is one filter.
"""

from __future__ import annotations

from typing import Any

from mfu_callback.flops.rules.call import Call, Rule


def _one_pass(small: Any, weight: Any) -> int:
    """``small`` holds the elements that need a filter each: the output, or the input of a transposed convolution."""
    return int(2 * small.numel() * (weight.numel() // weight.shape[0])) * _part_of_complex(weight) // 2


def _part_of_complex(weight: Any) -> int:
    """Return 2, or 3 for the real or the imaginary part of a complex filter.

    torch runs a complex convolution as three real ones: on the real parts, on the imaginary parts, and on the sums of
    both (Gauss's trick). The first two count 3/2 times each. So the three together count 3/2 + 3/2 + 1 = 4 real
    multiply-accumulates, the 8 FLOPs of a complex multiply-accumulate.
    """
    return 3 if weight._base is not None and weight._base.is_complex() else 2


def _convolution(call: Call) -> int:
    meets_a_filter = call.get("self", "input", "X") if call.get("transposed") else call.out
    return _one_pass(meets_a_filter, call.get("weight", "W"))


def _transposed_convolution(call: Call) -> int:
    return _one_pass(call.get("self", "X"), call.get("weight", "W"))


def _convolution_backward(call: Call) -> int:
    """The gradients of the input and of the weight need as many FLOPs each as the forward."""
    meets_a_filter = call.get("input", "self") if call.get("transposed") else call["grad_output"]
    return _one_pass(meets_a_filter, call["weight"]) * int(sum(call["output_mask"][:2]))


def _time_first_convolution(call: Call) -> int:
    weight = call["weight"]  # (kernel, C_in, C_out)
    return int(2 * call.out.numel() * weight.shape[0] * weight.shape[1])


CONVOLUTION_RULES: dict[str, Rule] = {
    **dict.fromkeys(("aten::convolution", "aten::_convolution", "aten::convolution_overrideable"), _convolution),
    **dict.fromkeys(("aten::mkldnn_convolution", "aten::cudnn_convolution", "aten::miopen_convolution"), _convolution),
    **dict.fromkeys(("aten::cudnn_convolution_relu", "aten::cudnn_convolution_add_relu"), _convolution),
    **dict.fromkeys(("aten::miopen_convolution_relu", "aten::miopen_convolution_add_relu"), _convolution),
    **dict.fromkeys(("aten::miopen_depthwise_convolution", "aten::_mps_convolution"), _convolution),
    **dict.fromkeys(("aten::_conv_depthwise2d", "aten::conv_depthwise3d"), _convolution),
    **dict.fromkeys(("aten::_slow_conv2d_forward", "aten::slow_conv3d_forward"), _convolution),
    **dict.fromkeys(("aten::slow_conv_dilated2d", "aten::slow_conv_dilated3d"), _convolution),
    **dict.fromkeys(("aten::_nnpack_spatial_convolution", "mkldnn::_convolution_pointwise"), _convolution),
    **dict.fromkeys(("aten::slow_conv_transpose2d", "aten::slow_conv_transpose3d"), _transposed_convolution),
    **dict.fromkeys(
        ("aten::cudnn_convolution_transpose", "aten::miopen_convolution_transpose"), _transposed_convolution
    ),
    "aten::conv_tbc": _time_first_convolution,
    **dict.fromkeys(
        ("aten::convolution_backward", "aten::convolution_backward_overrideable", "aten::mps_convolution_backward"),
        _convolution_backward,
    ),
}
