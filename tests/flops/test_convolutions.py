"""Convolutions of every kind against the closed form of a convolution."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from mfu_callback import count_flops


def per_axis(value, axes):
    return value if isinstance(value, tuple) else (value,) * axes


def convolution(size, inputs, outputs, kernel, *, transposed, groups=1, stride=1, padding=0, dilation=1, **_):
    """Every output position (of a transposed one: every input position) meets every kernel element."""
    positions = math.prod(size)
    kernels = per_axis(kernel, len(size))
    if not (transposed or padding == "same"):
        settings = zip(size, kernels, *(per_axis(v, len(size)) for v in (stride, padding, dilation)), strict=True)
        positions = math.prod((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in settings)
    return 2 * positions * inputs // groups * outputs * math.prod(kernels)


CONVOLUTIONS = [
    (nn.Conv1d, (9,), (4, 6, 3), {"stride": 2, "padding": 1}),
    (nn.Conv2d, (9, 9), (8, 8, 7), {"groups": 8, "padding": 3}),
    (nn.Conv2d, (9, 9), (8, 16, 3), {"groups": 8, "dilation": 2}),
    (nn.Conv2d, (8, 12), (4, 6, (3, 5)), {"stride": (2, 3), "padding": (1, 0), "dilation": (2, 1), "groups": 2}),
    (nn.Conv2d, (9, 9), (4, 6, 4), {"padding": "same"}),
    (nn.Conv2d, (9, 9), (4, 6, 3), {"padding": 1, "bias": False}),
    (nn.Conv3d, (5, 6, 7), (4, 6, 3), {"padding": 1, "stride": (1, 2, 2)}),
    (nn.ConvTranspose1d, (9,), (4, 6, 3), {"stride": 2, "dilation": 2}),
    (nn.ConvTranspose2d, (5, 5), (4, 8, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 4}),
    (nn.ConvTranspose2d, (5, 6), (6, 4, (4, 2)), {"stride": (4, 2), "groups": 2, "bias": False}),
    (nn.ConvTranspose3d, (3, 4, 5), (4, 6, 2), {"stride": 2}),
]
FUNCTIONS = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}


class Functional(nn.Module):
    """A convolution whose module only keeps the parameters."""

    def __init__(self, convolution, settings):
        super().__init__()
        self.function, self.settings = FUNCTIONS[type(convolution)], settings
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, x):
        return self.function(x, self.weight, self.bias, **self.settings)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("images", [None, 0, 3])
@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize(("kind", "size", "channels_and_kernel", "settings"), CONVOLUTIONS)
def test_a_convolution_of_any_kind_batched_or_not(kind, size, channels_and_kernel, settings, functional, images, dtype):
    module = kind(*channels_and_kernel, **settings, dtype=dtype)
    if functional:
        module = Functional(module, {name: value for name, value in settings.items() if name != "bias"})
    x = torch.zeros(*(() if images is None else (images,)), channels_and_kernel[0], *size, dtype=dtype)
    flops = convolution(size, *channels_and_kernel, transposed="Transpose" in kind.__name__, **settings)
    flops *= (1 if images is None else images) * (4 if dtype.is_complex else 1)
    count = count_flops(module, x)
    assert (count.forward, count.uncounted) == (flops, ())


SAME_SIZE = 2 * convolution((8, 8), 4, 6, 3, transposed=False, padding=1)
IMAGES = torch.zeros(2, 4, 8, 8)


@pytest.mark.parametrize(
    "module",
    [
        nn.LazyConv2d(6, 3, padding=1),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
        parametrizations.weight_norm(nn.Conv2d(4, 6, 3, padding=1)),
        parametrizations.spectral_norm(nn.Conv2d(4, 6, 3, padding=1)),
        parametrizations.spectral_norm(nn.Conv2d(4, 6, 3, padding=1)).eval(),
        nn.utils.spectral_norm(nn.Conv2d(4, 6, 3, padding=1)),
    ],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_what_is_done_to_the_weights_and_the_edges_costs_nothing(module, memory_format):
    count = count_flops(module, IMAGES.to(memory_format=memory_format))
    assert (count.forward, count.uncounted) == (SAME_SIZE, ())


class Unfolded(nn.Module):
    """A convolution as the matmul of its weights with the unfolded images."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6, 4, 3, 3))

    def forward(self, x):
        return F.fold(self.weight.flatten(1) @ F.unfold(x, 3, padding=1), x.shape[2:], 1)


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(3, 4, 6)), nn.Parameter(torch.zeros(6))

    def forward(self, x):
        return torch.conv_tbc(x, self.weight, self.bias, 1)


def test_a_convolution_that_is_a_matmul_of_unfolded_images():
    count = count_flops(Unfolded(), IMAGES)
    assert (count.forward, count.uncounted) == (SAME_SIZE, ())


def test_a_convolution_over_sequences_that_have_the_time_first():
    count = count_flops(TimeFirst(), torch.zeros(9, 2, 4))
    flops = 2 * convolution((9,), 4, 6, 3, transposed=False, padding=1)
    assert (count.forward, count.uncounted) == (flops, ())
