"""One search for a batch size, from the loaders to the result."""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mfu_callback.finder.data.loaders import REMEDY, LoadersThemselves
from mfu_callback.finder.data.samples import MOST_SAMPLES
from mfu_callback.finder.data.stage_data import StageData
from mfu_callback.finder.data.tokens import Longest
from mfu_callback.finder.data.units import unit
from mfu_callback.finder.global_batch import GlobalBatch
from mfu_callback.finder.limits.limit import MemoryLimit, limit_for
from mfu_callback.finder.options import Bound, Options
from mfu_callback.finder.prediction.memory_lines import MemoryLines
from mfu_callback.finder.progress import SearchProgress
from mfu_callback.finder.rate import Rates
from mfu_callback.finder.result import BY_MEMORY, BatchSizeResult
from mfu_callback.finder.search import find_largest
from mfu_callback.finder.sweep import SweepPoint, sizes_between, smallest_as_fast, step_times
from mfu_callback.finder.trials.ranks import Ranks
from mfu_callback.finder.trials.trial import Trials
from mfu_callback.lightning.namespaces import MisconfigurationException, rank_zero_info, rank_zero_warn
from mfu_callback.meter.clock import timer_for

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_STEPS_PER_TURN = 3  # timed steps of a size in each round of a sweep
_WORTH_FORESEEING = 8  # times the smallest size to watch: where no larger one is allowed, trials are as quick
_BACK = 0.98  # of a size that does not fit everywhere, though each process has run a larger one


class Search:
    """A search for the batch size of one stage.

    Args:
        trainer: A Trainer whose strategy is set up and that has not yet created the loaders of the stage.
        pl_module: The model.
        stage: "fit", "validate", "test" or "predict".
        options: The options of the search.
        must_set: Whether it is an error if the batch size cannot be set.
    """

    def __init__(
        self, trainer: Trainer, pl_module: LightningModule, stage: str, options: Options, *, must_set: bool = True
    ) -> None:
        self._trainer: Any = trainer
        self._pl_module = pl_module
        self._stage = stage
        self._options = options
        self._must_set = must_set
        self._ranks = Ranks(trainer, pl_module)
        self._global_batch: GlobalBatch | None = None
        if options.global_batch_size is not None and stage == "fit":
            size = options.global_batch_size
            self._global_batch = GlobalBatch(trainer, pl_module, size, multiple_of=options.multiple_of)
        self._own_largest: tuple[int, ...] = ()
        self._has_run_out_of_time = False
        self._progress = SearchProgress(_console(trainer))
        self.limit: MemoryLimit = limit_for(
            trainer.strategy.root_device,
            budget=options.budget,
            margin=options.margin,
            processes=trainer.num_devices,
            may_fail=not self._ranks.step_together,
        )
        self._trials = Trials(
            trainer,
            pl_module,
            self.limit,
            self._ranks,
            self._open_data,
            warmup_sizes=self._warmup_sizes,
            report=self._progress.report,
        )

    def run(self) -> BatchSizeResult:
        """Search, restore everything that the trials changed, and set the size found.

        Raises:
            MisconfigurationException: If not even the smallest size fits, or there is no batch size to set.
        """
        with self._progress.shown(), self._trials.prepared() as data:
            if data.longest is not None:
                self._progress.in_words = data.longest.in_words
            bound = self._bound(data)
            sizes = self._sizes(bound)
            self._tell_start(data, sizes[-1], bound)
            largest = self._largest(sizes)
            stopped_by = self._why_no_larger(largest, sizes, bound)
            sweep = self._sweep(data, sizes, largest) if self._options.objective == "throughput" else ()
        size = smallest_as_fast(sweep) if sweep else largest
        data.put(size)
        longest = data.longest
        result = BatchSizeResult(
            batch_size=size,
            trials=tuple(self._trials.done),
            sweep=sweep,
            limit=self.limit.describe(),
            own_largest=self._own_largest,
            global_batch_size=self._options.global_batch_size if self._global_batch is not None else None,
            accumulate_grad_batches=None if self._global_batch is None else self._global_batch.micro_batches(size),
            max_tokens=None if longest is None else size * longest.counted,
            length=None if longest is None else longest.tokens,
            stopped_by=stopped_by,
        )
        self._tell_end(data, result, largest)
        return result

    def _open_data(self) -> StageData:
        return StageData(
            self._trainer,
            self._pl_module,
            self._stage,
            unit=unit(
                max_tokens=self._options.max_tokens,
                attribute=self._options.batch_arg_name,
                multiple_of=self._options.multiple_of,
            ),
            worst_case=self._options.worst_case,
            global_batch=self._global_batch,
            must_set=self._must_set,
        )

    def _warmup_sizes(self, data: StageData) -> Sequence[int]:
        """The sizes of warm-up steps, falling: small ones that the model takes, two samples if one sample is allowed.

        Every process must call this.
        """
        bound = self._bound(data)
        smallest = self._sizes(bound)[0]
        return (2, 1) if smallest == 1 and bound.size > 1 else (smallest,)

    def _bound(self, data: StageData) -> Bound:
        """The largest size that may be tried: as the options say, and no larger than the data can fill."""
        bound = self._options.bound(data.per_sample)
        # The smallest of all processes: each may have its own part of the data.
        most = -self._ranks.most_of(-data.most)
        if most < bound.size:
            share = "" if self._ranks.count == 1 else " on each process"
            bound = Bound(size=int(most), why=f"an epoch has {int(most):,} sample{'' if most == 1 else 's'}{share}")
        if self._global_batch is not None and self._global_batch.per_process < bound.size:
            return Bound(size=self._global_batch.per_process, why=f"global_batch_size={self._global_batch.size}")
        return bound

    def _sizes(self, bound: Bound) -> Sequence[int]:
        """The sizes that may be tried.

        Raises:
            MisconfigurationException: If there is none.
        """
        if bound.size < self._options.multiple_of:
            raise MisconfigurationException(
                f"BatchSizeFinder has no size to try: {bound.why}, and multiple_of={self._options.multiple_of}. Lower"
                " multiple_of, or train on more data."
            )
        if self._global_batch is not None:
            return self._global_batch.sizes(bound.size)
        return range(self._options.multiple_of, bound.size + 1, self._options.multiple_of)

    def _largest(self, sizes: Sequence[int]) -> int:
        """The largest size that has run on every process."""
        if largest := self._search_of(sizes, None) if self._ranks.step_together else self._largest_of_all(sizes):
            return largest
        raise MisconfigurationException(
            f"Not even a batch of {sizes[0]} fits into {self.limit.describe()}. Give BatchSizeFinder a larger"
            " budget or a smaller margin, or train a smaller model."
        )

    def _largest_of_all(self, sizes: Sequence[int]) -> int:
        """Each process finds its own largest; the smallest of these is then tried where it was not."""
        with self._ranks.all_or_none("failed in its search"), self._ranks.alone():
            mine = self._search_of(sizes, self._foreseen(sizes))
        self._own_largest = self._ranks.of_each(mine)
        largest = min(self._own_largest)
        while largest and not self._trials.fits_everywhere(largest):
            smaller = sizes[: bisect_left(sizes, largest)]
            largest = smaller[bisect_right(smaller, _BACK * largest) - 1] if smaller else 0
        return largest

    def _search_of(self, sizes: Sequence[int], foreseen: MemoryLines | None) -> int:
        """The largest size that fits, 0 if none does."""
        found = find_largest(
            self._trials.attempt,
            sizes=sizes,
            init_size=self._options.init_size,
            foreseen=foreseen,
            resolution=self._options.resolution,
            predicted_only=not self.limit.is_enforced,
            used_at_zero=self._trials.used_at_zero,
            is_over=self._is_out_of_time,
        )
        return found or 0

    def _why_no_larger(self, largest: int, sizes: Sequence[int], bound: Bound) -> str:
        if largest == sizes[-1]:
            return bound.why
        is_over = self._ranks.most_of(float(self._has_run_out_of_time))
        return f"max_seconds={self._options.max_seconds}" if is_over else BY_MEMORY

    def _foreseen(self, sizes: Sequence[int]) -> MemoryLines | None:
        """What sizes are foreseen to use; None if a few small ones are all, or only sizes known to fit may be tried."""
        small = next((size for size in sizes if size > 1), sizes[-1])
        if not self.limit.is_enforced or _WORTH_FORESEEING * small > sizes[-1]:
            return None
        return self._trials.foresee(small, 2 * small)

    def _is_out_of_time(self) -> bool:
        self._has_run_out_of_time = self._is_over()
        return self._has_run_out_of_time

    def _is_over(self) -> bool:
        if self._options.max_seconds is None:
            return False
        return self._ranks.most_of(self._trials.seconds) >= self._options.max_seconds

    def _sweep(self, data: StageData, sizes: Sequence[int], largest: int) -> tuple[SweepPoint, ...]:
        self._progress.doing("timing the sizes that fit")
        timer = timer_for(self._trainer.strategy.root_device)
        rates = Rates(self._trainer, self._pl_module, is_training=self._stage == "fit")
        self._trials.calibrate()  # memory left over from measuring the peak is not the trials'
        smallest = self._options.init_size or self._warmup_sizes(data)[0]  # models may reject smaller ones
        # A size is timed only after a trial, which also gives its peak memory.
        swept = [s for s in sizes_between(smallest, largest, sizes) if self._trials.fits_everywhere(s)]
        peaks = {trial.size: trial.peak_bytes for trial in self._trials.done}
        times = step_times(self._time_steps(timer), swept, is_over=self._is_over)
        return tuple(self._point(rates, size, seconds, peaks[size]) for size, seconds in times.items())

    def _time_steps(self, timer: Any) -> Callable[[int], list[float]]:
        return lambda size: self._trials.time_steps(size, timer, _STEPS_PER_TURN)

    def _point(self, rates: Rates, size: int, seconds: float, peak_bytes: int | None) -> SweepPoint:
        counter = rates.counter()
        batch = self._trials.look_at(size, counter)
        flops = counter.result().forward
        micro_batches = None if self._global_batch is None else self._global_batch.micro_batches(size)
        return rates.point(
            size,
            batch=batch,
            step_time_sec=seconds,
            forward_flops=flops,
            peak_bytes=peak_bytes,
            micro_batches=micro_batches,
        )

    def _tell_start(self, data: StageData, most: int, bound: Bound) -> None:
        longest = data.longest
        rank_zero_info(
            f"BatchSizeFinder: searching batch sizes up to {most:,} ({bound.why}) within"
            f" {self.limit.describe()}. A margin of {self._options.margin:.0%} is already taken off."
            + ("" if longest is None else f" Sizes are samples of {longest.tokens:,} tokens ({longest.how}).")
        )
        if self._is_ignored(data, most):
            rank_zero_warn(
                "BatchSizeFinder sets max_tokens on the batch sampler of the given loader, but its number of batches"
                " stays the same. If it made its batches when it was created, the size found will have no effect."
                f" Create it in train_dataloader() from a `max_tokens` of the model, {REMEDY}."
            )
        if self._trials.lost:
            rank_zero_warn(
                f"BatchSizeFinder took up to {MOST_SAMPLES} samples from {', '.join(self._trials.lost)}, which cannot"
                " be rewound. The run does not see these samples. Give worst_case= a batch, or make the iterator in"
                " __iter__."
            )

    def _is_ignored(self, data: StageData, most: int) -> bool:
        """Whether the loaders have as many batches with the smallest limit of tokens as with the largest."""
        if data.longest is None or not isinstance(data.setting, LoadersThemselves) or most == 1:
            return False
        counts = zip(*(self._trials.batches_in_epoch(size) for size in (1, most)), strict=True)
        return any(small == large and (small or 0) > 1 for small, large in counts)

    def _tell_end(self, data: StageData, result: BatchSizeResult, largest: int) -> None:
        chosen = "" if result.batch_size == largest else f"; the largest that fits is {largest:,}"
        what = "the largest that fits" if not result.sweep else "the smallest within 2 % of the best throughput"
        rank_zero_info(
            f"BatchSizeFinder: {_set_to(data.longest, result.batch_size)} is {what}{chosen} (trials run:"
            f" {len(result.trials)})."
            + ("" if result.stopped_by == BY_MEMORY else f" No larger one was tried: {result.stopped_by}.")
            + ("" if data.longest is None else f" {data.longest.caution()}")
            + (" It was not set anywhere; make the loaders with it." if data.setting is None else "")
        )
        if self._global_batch is not None:
            rank_zero_info(f"BatchSizeFinder: {self._global_batch.describe(result.batch_size)}.")
        if len(set(result.own_largest)) > 1:
            each = ", ".join(f"{size:,} on process {rank}" for rank, size in enumerate(result.own_largest))
            rank_zero_info(f"BatchSizeFinder: the largest that fits each process is {each}.")
        if result.sweep and self._trainer.is_global_zero:
            Console().print(result.sweep_table())


def _set_to(longest: Longest | None, size: int) -> str:
    return (
        f"batch_size={size}"
        if longest is None
        else f"max_tokens={size * longest.counted} ({size} samples of {longest.tokens} tokens)"
    )


def _console(trainer: Any) -> Console | None:
    """The console for the progress: standard error if the run has a progress bar, else None."""
    shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
    return Console(file=sys.stderr) if shown else None
