from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gpt import GPTModule
from mfu_callback import predict_batch_size, predict_memory
from mfu_callback.finder import PredictionError
from mfu_callback.finder.prediction.predict import bytes_of, reserve_of
from scripts.plan_parts.check import CASES, check
from tests.helpers.finder_models import MIB, Tabular, TinyGPT

TOKENS = torch.zeros(2, 65, dtype=torch.long)


@pytest.mark.parametrize("name", [name for name in CASES if name != "gpt-small, bf16"])
def test_the_peak_is_within_ten_percent_of_what_a_real_step_takes(name: str) -> None:
    if CASES[name].precision != "32-true" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        pytest.skip("without AVX-512, steps in bf16 take minutes")
    row = check(name)
    assert row["measured_bytes"] > 150 * MIB
    assert row["ratio"] == pytest.approx(1.0, abs=0.1)


def test_the_parts_of_a_linear_layer_are_exact() -> None:
    module = nn.Linear(1000, 1000)  # 1,001,000 parameters of four bytes
    peak = predict_memory(module, torch.zeros(10, 1000))
    assert peak.parameters == peak.gradients == 4_004_000
    assert 2 * peak.parameters <= peak.optimizer <= 2 * peak.parameters + 64
    assert peak.total == sum((peak.parameters, peak.gradients, peak.optimizer, peak.activations, peak.temporary))


def test_activations_grow_with_the_batch_and_parameters_do_not() -> None:
    small, large = (predict_memory(TinyGPT(), TOKENS, batch_size=size) for size in (8, 16))
    assert small.parameters == large.parameters
    assert large.activations == pytest.approx(2 * small.activations, rel=0.01)


def test_an_optimizer_without_state_takes_none() -> None:
    module = nn.Linear(100, 100)
    peak = predict_memory(module, torch.zeros(4, 100), optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    assert peak.optimizer == 0


def test_a_frozen_part_has_neither_gradients_nor_state() -> None:
    module = nn.Sequential(nn.Linear(500, 500), nn.Linear(500, 500))
    module[0].requires_grad_(False)
    peak = predict_memory(module, torch.zeros(4, 500))
    assert peak.parameters == 2 * 501_000 * 2
    assert peak.gradients == 1_002_000


def test_the_size_found_is_exact_among_fake_steps() -> None:
    found = predict_batch_size(TinyGPT(), TOKENS, memory=200 * MIB, reserve=0)
    assert found.peak.total <= 200 * MIB
    assert found.peak.total == predict_memory(TinyGPT(), TOKENS, batch_size=found.batch_size).total
    assert predict_memory(TinyGPT(), TOKENS, batch_size=found.batch_size + 1).total > 200 * MIB
    assert (found.memory_bytes, found.reserve_bytes) == (200 * MIB, 0)


def test_a_reserve_is_taken_off_and_told() -> None:
    free = predict_batch_size(TinyGPT(), TOKENS, memory="4GiB", reserve=0)
    reserved = predict_batch_size(TinyGPT(), TOKENS, memory="4GiB")
    assert reserved.reserve_bytes == reserve_of(4 * 2**30) == 2**30 + int(0.05 * 2**32)
    assert reserved.peak.total <= 4 * 2**30 - reserved.reserve_bytes < free.peak.total


def test_a_memory_that_holds_nothing_is_a_size_of_zero_with_what_one_would_take() -> None:
    found = predict_batch_size(TinyGPT(), TOKENS, memory=MIB, reserve=0)
    assert found.batch_size == 0
    assert found.peak.total > MIB


def test_a_size_may_be_limited() -> None:
    assert predict_batch_size(nn.Linear(4, 4), torch.zeros(2, 4), "1GiB", reserve=0, max_size=100).batch_size == 100


def test_sizes_may_be_multiples_for_a_model_that_takes_no_others() -> None:
    class Pairs(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(2, len(x) // 2, 4))

    module, batch = Pairs(4, 4), torch.zeros(2, 4)
    with pytest.raises(PredictionError, match=r"RuntimeError: .*at batch size \d*[13579];.*multiple_of"):
        predict_batch_size(module, batch, "1GiB", reserve=0, max_size=101)
    assert predict_batch_size(module, batch, "1GiB", reserve=0, max_size=101, multiple_of=2).batch_size == 100


@pytest.mark.parametrize("value", [0, -1, 2.0, float("nan"), True, "8", [8]])
@pytest.mark.parametrize("name", ["max_size", "multiple_of", "reserve", "batch_size"])
def test_numbers_of_a_wrong_type_or_out_of_range_are_named(name: str, value: Any) -> None:
    if (name, value) == ("reserve", 0):
        value = -(2**30)  # 0 is allowed
    predict: Any = predict_memory if name == "batch_size" else predict_batch_size
    with pytest.raises(ValueError, match=rf"^{name}={re.escape(repr(value))} must be a whole number.*Pass one, or"):
        predict(nn.Linear(4, 4), torch.zeros(2, 4), **{name: value})


def test_a_largest_size_below_the_multiple_is_named_with_both() -> None:
    with pytest.raises(ValueError, match=r"max_size=4 is below multiple_of=8"):
        predict_batch_size(nn.Linear(4, 4), torch.zeros(2, 4), max_size=4, multiple_of=8)


def test_a_model_on_the_meta_device_takes_no_memory() -> None:
    with torch.device("meta"):
        module = GPTModule("gpt-xl")
    batch = tuple(torch.zeros(1, 32, dtype=torch.long) for _ in range(2))
    peak = predict_memory(module, batch)
    assert peak.parameters == 4 * sum(parameter.numel() for parameter in module.parameters())
    assert all(parameter.device.type == "meta" for parameter in module.parameters())


def test_batches_of_every_form_are_brought_to_the_size() -> None:
    sizes: list[int] = []

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(8, 8)

        def forward(self, x: Tensor, names: list[str], scale: float) -> dict[str, Tensor]:
            assert len(x) == len(names)
            sizes.append(len(x))
            return {"out": self.net(x) * scale, "argmax": self.net(x).argmax(-1)}

    batch = {"x": torch.zeros(2, 8), "names": ["a", "b"], "scale": 0.5}
    predict_memory(Model(), batch, batch_size=5)
    assert sizes == [2, 5]


class Stateful(Tabular):
    """Changes itself and draws random numbers in its step."""

    def __init__(self) -> None:
        super().__init__()
        self.log_of_losses: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log_of_losses.append(batch_idx)
        self.extra = torch.rand(2) * random.random() * np.random.rand()
        self.log("loss", 1.0)
        return self.loss(batch)


def test_module_batch_and_random_state_stay_as_they_are() -> None:
    model, batch = Stateful().eval(), [torch.ones(4, 8), torch.ones(4, 1)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = sorted(vars(model))
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    predict_batch_size(model, batch, 10**6, reserve=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (sorted(vars(model)), model.log_of_losses, model.steps, model.training) == (attributes, [], 0, False)
    assert all(parameter.grad is None and not parameter._post_accumulate_grad_hooks for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert torch.equal(batch[0], torch.ones(4, 8))


def test_a_step_that_reads_values_says_so() -> None:
    class Model(Tabular):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            return loss if loss.item() > 0 else None

    with pytest.raises(PredictionError, match=r"fake tensors: DataDependent.*runs real trials instead"):
        predict_memory(Model(), [torch.ones(4, 8), torch.ones(4, 1)])


def test_manual_optimization_says_so() -> None:
    model = Tabular()
    model.automatic_optimization = False
    with pytest.raises(PredictionError, match="manual optimization"):
        predict_memory(model, [torch.ones(4, 8), torch.ones(4, 1)])


def test_a_step_that_needs_a_trainer_says_so() -> None:
    class Model(Tabular):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(batch) * (1 + self.trainer.current_epoch)

    with pytest.raises(PredictionError, match="not attached to a `Trainer`"):
        predict_memory(Model(), [torch.ones(4, 8), torch.ones(4, 1)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80GiB", 80 * 2**30),
        ("24 GB", 24 * 10**9),
        ("1.5 gib", 3 * 2**29),
        ("512", 512),
        (512, 512),
        ("2TB", 2 * 10**12),
    ],
)
def test_memory_is_told_in_bytes_or_words(text: Any, expected: int) -> None:
    assert bytes_of(text) == expected


@pytest.mark.parametrize("text", ["much", "80 Gb/s", "", "-1", 0, True, "GiB"])
def test_other_words_are_refused_with_what_to_write(text: Any) -> None:
    with pytest.raises(ValueError, match=r"memory=.*'80GiB'"):
        predict_batch_size(nn.Linear(2, 2), torch.zeros(2, 2), text)


def test_a_memory_smaller_than_the_reserve_is_refused() -> None:
    with pytest.raises(ValueError, match="reserve=0"):
        predict_batch_size(nn.Linear(2, 2), torch.zeros(2, 2), "1GiB")
