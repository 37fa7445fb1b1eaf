"""Trains models that split their work on plain tensors: `parallel_plain_run.py DIRECTORY PROCESSES`.

Trains every run of `RUNS` that suits the number of processes, one after the other in the same processes; each rank
saves what a run ends with in DIRECTORY. The ranks of a model compute different amounts.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

import mfu_callback.meter.peak_of_run
from mfu_callback import MFUCallback
from tests.helpers.runs import make_trainer, tiny_data

SAMPLES, LENGTH, WIDTH = 4, 8, 16
STEPS, WARMUP = 14, 3
PARTS = {2: (2, 6), 4: (1, 2, 2, 3)}  # tokens of a sequence on each rank, by the number of ranks
HIDDEN = (8, 16, 24, 32)  # of each rank's two layers


class AllReduce(torch.autograd.Function):
    """Sums over the ranks of a group, in the forward pass, in the backward pass, or in both."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any, forward: bool, backward: bool) -> torch.Tensor:
        """The sum of all ranks' tensors, or the tensor."""
        ctx.group, ctx.sums = group, backward
        return summed(x, group) if forward else x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The sum of all ranks' gradients, or the gradient."""
        return summed(gradients[0], ctx.group) if ctx.sums else gradients[0], None, None, None


def summed(x: torch.Tensor, group: Any) -> torch.Tensor:
    """The sum over the ranks of a group, as a new tensor."""
    x = x.clone()
    dist.all_reduce(x, group=group)
    return x


def loss_of(x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B, T, 16), (B, T) -> ()."""
    return nn.functional.cross_entropy(x.flatten(0, 1), targets.flatten() % WIDTH)


@torch.library.custom_op("parallel_plain::unknown", mutates_args=())
def unknown(x: torch.Tensor) -> torch.Tensor:
    """An operator without a FLOP rule."""
    return x * 1.0


unknown.register_autograd(lambda ctx, gradient: gradient)


class Split(LightningModule):
    """A model of which each rank of the mesh's second dimension has a part."""

    words: tuple[str, ...] = ()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1)

    @property
    def mesh(self) -> Any:
        """The ranks that share a batch."""
        return self.device_mesh[self.device_mesh.mesh_dim_names[1]]

    def two_layers(self) -> list[nn.Module]:
        """This rank's layers: 16 to 8, 16, ... to 16 features."""
        hidden = HIDDEN[self.mesh.get_local_rank()]
        return [nn.Linear(WIDTH, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, WIDTH, bias=False)]


class Tensor(Split):
    """Tensor parallelism: each rank has some columns of one layer and the rows of the next that belong to them."""

    def configure_model(self) -> None:
        """Make this rank's part."""
        self.embedding, self.net = nn.Embedding(64, WIDTH), nn.Sequential(*self.two_layers())

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Sum up what the ranks give."""
        tokens, targets = batch
        group = self.mesh.get_group()
        x = AllReduce.apply(self.embedding(tokens), group, False, True)
        return loss_of(AllReduce.apply(self.net(x), group, True, False), targets)

    def on_after_backward(self) -> None:
        """The mean gradients of the data-parallel ranks."""
        average(self, self.device_mesh["data_parallel"].get_group())


class Context(Split):
    """Context parallelism: each rank has some tokens of every sequence, and the keys and values of all."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def configure_model(self) -> None:
        """Nothing; the strategy asks for it."""

    def part(self, batch: Any) -> list[torch.Tensor]:
        """This rank's tokens and targets."""
        return [part[:, self.start : self.end] for part in batch]

    @property
    def start(self) -> int:
        """The place of this rank's first token."""
        return sum(PARTS[self.trainer.world_size][: self.global_rank])

    @property
    def end(self) -> int:
        """The place after this rank's last token."""
        return self.start + PARTS[self.trainer.world_size][self.global_rank]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Hands over this rank's tokens alone, with "parts"."""
        return self.part(batch) if "parts" in self.words else batch

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Attend from this rank's tokens to all."""
        tokens, targets = batch if "parts" in self.words else self.part(batch)
        x = self.embedding(tokens)
        around = (0, 0, self.start, LENGTH - self.end)
        k, v = (nn.functional.pad(layer(x), around) for layer in (self.k, self.v))
        k, v = (AllReduce.apply(part, None, True, True)[:, None] for part in (k, v))
        y = self.o(nn.functional.scaled_dot_product_attention(self.q(x)[:, None], k, v)[:, 0])
        return loss_of(y, targets) * (self.end - self.start) * self.trainer.world_size / LENGTH

    def on_after_backward(self) -> None:
        """The mean gradients of all ranks, which DDP makes by itself."""
        if not isinstance(self.trainer.strategy, DDPStrategy):
            average(self, None)


class Pipeline(Split):
    """Pipeline parallelism: each rank has two layers, and hands what they give to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.schedule: Any = None

    def configure_model(self) -> None:
        """Make this rank's stage."""
        first = [nn.Embedding(64, WIDTH)] if self.mesh.get_local_rank() == 0 else []
        self.net = nn.Sequential(*first, *([] if first and "idle" in self.words else self.two_layers()))
        if "unknown" in self.words and self.mesh.get_local_rank() == 1:
            self.net.register_forward_hook(lambda module, args, output: unknown(output))

    def make_schedule(self) -> Any:
        """Micro-batches of one sample. The shapes between the stages are not given, so the first step tries them."""
        rank, ranks = self.mesh.get_local_rank(), self.mesh.size()
        stage = PipelineStage(self.net, rank, ranks, torch.device("cpu"), group=self.mesh.get_group())
        schedule = Schedule1F1B if "1f1b" in self.words else ScheduleGPipe
        return schedule(stage, SAMPLES, loss_fn=loss_of)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Run all micro-batches, forward and backward, and take a step."""
        tokens, targets = batch
        if self.schedule is None or "anew" in self.words:
            self.schedule = self.make_schedule()
        optimizer, rank = self.optimizers(), self.mesh.get_local_rank()
        optimizer.zero_grad()
        target = {"target": targets} if rank == self.mesh.size() - 1 else {}
        self.schedule.step(*([tokens] if rank == 0 else []), **target)
        average(self, self.device_mesh["data_parallel"].get_group())
        optimizer.step()


def average(module: nn.Module, group: Any) -> None:
    """Replace the gradients by their mean over a group."""
    for parameter in module.parameters():
        assert parameter.grad is not None
        dist.all_reduce(parameter.grad, group=group)
        parameter.grad /= dist.get_world_size(group)


class OwnMesh(ModelParallelStrategy):
    """A strategy with a mesh of the user's: pairs of ranks are a pipeline."""

    def setup_environment(self) -> None:
        """Make the mesh."""
        super().setup_environment()
        self._device_mesh = init_device_mesh("cpu", (self.world_size // 2, 2), mesh_dim_names=("data_parallel", "pipe"))
        self.lightning_module._device_mesh = self._device_mesh


def one_model(processes: int) -> ModelParallelStrategy:
    """All ranks share a batch."""
    return ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=processes)


def pairs(processes: int, kind: type[ModelParallelStrategy] = ModelParallelStrategy) -> ModelParallelStrategy:
    """Pairs of ranks share a batch."""
    return kind(data_parallel_size=processes // 2, tensor_parallel_size=2)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run: its model and strategy, the numbers of processes that it suits, and what the callback is given."""

    model: Callable[[], Split]
    strategy: Callable[[int], Any] = one_model
    processes: tuple[int, ...] = (2, 4)
    arguments: Callable[[int], dict[str, Any]] = field(default=lambda processes: {})


RUNS = {
    "tensor": Run(model=Tensor),
    "tensor-without": Run(model=Tensor, processes=(2,)),
    "tensor-given": Run(model=Tensor, processes=(2,), arguments=lambda _: {"flops": 100.0}),
    "tensor-pairs": Run(model=Tensor, strategy=pairs, processes=(4,)),
    "context": Run(model=Context),
    "context-ddp": Run(model=Context, strategy=lambda _: "ddp", arguments=lambda ranks: {"ranks_per_batch": ranks}),
    "context-parts-ddp": Run(model=Context, strategy=lambda _: "ddp"),
    "context-parts": Run(model=Context, processes=(2,), arguments=lambda _: {"ranks_per_batch": 1}),
    "context-parts-told": Run(model=Context, processes=(2,), arguments=lambda _: {"tokens": SAMPLES * LENGTH}),
    "pipeline": Run(model=Pipeline),
    "pipeline-without": Run(model=Pipeline, processes=(2,)),
    "pipeline-1f1b": Run(model=Pipeline),
    "pipeline-measured": Run(model=Pipeline, processes=(2,), arguments=lambda _: {"backward_factor": "measured"}),
    "pipeline-pairs": Run(model=Pipeline, strategy=partial(pairs, kind=OwnMesh), processes=(4,)),
    "pipeline-idle": Run(model=Pipeline, processes=(2,)),
    "pipeline-anew": Run(model=Pipeline, processes=(2,)),
    "pipeline-unknown": Run(model=Pipeline, processes=(2,)),
}


def train(name: str, run: Run, processes: int) -> dict[str, Any]:
    """What this rank ends a run with."""
    words = tuple(name.split("-"))
    seed_everything(1, verbose=False)
    callback = MFUCallback(peak=1e12, summary=None, warmup_steps=WARMUP, **run.arguments(processes))
    trainer = make_trainer(
        *([] if "without" in words else [callback]),
        devices=processes,
        strategy=run.strategy(processes),
        max_steps=STEPS,
        log_every_n_steps=5,
        use_distributed_sampler="ddp" not in words,
    )
    module = run.model()
    module.words = words
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, datamodule=tiny_data(length=SAMPLES * STEPS * processes))
    summary = callback.summary
    count = None if summary is None else summary.flops
    return {
        "weights": module.state_dict(),
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "summary": None if summary is None else (summary.steps, summary.tokens, summary.mfu, summary.tokens_per_sec),
        "flops": None if count is None else (count.forward, count.backward, count.uncounted),
        "conventions": None if summary is None else summary.conventions,
        "waterfall": None if summary is None else summary.waterfall,
        "warnings": [str(one.message) for one in caught],
    }


def main() -> None:
    """Train and save this rank's ends of all runs."""
    directory, processes = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    mfu_callback.meter.peak_of_run.rates_in_training = lambda *_, **__: {}  # which takes a while to measure
    for name, run in RUNS.items():
        if processes in run.processes:
            ends = train(name, run, processes)
            torch.save(ends, directory / f"{name}-{processes}-{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
