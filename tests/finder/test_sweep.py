"""objective="throughput", and what is shown of a search."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mfu_callback import BatchSizeFinder
from mfu_callback.finder import BatchSizeResult, SweepPoint, Trial, rate
from mfu_callback.finder.progress import SearchProgress
from mfu_callback.finder.show import SWEEP_FILE, TAG
from mfu_callback.finder.sweep import sizes_between, smallest_as_fast, step_times
from mfu_callback.peaks import resolve_peak
from tests.helpers.finder_models import MIB, Tabular, TinyGPT, fitted


def point(size: int, samples_per_sec: float, tokens_per_sec: float | None = None) -> SweepPoint:
    return SweepPoint(
        size=size,
        step_time_sec=size / samples_per_sec,
        samples_per_sec=samples_per_sec,
        tokens_per_sec=tokens_per_sec,
        mfu=None,
        peak_bytes=None,
    )


def test_a_sweep_doubles_up_to_the_largest() -> None:
    assert sizes_between(1, 1, range(1, 1000)) == [1]
    assert sizes_between(2, 8, range(1, 1000)) == [2, 4, 8]
    assert sizes_between(2, 37, range(1, 1000)) == [2, 4, 8, 16, 32, 37]
    assert sizes_between(8, 40, range(1, 1000)) == [8, 16, 32, 40]
    assert sizes_between(2, 90, [1, 3, 5, 9, 15, 18, 45, 90]) == [3, 5, 9, 18, 45, 90]
    assert sizes_between(2, 1, [1, 7]) == [1]
    assert sizes_between(2, 40, range(8, 1000, 8)) == [8, 16, 32, 40]


def test_the_smallest_size_within_two_percent_of_the_fastest_is_taken() -> None:
    assert smallest_as_fast([point(1, 50), point(2, 97), point(4, 98.1), point(8, 100), point(16, 90)]) == 4
    assert smallest_as_fast([point(1, 100, 10), point(2, 50, 20)]) == 2


def test_sizes_take_turns_and_the_median_step_counts() -> None:
    order: list[int] = []

    def time_steps(size: int) -> list[float]:
        order.append(size)
        return [size * 1.0, size * 2.0, size * (9.0 if len(order) < 3 else 2.0)]

    assert step_times(time_steps, [1, 2], is_over=lambda: False) == {1: 2.0, 2: 4.0}
    assert order == [1, 2] * 3
    order.clear()
    step_times(time_steps, [1, 2], is_over=lambda: True)
    assert order == [1, 2]


def swept_sizes(result: Any) -> list[int]:
    """The sizes that a sweep has to time: a size between may not fit, as glibc's heap makes peaks this small uneven."""
    fitting = {trial.size for trial in result.trials if trial.fits}
    assert {trial.size for trial in result.trials} >= set(sizes_between(2, max(fitting), range(1, 1000)))
    return [size for size in sizes_between(2, max(fitting), range(1, 1000)) if size in fitting]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real sweep of a small GPT with accumulation, logged to TensorBoard."""
    directory = tmp_path_factory.mktemp("sweep")
    torch.manual_seed(1)
    finder = BatchSizeFinder(budget=60 * MIB, objective="throughput")
    model = TinyGPT()
    logger = TensorBoardLogger(directory, name="", version="run")
    run = fitted(model, finder, logger=logger, accumulate_grad_batches=2, max_steps=2)
    assert finder.result is not None
    return finder.result, model, run, directory / "run"


def test_a_real_sweep_times_every_size_that_fits(swept: Any) -> None:
    result, model, run, _ = swept
    assert [p.size for p in result.sweep] == swept_sizes(result), result.trials
    assert len(result.sweep) > 1
    assert result.batch_size == smallest_as_fast(result.sweep) == model.batch_size
    assert run.train_dataloader.batch_size == result.batch_size
    for p in result.sweep:  # two micro-batches a step, of 65 tokens a sample
        assert p.samples_per_sec == pytest.approx(2 * p.size / p.step_time_sec)
        assert p.tokens_per_sec == pytest.approx(65 * p.samples_per_sec)
        assert p.mfu is not None
        assert p.mfu > 0


def test_what_looking_for_the_peak_leaves_in_memory_is_no_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[torch.Tensor] = []

    def leaving(*args: Any, **kwargs: Any) -> Any:
        left.append(torch.ones(200 * MIB // 4))
        return resolve_peak(*args, **kwargs)

    monkeypatch.setattr(rate, "resolve_peak", leaving)
    finder = BatchSizeFinder(budget=60 * MIB, objective="throughput")
    fitted(TinyGPT(), finder, max_steps=1)
    assert finder.result is not None
    assert left
    assert [p.size for p in finder.result.sweep] == swept_sizes(finder.result), finder.result.trials


def test_a_sweep_leaves_the_weights_alone(swept: Any) -> None:
    result, model, *_ = swept
    torch.manual_seed(1)
    given = TinyGPT(batch_size=result.batch_size)
    fitted(given, accumulate_grad_batches=2, max_steps=2)
    theirs = given.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())


def test_the_result_is_in_tensorboard_and_beside_it(swept: Any) -> None:
    result, *_, directory = swept
    events = EventAccumulator(str(directory), size_guidance={"tensors": 0, "images": 0})
    events.Reload()
    text = events.Tensors(f"{TAG}/text_summary")[0].tensor_proto.string_val[0].decode()
    assert f"batch_size = {result.batch_size}" in text
    assert all(f"| {trial.size} | " in text for trial in result.trials)
    assert len(events.Images(f"{TAG}/sweep")) == 1
    assert (directory / SWEEP_FILE).read_bytes().startswith(b"\x89PNG")


def test_the_table_of_the_sweep_has_a_row_for_each_size(swept: Any) -> None:
    result, *_ = swept
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(result.sweep_table())
    text = console.export_text()
    assert f"chosen: {result.batch_size}" in text
    for p in result.sweep:
        assert f"{p.tokens_per_sec:,.0f}" in text


def test_samples_are_what_counts_where_a_batch_has_no_tokens(tmp_path: Path) -> None:
    finder = BatchSizeFinder(max_size=4, objective="throughput")
    fitted(Tabular(), finder, logger=CSVLogger(tmp_path, name="", version="run"))
    assert finder.result is not None
    assert [p.size for p in finder.result.sweep] == [2, 4]
    assert all(p.tokens_per_sec is None and p.samples_per_sec > 0 for p in finder.result.sweep)
    assert (tmp_path / "run" / SWEEP_FILE).exists()


def test_without_matplotlib_the_sweep_is_not_drawn_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fitted(
            TinyGPT(),
            BatchSizeFinder(max_size=2, objective="throughput"),
            logger=CSVLogger(tmp_path, name="", version="run"),
        )
    assert "pip install matplotlib" in caplog.text
    assert not (tmp_path / "run" / SWEEP_FILE).exists()


def test_a_result_survives_a_checkpoint() -> None:
    finder = BatchSizeFinder()
    trial = Trial(size=2, fits=True, seconds=0.1, peak_bytes=5, why="ran")
    finder.result = BatchSizeResult(batch_size=2, trials=(trial,), sweep=(point(2, 9),), limit="9 MiB")
    other = BatchSizeFinder()
    other.load_state_dict(finder.state_dict())
    assert other.result == finder.result
    empty = BatchSizeFinder()
    empty.load_state_dict(BatchSizeFinder().state_dict())
    assert empty.result is None


def test_what_a_library_says_cannot_break_the_card() -> None:
    trial = Trial(size=2, fits=False, seconds=0.1, peak_bytes=None, why="<b>a|b</b>")
    text = BatchSizeResult(batch_size=1, trials=(trial,)).markdown()
    assert "&lt;b>a\\|b" in text


def test_the_line_that_changes_shows_the_last_trial() -> None:
    console = Console(force_terminal=True, width=120, record=True, file=io.StringIO())
    progress = SearchProgress(console)
    with progress.shown():
        progress.report(Trial(size=1234, fits=False, seconds=0.1, peak_bytes=5 * MIB, why="no memory"))
        assert progress._status is not None
        assert "batch 1,234 does not fit" in str(progress._status.status)
