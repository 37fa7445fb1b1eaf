"""The contexts in which a forward pass may run; none of them changes what the model computes."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn


class Within(nn.Module):
    """A module that is always called inside a context."""

    def __init__(self, context, module):
        super().__init__()
        self.context, self.module = context, module

    def forward(self, *args, **kwargs):
        with self.context():
            return self.module(*args, **kwargs)


CONTEXTS = {"as it is": nullcontext, "with gradients": torch.enable_grad, "in inference mode": torch.inference_mode}
autocast = partial(torch.autocast, "cpu", torch.bfloat16)
without_autocast = pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
in_every_context = pytest.mark.parametrize("context", [*CONTEXTS.values(), autocast], ids=[*CONTEXTS, "autocast"])


class Functional(nn.Module):
    """A module that calls a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def skip_what_torch_lacks(module, *args, **kwargs):
    """Skip a test of a call that an older torch refuses with or without a count."""
    try:
        module(*args, **kwargs)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        pytest.skip(f"torch {torch.__version__} itself: {error}")
