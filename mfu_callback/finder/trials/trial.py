"""Trials: steps at one batch size under the limit, after which everything is restored."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mfu_callback.finder.data.stage_data import StageData
from mfu_callback.finder.limits.limit import MemoryLimit
from mfu_callback.finder.limits.out_of_memory import is_out_of_memory
from mfu_callback.finder.prediction.memory import MemoryMode, Part
from mfu_callback.finder.prediction.memory_lines import MemoryLines
from mfu_callback.finder.search import Outcome
from mfu_callback.finder.trials.isolation import accumulation_kept, quick_collections, random_state_kept, unseen
from mfu_callback.finder.trials.ranks import Ranks, Verdict
from mfu_callback.finder.trials.refusals import explain
from mfu_callback.finder.trials.snapshot import Snapshot, holders_of, local, state_of
from mfu_callback.finder.trials.steps import steps_of
from mfu_callback.lightning import private_names
from mfu_callback.meter.clock import Timer
from mfu_callback.tools.dynamo import uncompiled
from mfu_callback.tools.errors import first_sentence
from mfu_callback.tools.nested import tensors_in

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


# From the batches of a trial, the context in which its steps run.
Limited = Callable[[Any], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The outcome of one batch size.

    Attributes:
        size: Samples in the batch of one process.
        fits: Whether its steps ran within the limit: on this process, or, where the processes wait for each other in
            every step, on all of them.
        seconds: Seconds that the trial took there.
        peak_bytes: Peak memory of the steps on this process, including the model; None if unknown.
        why: "ran", or the reason why it does not fit.
    """

    size: int
    fits: bool
    seconds: float
    peak_bytes: int | None
    why: str


class Trials:
    """Runs trials on a model and undoes their effects.

    Args:
        trainer: A Trainer whose strategy is set up: optimizers exist and the model is on its device.
        pl_module: The model.
        limit: The memory that a trial may use.
        ranks: The processes that search together.
        open_data: Opens the loaders. Called after everything that this may change is saved.
        warmup_sizes: Returns the batch sizes of the warm-up steps, falling, once samples are drawn: a smaller one for
            when a larger one does not fit.
        report: Called with every trial.
    """

    def __init__(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        limit: MemoryLimit,
        ranks: Ranks,
        open_data: Callable[[], StageData],
        warmup_sizes: Callable[[StageData], Sequence[int]],
        report: Callable[[Trial], None],
    ) -> None:
        self.done: list[Trial] = []
        self.seconds = 0.0
        self._trainer: Any = trainer
        self._pl_module = pl_module
        self._limit = limit
        self._ranks = ranks
        self._open_data = open_data
        self._warmup_sizes = warmup_sizes
        self._report = report

    @contextmanager
    def prepared(self) -> Iterator[StageData]:
        """A context for trials: callbacks and loggers do not see them, and everything is restored at its end.

        Warm-up steps run first, without a limit. They allocate what only the first steps of a process need (lazy
        imports, threads, kernels). Under a limit that would fail half-way and break the process.
        """
        with ExitStack() as stack:
            stack.enter_context(unseen(self._trainer))
            stack.enter_context(accumulation_kept(self._trainer))
            stack.enter_context(random_state_kept())
            stack.enter_context(quick_collections())
            stack.enter_context(private_names.training_loaders_kept(self._trainer))
            stack.enter_context(torch.enable_grad())
            self._snapshots = [Snapshot(shallow=holders_of(self._trainer, self._pl_module))]
            try:
                yield self._prepare()
            finally:
                self._clean_up()

    def calibrate(self) -> None:
        """Set the limit on top of the memory in use now."""
        with self._ranks.all_or_none("could not determine its memory limit"):
            self._limit.calibrate(own_bytes=_cpu_bytes(self._pl_module), held_bytes=self._ranks.held_bytes)

    @property
    def lost(self) -> list[str]:
        """Names of the iterators of data sets that samples were drawn from and that cannot be rewound."""
        gave = {id(dataset) for dataset in self._data.iterables}
        return [f"{type(root).__name__}.{name}" for root, name in self._snapshots[-1].lost if id(root) in gave]

    @property
    def used_at_zero(self) -> float:
        """The share of the limit that parameters and gradients use at any size: the largest of any process."""
        limit_bytes = self._limit.limit_bytes()
        tensors = [local(parameter) for parameter in self._pl_module.parameters()]
        own = sum(tensor.nbytes * (2 if tensor.requires_grad else 1) for tensor in tensors)
        return self._ranks.most_of(min(1.0, own / limit_bytes) if limit_bytes else 0.0)

    def foresee(self, small: int, large: int) -> MemoryLines | None:
        """What sizes are foreseen to use, as shares of the limit, from watching the steps of two small ones.

        Returns:
            None if the limit is unknown, a size does not fit, or the steps cannot be watched.
        """
        limit_bytes = self._limit.limit_bytes()
        if not limit_bytes:
            return None
        try:
            seen = [self._bytes_of_allocations(size) for size in (small, large)]
        except Exception:  # the same steps ran before, unwatched: it is the watching that failed
            self._clean_up()
            return None
        if seen[0] is None or seen[1] is None:
            self._let_go(small)
            return None
        self.calibrate()  # modules that were imported meanwhile do not count as the trials' memory
        return MemoryLines.through(small, seen[0], large, seen[1]).shares_of(limit_bytes)

    def attempt(self, size: int) -> Outcome:
        """Run one trial, record it and return its outcome.

        Raises:
            MisconfigurationException: If the model refused the size, by an error of the kinds that say so.
            RuntimeError: If it failed in another process. Any other error in this process is raised unchanged.
        """
        why, verdict = self._run(size, self._limited)
        self.seconds += verdict.seconds
        peak_bytes = self._limit.peak_bytes()
        trial = Trial(size=size, fits=verdict.fits, seconds=verdict.seconds, peak_bytes=peak_bytes, why=why)
        self.done.append(trial)
        self._report(trial)
        if not verdict.fits:
            self._let_go(size)
        return Outcome(fits=verdict.fits, used=verdict.used)

    def _let_go(self, size: int) -> None:
        """Run small steps: what an operator was given when memory ran out may stay in use until steps run again."""
        self._run(min(size, self._warm_size), nullcontext)

    def fits_everywhere(self, size: int) -> bool:
        """Whether a size fits on every process; it is tried where it was not. Every process must call this."""
        if self._ranks.step_together:  # all have tried the same sizes, and agreed on each
            return any(trial.size == size and trial.fits for trial in self.done) or self.attempt(size).fits
        with self._ranks.all_or_none(f"failed in the trial of batch size {size}"), self._ranks.alone():
            fits = [trial.fits for trial in self.done if trial.size == size] or [self.attempt(size).fits]
        return self._ranks.agree(fits=fits[-1], used=None, seconds=0.0).fits

    def batches_in_epoch(self, size: int) -> list[int | None]:
        """The number of batches of each loader in an epoch at a size; None where a loader does not know it."""
        try:
            self._data.put(size)
            return self._data.batches_in_epoch()
        finally:
            self._clean_up()

    def time_steps(self, size: int, timer: Timer, count: int) -> list[float]:
        """Time ``count`` steps at a size that is known to fit; return the seconds of each on the slowest process."""
        mine: list[float] = []

        def run() -> None:
            self._data.put(size)
            with self.undisturbed():
                mine.extend(self._steps.timed(self._data.batches(size), timer, count))

        self._all(run, f"failed while batch size {size} was timed")
        return [self._ranks.agree(fits=True, used=None, seconds=seconds).seconds for seconds in mine]

    def look_at(self, size: int, counter: AbstractContextManager[Any]) -> Any:
        """Run one forward pass inside a counter and return its batch."""
        seen: list[Any] = []

        def run() -> None:
            self._data.put(size)
            seen.append(self._data.batches(size)[0])
            with self.undisturbed(), counter:
                self._steps.forward(seen[0])

        self._all(run, f"failed while the FLOPs of batch size {size} were counted")
        return seen[0]

    def _all(self, run: Callable[[], None], what: str) -> None:
        with self._ranks.all_or_none(what):
            try:
                run()
            finally:
                self._clean_up()

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """A context in which steps log nothing and wait for no other process; it does not undo what they change."""
        for name in ("log", "log_dict"):  # they raise outside of the Trainer's loops; the snapshot restores them
            setattr(self._pl_module, name, _do_nothing)
        with self._ranks.apart():
            yield

    def _prepare(self) -> StageData:
        data = self._data = self._open_data()
        self._snapshots.append(Snapshot(state_of(self._trainer, self._pl_module), data.asked))
        data.show()  # asks samplers for their length, which some keep
        with self._ranks.all_or_none("failed to draw samples"):
            data.draw(self._ranks.most_of)
        self._steps = steps_of(self._trainer, self._pl_module, data)
        sizes = self._warmup_sizes(data)
        self._warm_size = next((size for size in sizes if self._run(size, nullcontext)[1].fits), sizes[-1])
        self.calibrate()
        return data

    def _run(self, size: int, limited: Limited) -> tuple[str, Verdict]:
        """Run a trial; return the reason why the size fits or not, and the verdict of all processes."""
        start = perf_counter()
        why: str | None = None
        with self._ranks.all_or_none(f"failed in the trial of batch size {size}"):
            why = self._why_not(size, limited)
            self._clean_up()
        verdict = self._ranks.agree(fits=why is None, used=self._used(), seconds=perf_counter() - start)
        return why or ("ran" if verdict.fits else "did not fit in another process"), verdict

    def _why_not(self, size: int, limited: Limited) -> str | None:
        try:
            with self._ranks.failing_together(size):
                self._run_steps(size, limited)
        except Exception as error:
            if not is_out_of_memory(error):
                explain(error, size)
                raise
            traceback.clear_frames(error.__traceback__)  # the frames hold on to the tensors
            return first_sentence(error)
        return None

    def _run_steps(self, size: int, limited: Limited) -> None:
        self._data.put(size)
        batches, validation = self._data.batches(size), self._data.validation_batches(size)
        with self.undisturbed(), limited((batches, validation)):
            self._steps.run(batches, validation)

    @contextmanager
    def _limited(self, batches: Any) -> Iterator[None]:
        """A context in which steps that exceed the limit fail, soon after they have if the limit is enforced."""
        parameters = self._pl_module.parameters() if self._limit.is_enforced else ()
        with self._limit.enforced(), ExitStack() as stack:
            for parameter in filter(_is_trained, parameters):
                register: Any = parameter.register_post_accumulate_grad_hook
                stack.callback(register(lambda _: self._limit.check()).remove)
            yield

    def _bytes_of_allocations(self, size: int) -> list[int] | None:
        """The bytes in use after each allocation of a size's steps, including model and batch; None if out of memory.

        Compiled parts run eagerly: their allocations could not be seen.
        """
        mode = MemoryMode()

        @contextmanager
        def watched(batches: Any) -> Iterator[None]:
            mode.hold((*self._pl_module.parameters(), *self._pl_module.buffers()), Part.PARAMETERS)
            mode.hold(tensors_in(batches), Part.TEMPORARY)
            mode.begin()
            with self._limit.enforced(), uncompiled(), mode:
                yield

        return mode.totals if self._run(size, watched)[1].fits else None

    def _used(self) -> float | None:
        limit_bytes, peak_bytes = self._limit.limit_bytes(), self._limit.peak_bytes()
        return None if peak_bytes is None or not limit_bytes else peak_bytes / limit_bytes

    def _clean_up(self) -> None:
        for snapshot in reversed(self._snapshots):
            snapshot.restore()
        self._limit.free()


def _is_trained(parameter: Tensor) -> bool:
    return parameter.requires_grad and parameter.is_leaf


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    pass


def _cpu_bytes(pl_module: LightningModule) -> int:
    tensors = {id(t): local(t) for t in (*pl_module.parameters(), *pl_module.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values() if tensor.device.type == "cpu")
