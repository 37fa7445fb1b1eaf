"""Writes the result to TensorBoard and ``mfu_summary.json``, and a picture of the sweep to the log directory."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mfu_callback.board.search_record import write_search
from mfu_callback.finder.result import BatchSizeResult
from mfu_callback.lightning import private_names
from mfu_callback.lightning.callback import MFUCallback
from mfu_callback.lightning.namespaces import rank_zero_info, rank_zero_warn
from mfu_callback.lightning.trainer_board import run_directory
from mfu_callback.tools.errors import named

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

TAG = "batch_size_finder"
SWEEP_FILE = "batch_size_sweep.png"


def show_in_loggers(trainer: Trainer, result: BatchSizeResult) -> None:
    """Write the result to TensorBoard as text, and the sweep as an image to TensorBoard and the log directory."""
    if not trainer.is_global_zero:
        return
    writers = _event_writers(trainer)
    for writer in writers:
        writer.add_text(TAG, result.markdown(), global_step=0)
    if not result.sweep:
        return
    figure = _draw(result)
    if figure is None:
        rank_zero_info("BatchSizeFinder: the sweep is not drawn without matplotlib. pip install matplotlib")
        return
    for writer in writers:
        writer.add_figure(f"{TAG}/sweep", figure, global_step=0, close=False)
    directory = run_directory(trainer)
    if directory is not None:
        with suppress(OSError):  # a full disk, or a directory that cannot be written to
            directory.mkdir(parents=True, exist_ok=True)
            figure.savefig(directory / SWEEP_FILE, dpi=120)


def write_record(trainer: Trainer, result: BatchSizeResult) -> None:
    """Write the result to ``mfu_summary.json`` and for the tab, unless an MFUCallback writes it with all else."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if not trainer.is_global_zero or any(isinstance(callback, MFUCallback) for callback in callbacks):
        return
    try:
        write_search(result, run_directory(trainer), _event_writers(trainer))
    except Exception as error:  # a full disk or another version of TensorBoard must not end a run
        rank_zero_warn(
            f"BatchSizeFinder: the result was not written to the run's directory ({named(error)}), so"
            " the report and the tab do not show it. It is in finder.result and in the log. Give the logger a directory"
            " that can be written to."
        )


def _event_writers(trainer: Trainer) -> list[Any]:
    return [logger.experiment for logger in private_names.tensorboard_loggers(trainer)]


def _draw(result: BatchSizeResult) -> Any:
    """A figure of throughput, MFU and memory over the batch size; None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    sizes = [point.size for point in result.sweep]
    has_tokens = all(point.tokens_per_sec is not None for point in result.sweep)
    curves: list[tuple[str, list[float | None]]] = [
        ("tokens/s", [point.tokens_per_sec for point in result.sweep])
        if has_tokens
        else ("samples/s", [point.samples_per_sec for point in result.sweep]),
        ("MFU", [point.mfu for point in result.sweep]),
        ("peak memory, GiB", [p.peak_bytes and p.peak_bytes / 2**30 for p in result.sweep]),
    ]
    curves = [(name, values) for name, values in curves if None not in values]
    figure = Figure(figsize=(7, 2.4 * len(curves)), layout="constrained")
    all_axes: Any = figure.subplots(len(curves), sharex=True, squeeze=False)
    for axes, (name, values) in zip(all_axes[:, 0], curves, strict=True):
        axes.plot(sizes, values, marker="o")
        axes.axvline(result.batch_size, linestyle=":", color="gray")
        axes.set(ylabel=name, xscale="log", ylim=(0, None))
        axes.grid(alpha=0.3)
    all_axes[-1, 0].set(xlabel=f"batch size (chosen: {result.batch_size})")
    all_axes[-1, 0].set_xticks(sizes, [str(size) for size in sizes], rotation=45)
    all_axes[-1, 0].minorticks_off()
    return figure
