"""Runs that few people have, which are trained as without the callback and measured right."""

import copy
import itertools
import os
import pickle
import random
import threading
import time

import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn
from torch.utils.data import DataLoader

from mfu_callback import MFUCallback
from mfu_callback.meter.clock import HostTimer
from tests.helpers.faulty_runs import Validated, run
from tests.helpers.runs import PEAK, SMALL_MODEL, Step, make_trainer, two_layers
from tests.lightning.test_traces import marks

FORWARD = 2 * 4 * (8 * 8 + 8 * 4)  # of two layers on four samples


def callback(**arguments):
    return MFUCallback(**{"peak": PEAK, "warmup_steps": 1, "summary": "table"} | arguments)


def measured(module, *callbacks, **arguments):
    """The callbacks' summaries, after a run that ended as without them."""
    callbacks = callbacks or (callback(),)
    end = run(module, callbacks, left=marks, **arguments).end
    assert end.is_like(run(module, left=marks, **arguments).end)
    return [one.summary for one in callbacks]


def trained_on(batches, forward=lambda module, batch: module.network(batch), network=two_layers):
    """A model that is trained on batches as they are."""

    class Trained(Step):
        def __init__(self):
            super().__init__(network())

        def training_step(self, batch, batch_idx):
            return forward(self, batch).square().mean()

        def train_dataloader(self):
            return DataLoader(batches(), batch_size=None, collate_fn=lambda batch: batch)

    return Trained


def samples(**of_tensor):
    return lambda: [torch.ones(4, 8, **of_tensor)] * 12


class Quantized(nn.Module):
    """A layer in int8 before two others."""

    def __init__(self):
        super().__init__()
        self.first = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 8)), {nn.Linear})
        self.others = two_layers()

    def forward(self, x):
        return self.others(self.first(x))


def nested(layout):
    parts = [torch.ones(3, 8), torch.ones(1, 8)]
    return lambda: [torch.nested.nested_tensor(parts, layout=layout) for _ in range(12)]


def through_sparse(module, batch):
    return module.network(torch.sparse.mm(torch.eye(4).to_sparse(), batch))


def on_meta(module, batch):
    copy.deepcopy(module.network).to("meta")(batch.to("meta"))
    return module.network(batch)


ODD_TENSORS = {
    "sparse batch": (trained_on(lambda: [torch.ones(4, 8).to_sparse()] * 12, lambda m, b: m.network(b.to_dense())), 1),
    "CSR batch": (trained_on(lambda: [torch.ones(4, 8).to_sparse_csr()] * 12, lambda m, b: m.network(b.to_dense())), 1),
    "jagged batch": (trained_on(nested(torch.jagged), lambda m, b: m.network(b).values()), 1),
    "nested batch": (trained_on(nested(torch.strided), lambda m, b: m.network(b).to_padded_tensor(0.0)), 1),
    "quantized": (trained_on(samples(), network=Quantized), 1),
    "on meta too": (trained_on(samples(), on_meta), 2),
    # A product of complex numbers takes four real ones.
    "complex": (
        trained_on(
            samples(dtype=torch.complex64),
            lambda m, b: m.network(b).abs(),
            lambda: nn.Sequential(nn.Linear(8, 8, dtype=torch.complex64), nn.Linear(8, 4, dtype=torch.complex64)),
        ),
        4,
    ),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta", "ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("which", ODD_TENSORS)
def test_odd_tensors_are_trained_as_without_us_and_counted(which):
    module, times = ODD_TENSORS[which]
    (summary,) = measured(module, callback(modules=True, operators=True), max_steps=12, limit_val_batches=0)
    assert summary.flops.forward == times * FORWARD
    assert summary.flops.uncounted == (("quantized::linear_dynamic",) if which == "quantized" else ())
    assert summary.mfu > 0


def test_a_product_with_a_sparse_matrix_changes_nothing():
    (summary,) = measured(trained_on(samples(), through_sparse), limit_val_batches=0)
    assert summary.flops.forward >= FORWARD


@pytest.mark.parametrize("modules", [False, True])
def test_modules_that_get_their_sizes_in_the_first_batch_are_counted(modules):
    class Lazy(Step):
        def __init__(self):
            super().__init__(nn.Sequential(nn.LazyLinear(8), nn.LazyLinear(4)))

        def configure_optimizers(self):
            return torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)  # theirs are not there yet

        def on_fit_end(self):
            assert not any(isinstance(one, nn.parameter.UninitializedParameter) for one in self.parameters())

    (summary,) = measured(Lazy, callback(modules=modules), max_steps=12, limit_val_batches=0)
    assert summary.flops.forward == FORWARD


def test_a_batch_that_is_a_generator_is_not_used_up():
    class Generators(Validated):
        def train_dataloader(self):
            batches = [torch.ones(4, 8), 2 * torch.ones(4, 8)]
            return DataLoader([batches] * 8, batch_size=None, collate_fn=lambda batch: (part for part in batch))

        def training_step(self, batch, batch_idx):
            return sum(super(Generators, self).training_step(part, batch_idx) for part in batch)

        val_dataloader = None

    (summary,) = measured(Generators, limit_val_batches=0)
    assert summary.flops.forward == 2 * FORWARD


@pytest.mark.parametrize(("sizes", "steps"), [([(0, 8)], 3), ([(4, 8), (0, 8)], 2)])
def test_batches_without_a_sample_are_steps(sizes, steps):
    class Empty(Step):
        def __init__(self):
            super().__init__(two_layers(), sizes=sizes * 6)

    (summary,) = measured(Empty, limit_val_batches=0)
    # The FLOPs of an empty batch are looked for three times.
    assert (summary.steps, summary.mfu is None) == (steps, len(sizes) == 1)
    assert (summary.samples_per_sec > 0) is (len(sizes) == 2)


class NotANumber(Validated):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * float("nan")


def test_a_loss_that_is_not_a_number_is_measured_like_any_other():
    ours = callback()
    plain, end = run(NotANumber).end, run(NotANumber, [ours]).end
    assert (end.error, end.steps) == (plain.error, plain.steps) == (None, 6)
    assert all(one.isnan().all() for one in end.weights)
    assert ours.summary.mfu > 0


@pytest.mark.parametrize("limit", [{"max_steps": 0}, {"max_steps": -1, "max_epochs": 0}])
def test_a_run_of_no_step_has_no_summary(limit):
    assert measured(Validated, **limit) == [None]


def steady(step):
    now = itertools.count(0.0, step)
    return lambda: next(now)


def jumping():
    seconds = random.Random(3)
    return lambda: seconds.uniform(-100.0, 100.0)


@pytest.mark.parametrize(
    ("clock", "is_known"), [(lambda: lambda: 1.0, False), (lambda: steady(-0.01), False), (jumping, True)]
)
def test_no_clock_ends_a_run_or_makes_a_time_negative(monkeypatch, clock, is_known):
    now = clock()
    monkeypatch.setattr("mfu_callback.lightning.run.timer_for", lambda device: HostTimer(now))
    (summary,) = measured(Validated)
    assert (summary.steps, summary.mfu is not None) == (5, is_known)
    assert summary.step_time_sec >= 0
    assert min(summary.wall_time_sec.values()) >= 0
    assert summary.waterfall is None or sum(summary.waterfall.values()) == pytest.approx(1.0)


class Compiled(Validated):
    def __init__(self):
        super().__init__()
        torch._dynamo.reset()
        self.network.compile(backend="aot_eager")


@pytest.mark.parametrize("module", [Validated, Compiled])
def test_two_callbacks_both_count_once(module):
    for summary in measured(module, callback(validation=True), callback(validation=True), max_steps=8):
        assert (summary.flops.forward, summary.flops.backward) == (FORWARD, 2 * FORWARD - 2 * 4 * 64)
        assert summary.flops.complete
        assert summary.steps == 7
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_a_callback_that_is_in_the_list_twice_measures_once():
    ours = callback(validation=True)
    measured(Validated, ours, ours)
    assert ours.summary.steps == 5
    assert ours.evaluations["validate"].steps == 2
    seconds = ours.summary.steps * 4 / ours.summary.samples_per_sec
    assert ours.summary.mfu * PEAK * seconds == pytest.approx(5 * 3 * FORWARD)


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_fit_then_test_then_fit_each_measure_their_own():
    class Tested(Validated):
        def test_step(self, batch, batch_idx):
            return self.network(batch).sum()

        def test_dataloader(self):
            return self.train_dataloader()

    ours = callback(summary=None)
    trainer, module = make_trainer(ours, max_steps=6, limit_val_batches=0, limit_test_batches=4), Tested()
    trainer.fit(module)
    first = ours.summary
    trainer.test(module)
    assert ours.summary is first
    assert ours.evaluations["test"].steps == 3
    trainer.fit_loop.epoch_loop.max_steps = 12
    trainer.fit(module)
    assert ours.summary is not first
    assert (ours.summary.steps, ours.summary.flops.forward) == (5, FORWARD)


class CopiesTheTrainer(BoringModel):
    """Copies and pickles all of the Trainer in its first and in a later batch."""

    def __init__(self):
        super().__init__()
        self.copies = []

    def training_step(self, batch, batch_idx):
        if batch_idx in (0, 4):
            copies, self.copies = self.copies, []
            self.copies = [*copies, copy.deepcopy(self.trainer), pickle.loads(pickle.dumps(self.trainer))]
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_copies_and_pickles_of_a_trainer_in_fit_have_no_bracket_of_ours():
    def copies(*callbacks):
        module = CopiesTheTrainer()
        make_trainer(*callbacks, max_steps=6, limit_val_batches=0).fit(module)
        return module.copies

    of_us = copies(callback(modules=True, operators=True, summary=None))
    assert len(of_us) == len(copies()) == 4
    for trainer in of_us:
        loop = trainer.fit_loop.epoch_loop
        for owner in (trainer, trainer.strategy, trainer.fit_loop, loop, loop.val_loop, loop.automatic_optimization):
            for name, value in vars(owner).items():
                assert getattr(value, "__self__", owner) is owner, name
                assert not type(value).__module__.startswith("mfu_callback"), name


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork.* may lead to deadlocks")
def test_a_worker_that_is_forked_while_a_batch_is_counted_changes_nothing():
    class Forks(Validated):
        def training_step(self, batch, batch_idx):
            child = os.fork()
            if not child:
                os._exit(0 if (torch.ones(2, 2) @ torch.ones(2, 2)).sum() == 8 else 1)
            assert os.waitpid(child, 0)[1] == 0
            return super().training_step(batch, batch_idx)

        def train_dataloader(self):
            rows = torch.linspace(-1.0, 1.0, 320).reshape(40, 8)
            return DataLoader(rows, batch_size=4, num_workers=1, multiprocessing_context="fork")

    (summary,) = measured(Forks)
    assert summary.flops.forward == FORWARD


def test_what_threads_compute_beside_the_loop_is_not_the_models():
    class Beside(Validated):
        def on_train_start(self):
            self.is_over = threading.Event()
            self.thread = threading.Thread(target=self.compute)
            self.thread.start()

        def compute(self):
            layer = nn.Linear(64, 64)
            while not self.is_over.is_set():
                layer(torch.ones(32, 64)).sum().backward()

        def training_step(self, batch, batch_idx):
            time.sleep(0.02)  # so that the thread computes while the batch is counted
            return super().training_step(batch, batch_idx)

        def on_train_end(self):
            self.is_over.set()
            self.thread.join()

    (summary,) = measured(Beside)
    assert (summary.flops.forward, summary.flops.backward) == (FORWARD, 2 * FORWARD - 2 * 4 * 64)
    assert summary.flops.complete
