"""What a backward pass takes, and what runs a second time in it, against closed forms."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from mfu_callback import FlopCounter
from tests.helpers.torch_features import needs

ROWS, WIDTH, RANK = 6, 8, 2
PRODUCT = 2 * ROWS * WIDTH**2  # of a square Linear


def counted(module, *inputs, attention="full", loss=lambda out: out.sum()):
    with FlopCounter(module, attention=attention) as counter:
        loss(module(*inputs)).backward()
    count = counter.result()
    assert count.complete
    return count


def rows(*, requires_grad=False):
    return torch.randn(ROWS, WIDTH, requires_grad=requires_grad)


def square_layers(number):
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(number)))


class SelfAttention(nn.MultiheadAttention):
    def __init__(self):
        super().__init__(WIDTH, 2, batch_first=True)

    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)


def test_a_layer_takes_twice_its_forward_and_the_first_one_once():
    assert counted(square_layers(3), rows(requires_grad=True)).backward == 2 * 3 * PRODUCT
    assert counted(square_layers(3), rows()).backward == (2 * 3 - 1) * PRODUCT


def test_without_a_backward_nothing_is_said_of_it():
    with FlopCounter(square_layers(1)) as counter:
        square_layers(1)(rows())
    count = counter.result()
    assert (count.backward, count.backward_ratio, count.recomputed) == (None, None, None)


class LoRA(nn.Module):
    """A frozen Linear with a trained product of two thin ones beside it."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.down, self.up = nn.Linear(WIDTH, RANK, bias=False), nn.Linear(RANK, WIDTH, bias=False)

    def forward(self, x):
        return self.frozen(x) + self.up(self.down(x))


def test_lora_takes_the_gradients_of_its_input_and_of_its_thin_layers_alone():
    thin = 2 * ROWS * WIDTH * RANK
    count = counted(nn.Sequential(LoRA(), LoRA()), rows())
    assert count.forward == 2 * (PRODUCT + 2 * thin)
    first = thin + 2 * thin  # down: its weight; up: both. Nothing below needs a gradient.
    second = PRODUCT + 2 * thin + 2 * thin
    assert count.backward == first + second


def test_training_the_last_layer_takes_one_product():
    layers = square_layers(4)
    layers[:3].requires_grad_(False)
    assert counted(layers, rows()).backward == PRODUCT


def test_a_frozen_part_in_the_middle_passes_gradients_through():
    layers = square_layers(3)
    layers[1].requires_grad_(False)
    assert counted(layers, rows()).backward == (1 + 1 + 2) * PRODUCT


def test_a_frozen_backbone_under_no_grad_takes_none():
    class Distilled(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher, self.student = square_layers(3), square_layers(1)

        def forward(self, x):
            with torch.no_grad():
                goal = self.teacher(x)
            return (self.student(x) - goal).square()

    count = counted(Distilled(), rows())
    assert (count.forward, count.backward) == (4 * PRODUCT, PRODUCT)


@pytest.mark.parametrize(
    ("module", "shape", "not_needed"),
    [
        (nn.Conv2d(8, 8, 7, padding=3, groups=8), (2, 8, 9, 9), 0),
        (nn.Conv2d(8, 4, 3, groups=2, stride=2), (2, 8, 9, 9), 0),
        (nn.Conv1d(4, 6, 3, dilation=2), (2, 4, 12), 0),
        (nn.ConvTranspose2d(4, 8, 3, stride=2, groups=2), (2, 4, 5, 5), 0),
        (nn.LSTM(8, 5), (7, 3, 8), 0),
        (nn.LSTM(8, 5, 2, bidirectional=True, batch_first=True), (3, 7, 8), 0),
        # The first hidden state takes no gradient: 3 samples through the hidden matrices of 3 gates, or of one.
        (nn.GRU(8, 5), (7, 3, 8), 2 * 3 * 3 * 5 * 5),
        (nn.RNN(8, 5), (7, 3, 8), 2 * 3 * 5 * 5),
        (SelfAttention(), (2, 6, 8), 0),
    ],
)
def test_fully_trained_layers_take_twice_their_forward(module, shape, not_needed):
    x = torch.randn(shape, requires_grad=True)
    count = counted(module, x, loss=lambda out: (out[0] if isinstance(out, tuple) else out).sum())
    assert count.backward == 2 * count.forward - not_needed > 0


class Attention(nn.Module):
    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


def test_fused_attention_takes_twice_its_forward_and_its_scores_again():
    q, k, v = (torch.randn(2, 4, 16, 8, requires_grad=True) for _ in range(3))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        count = counted(Attention(), q, k, v)
    scores = 2 * (2 * 4 * 16 * 16) * 8
    assert (count.forward, count.backward, count.recomputed) == (2 * scores, 4 * scores, scores)


@needs("torch.nn.LinearCrossEntropyOptions", "2.13")
def test_a_fused_loss_makes_its_gradient_in_the_forward_and_it_is_backward_all_the_same():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(300, WIDTH))

        def forward(self, x):
            options = nn.LinearCrossEntropyOptions(batch_chunk_size=16)
            return F.linear_cross_entropy(x, self.weight, torch.zeros(64, dtype=torch.long), options=options)

    logits = 2 * 64 * WIDTH * 300
    count = counted(Loss(), torch.randn(64, WIDTH, requires_grad=True))
    assert (count.forward, count.backward) == (logits, 2 * logits)
    count = counted(Loss(), torch.randn(64, WIDTH))
    assert (count.forward, count.backward) == (logits, logits)


class Checkpointed(nn.Module):
    """Three layers, of which the first two run again in the backward."""

    def __init__(self, *, use_reentrant):
        super().__init__()
        self.inner, self.head, self.use_reentrant = square_layers(2), nn.Linear(WIDTH, WIDTH), use_reentrant

    def forward(self, x):
        return self.head(checkpoint(self.inner, x, use_reentrant=self.use_reentrant))


@pytest.mark.parametrize(
    # The kind that is not reentrant stops once all that is needed is there: the last layer is not.
    ("use_reentrant", "again"),
    [(True, 2), (False, 1)],
)
def test_what_checkpointing_runs_again_is_recomputed_and_nothing_else(use_reentrant, again):
    x = rows(requires_grad=True)
    plain = counted(square_layers(3), x)
    count = counted(Checkpointed(use_reentrant=use_reentrant), x)
    assert (count.forward, count.backward) == (plain.forward, plain.backward)
    assert (count.recomputed, plain.recomputed) == (again * PRODUCT, 0)


def test_a_gradient_penalty_is_backward_and_not_recomputed():
    layer = nn.Linear(WIDTH, WIDTH)
    x = rows(requires_grad=True)
    with FlopCounter(layer) as counter:
        (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
    count = counter.result()
    assert (count.forward, count.recomputed) == (PRODUCT, 0)
    # The inner gradient is one product; its own gradients two, and the layer's own two more.
    assert count.backward == 5 * PRODUCT


def test_a_users_own_recomputation_is_recomputed():
    class Recomputes(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(x, weight)
            return (x @ weight).relu() @ weight

        @staticmethod
        def backward(ctx, gradient):
            x, weight = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors)
            with torch.enable_grad():
                out = (x @ weight).relu() @ weight
            return torch.autograd.grad(out, (x, weight), gradient)

    class Custom(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH))

        def forward(self, x):
            return Recomputes.apply(x, self.weight)

    count = counted(Custom(), rows(requires_grad=True))
    assert (count.forward, count.backward, count.recomputed) == (2 * PRODUCT, 4 * PRODUCT, 2 * PRODUCT)


class Product(torch.autograd.Function):
    """A matmul whose backward is written in Python."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad @ weight.T, x.T @ grad


def test_gradients_that_a_function_computes_for_further_gradients_are_no_recomputation():
    x, weight = torch.randn(4, 8, requires_grad=True), torch.randn(8, 8, requires_grad=True)
    with FlopCounter(nn.Identity()) as counter:
        torch.autograd.grad(Product.apply(x, weight).pow(2).sum(), [x, weight], create_graph=True)
    count, product = counter.result(), 2 * 4 * 8 * 8
    assert (count.forward, count.backward, count.recomputed) == (product, 2 * product, 0)
