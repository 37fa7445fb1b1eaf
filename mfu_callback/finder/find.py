"""One search for a batch size, from the loaders to the result."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mfu_callback.finder.data.loaders import REMEDY, LoadersThemselves
from mfu_callback.finder.data.samples import MOST_SAMPLES
from mfu_callback.finder.data.stage_data import StageData
from mfu_callback.finder.data.tokens import Longest
from mfu_callback.finder.data.units import unit
from mfu_callback.finder.limits.limit import MemoryLimit, limit_for
from mfu_callback.finder.options import Options
from mfu_callback.finder.prediction.predict import guess_batch_size
from mfu_callback.finder.progress import SearchProgress
from mfu_callback.finder.rate import Rates
from mfu_callback.finder.result import BatchSizeResult
from mfu_callback.finder.search import find_largest
from mfu_callback.finder.sweep import SweepPoint, sizes_between, smallest_as_fast, step_times
from mfu_callback.finder.trials.ranks import Ranks
from mfu_callback.finder.trials.trial import Trials
from mfu_callback.lightning.namespaces import MisconfigurationException, rank_zero_info, rank_zero_warn
from mfu_callback.meter.clock import timer_for

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_STEPS_PER_TURN = 3  # timed steps of a size in each round of a sweep
_WORTH_A_GUESS = 64  # a guess saves trials only if larger sizes than this are allowed
_GUESSED_FROM = 16  # samples: with fewer, memory that does not depend on the size hides memory that does


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
            warmup_size=lambda data: min(2, options.largest(None, data.per_sample)),
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
            most = self._most(data)
            self._tell_start(data, most)
            largest = self._largest(data, most)
            sweep = self._sweep(largest) if self._options.objective == "throughput" else ()
        size = smallest_as_fast(sweep) if sweep else largest
        data.put(size)
        longest = data.longest
        result = BatchSizeResult(
            batch_size=size,
            trials=tuple(self._trials.done),
            sweep=sweep,
            limit=self.limit.describe(),
            max_tokens=None if longest is None else size * longest.counted,
            length=None if longest is None else longest.tokens,
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
            must_set=self._must_set,
        )

    def _most(self, data: StageData) -> int:
        length = data.length
        most_in_data = None
        if data.drops_last and length is not None:  # the loader would drop a larger batch
            most_in_data = max(1, length // self._trainer.world_size)
        # The smallest of all processes: each has its own part of the data.
        return -int(self._ranks.most_of(-self._options.largest(most_in_data, data.per_sample)))

    def _largest(self, data: StageData, most: int) -> int:
        options = self._options
        largest = find_largest(
            self._trials.attempt,
            init_size=options.init_size,
            guess=self._guess(data, most),
            max_size=most,
            multiple_of=options.multiple_of,
            resolution=options.resolution,
            predicted_only=not self.limit.is_enforced,
            used_at_zero=self._trials.used_at_zero,
            is_over=self._is_over,
        )
        if largest is None:
            smallest = min(trial.size for trial in self._trials.done)
            raise MisconfigurationException(
                f"Not even a batch of {smallest} fits into {self.limit.describe()}. Give BatchSizeFinder a larger"
                " budget or a smaller margin, or train a smaller model."
            )
        return largest

    def _guess(self, data: StageData, most: int) -> int | None:
        limit_bytes, guess = self.limit.limit_bytes(), None
        if self._stage == "fit" and limit_bytes and most > _WORTH_A_GUESS and not self._ranks.step_together:
            batch = data.batches(_GUESSED_FROM)[0]
            with self._trials.undisturbed():
                guess = guess_batch_size(self._trainer, self._pl_module, batch, limit_bytes=limit_bytes, max_size=most)
            self._trials.calibrate()  # modules that the guess imported do not count as the trials' memory
        return -int(self._ranks.most_of(-(guess or 0))) or None  # the smallest guess of all processes

    def _is_over(self) -> bool:
        return self._options.max_seconds is not None and self._trials.seconds >= self._options.max_seconds

    def _sweep(self, largest: int) -> tuple[SweepPoint, ...]:
        self._progress.doing("timing the sizes that fit")
        timer = timer_for(self._trainer.strategy.root_device)
        smallest = min(trial.size for trial in self._trials.done if trial.fits)  # models may reject smaller ones
        sizes = sizes_between(smallest, largest)
        rates = Rates(self._trainer, self._pl_module, is_training=self._stage == "fit")
        self._trials.calibrate()  # memory left over from measuring the peak is not the trials'
        for size in sizes:  # a size is timed only after a trial, which also gives its peak memory
            if size not in {trial.size for trial in self._trials.done}:
                self._trials.attempt(size)
        peaks = {trial.size: trial.peak_bytes for trial in self._trials.done if trial.fits}
        times = step_times(self._time_steps(timer), [s for s in sizes if s in peaks], is_over=self._is_over)
        return tuple(self._point(rates, size, seconds, peaks[size]) for size, seconds in times.items())

    def _time_steps(self, timer: Any) -> Callable[[int], list[float]]:
        return lambda size: self._trials.time_steps(size, timer, _STEPS_PER_TURN)

    def _point(self, rates: Rates, size: int, seconds: float, peak_bytes: int | None) -> SweepPoint:
        counter = rates.counter()
        batch = self._trials.look_at(size, counter)
        flops = counter.result().forward
        return rates.point(size, batch=batch, step_time_sec=seconds, forward_flops=flops, peak_bytes=peak_bytes)

    def _tell_start(self, data: StageData, most: int) -> None:
        longest = data.longest
        rank_zero_info(
            f"BatchSizeFinder: searching batch sizes up to {most:,} within {self.limit.describe()}. A margin of"
            f" {self._options.margin:.0%} is already taken off."
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
            + ("" if data.longest is None else f" {data.longest.caution()}")
            + (" It was not set anywhere; make the loaders with it." if data.setting is None else "")
        )
        length = data.length
        if length is not None and result.batch_size * self._ranks.count > length:
            rank_zero_info(
                f"BatchSizeFinder: the length of the data set is only {length:,}. The trials repeated its samples; the"
                " run's batches will not be larger than the data set."
            )
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
