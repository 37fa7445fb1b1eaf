"""Modules that are subclassed, wrapped, shared, hidden or parametrized count what they run."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from mfu_callback import count_flops
from tests.helpers.contexts import Functional, Within, in_every_context

zeros = torch.zeros


def linear(rows, inputs, outputs):
    return 2 * rows * inputs * outputs


class OwnForward(nn.Linear):
    def forward(self, x):
        return F.relu(super().forward(x)) + x @ zeros(7, 2) @ zeros(2, 4)


class LoRA(nn.Module):
    """A frozen linear layer and an update of rank 2."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down, self.up = nn.Linear(inputs, 2, bias=False), nn.Parameter(zeros(outputs, 2))

    def forward(self, x):
        return self.base(x) + F.linear(self.down(x), self.up)


class Merged(nn.Module):
    """A weight's parametrization."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(zeros(1))

    def forward(self, weight):
        return weight * self.gain


class Unregistered(nn.Module):
    """What it computes with is in no list of its modules: a plain list, a parameter list, a tied embedding."""

    def __init__(self):
        super().__init__()
        self.plain = [nn.Linear(7, 7), nn.LSTM(7, 7), nn.MultiheadAttention(7, 1).eval()]
        self.parameter_list = nn.ParameterList([zeros(4, 7), zeros(5, 4)])
        self.embedding = nn.Embedding(11, 5)

    def forward(self, x):
        x, _ = self.plain[1](self.plain[0](x))
        x, _ = self.plain[2](x, x, x)
        for weight in self.parameter_list:
            x = F.linear(x, weight)
        return F.linear(x, self.embedding.weight)


LSTM = 15 * 2 * 4 * 7 * (7 + 7)
UNREGISTERED = linear(15, 7, 7) + LSTM + 3 * (linear(5, 7, 28) + 4 * 5 * 5 * 7)
UNREGISTERED += linear(15, 7, 4) + linear(15, 4, 5) + linear(15, 5, 11)
SHARED = nn.Linear(7, 7)
A, B = zeros(3, 5, 7), zeros(3, 5, 6)


def parametrized(module):
    return nn.utils.parametrize.register_parametrization(module, "weight", Merged())


def with_forward(function):
    module = nn.Linear(7, 4)
    module.forward = partial(function, module)
    return module


MODULES = {
    "own forward": (OwnForward(7, 4), A, linear(15, 7, 4) + linear(15, 7, 2) + linear(15, 2, 4)),
    "LoRA": (LoRA(7, 4), A, linear(15, 7, 4) + linear(15, 7, 2) + linear(15, 2, 4)),
    "shared": (nn.Sequential(SHARED, nn.Sequential(SHARED), *[SHARED] * 3), A, 5 * linear(15, 7, 7)),
    "unregistered": (Unregistered(), A.transpose(0, 1), UNREGISTERED),
    "lazy": (nn.Sequential(nn.LazyLinear(4), nn.LazyLinear(2)), A, linear(15, 7, 4) + linear(15, 4, 2)),
    "a vector": (nn.Linear(7, 4), A[0, 0], linear(1, 7, 4)),
    "nothing": (nn.Linear(7, 4), A[:0], 0),
    "bilinear": (nn.Bilinear(7, 6, 4), (A, B), 15 * 4 * 2 * (7 * 6 + 6)),
    "bilinear of vectors": (nn.Bilinear(7, 6, 4), (A[0, 0], B[0, 0]), 4 * 2 * (7 * 6 + 6)),
    "replaced forward": (with_forward(lambda module, x: x @ module.weight.T), A, linear(15, 7, 4)),
    "parametrized": (parametrized(nn.Linear(7, 4)), A, linear(15, 7, 4)),
    "weight norm": (parametrizations.weight_norm(nn.Linear(7, 4)), A, linear(15, 7, 4)),
    # The power iteration that looks for the largest singular value is not the model's mathematics.
    "spectral norm": (parametrizations.spectral_norm(nn.Linear(7, 4)), A, linear(15, 7, 4)),
    "spectral norm in eval": (parametrizations.spectral_norm(nn.Linear(7, 4)).eval(), A, linear(15, 7, 4)),
    "older spectral norm": (nn.utils.spectral_norm(nn.Linear(7, 4)), A, linear(15, 7, 4)),
    "older spectral norm in eval": (nn.utils.spectral_norm(nn.Linear(7, 4)).eval(), A, linear(15, 7, 4)),
    "data parallel": (nn.DataParallel(nn.Linear(7, 4)), A, linear(15, 7, 4)),
    "vmap": (torch.func.vmap(nn.Linear(7, 4)), A, linear(15, 7, 4)),
}


@in_every_context
@pytest.mark.parametrize(("module", "inputs", "flops"), MODULES.values(), ids=MODULES)
def test_what_a_module_runs_is_counted_wherever_its_weights_are(module, inputs, flops, context):
    count = count_flops(Within(context, module), *(inputs if isinstance(inputs, tuple) else (inputs,)))
    assert (count.forward, count.uncounted) == (flops, ())


def test_an_adaptive_softmax_counts_the_tails_that_its_targets_reach():
    loss = nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10], div_value=2)
    count = count_flops(loss, zeros(6, 8), torch.tensor([0, 1, 4, 7, 12, 19]))
    head = linear(6, 8, 5 + 2)  # the first five classes and two clusters
    tails = linear(1, 8, 4) + linear(1, 4, 5) + linear(2, 8, 2) + linear(2, 2, 10)
    assert (count.forward, count.uncounted) == (head + tails, ())


# An LSTM keeps its weights in a list, too, which export may not follow.
@pytest.mark.filterwarnings("ignore:The tensor attributes self.lstm._flat_weights:UserWarning")
def test_a_program_that_torch_has_exported_counts_like_its_module():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(7, 7), nn.Linear(7, 4)

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    x = zeros(5, 3, 7)
    for module in (Classifier(), torch.export.export(Classifier(), (x,)).module()):
        count = count_flops(module, x)
        assert (count.forward, count.uncounted) == (LSTM + linear(15, 7, 4), ())


@in_every_context
def test_an_ensemble_under_vmap_counts_every_member(context):
    members = [nn.Linear(7, 4) for _ in range(3)]
    parameters = torch.func.stack_module_state(members)[0]

    def member(parameters, x):
        return torch.func.functional_call(members[0], parameters, (x,))

    count = count_flops(Within(context, Functional(torch.func.vmap(member, (0, None)))), parameters, A)
    assert (count.forward, count.uncounted) == (3 * linear(15, 7, 4), ())


def test_a_module_called_under_inference_mode_counts_as_elsewhere():
    module = nn.Sequential(nn.Linear(7, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)).eval()
    with torch.inference_mode():
        count = count_flops(module, A)
    layer = linear(15, 8, 4 * 8) + 3 * 4 * 5 * 5 * 8 + 2 * linear(15, 8, 16)
    assert (count.forward, count.uncounted) == (linear(15, 7, 8) + layer, ())
