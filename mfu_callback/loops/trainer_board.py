"""What is written about a Hugging Face Trainer's run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from mfu_callback.board.run_board import Board
from mfu_callback.loops.trainer_facts import facts_of_run
from mfu_callback.meter.messages import Messages

_PREFIX = "train/"  # what transformers puts before the tags of training


def board_of(
    trainer: Any, module: nn.Module, messages: Messages, *, is_first_rank: bool, in_tensorboard: bool
) -> Board:
    """The board of a run: TensorBoard's event files, and ``mfu_summary.json`` in ``args.output_dir`` and beside them.

    Args:
        trainer: The Trainer, whose TensorBoard callback stands before ours and has made its writer.
        module: The model.
        messages: Says what was not written.
        is_first_rank: Whether this is the first rank, which alone writes.
        in_tensorboard: Whether to write to TensorBoard.
    """
    found = (getattr(one, "tb_writer", None) for one in trainer.callback_handler.callbacks)
    writers = [one for one in found if one is not None]
    return Board(
        writers if is_first_rank and in_tensorboard else (),
        lambda: [(one, _PREFIX) for one in writers],
        lambda meter: facts_of_run(trainer, module, meter),
        lambda: [Path(trainer.args.output_dir), *(Path(one.log_dir) for one in writers)],
        lambda: int(trainer.state.global_step),
        messages.warn_once,
        # The Trainer's callback closes its writer before us, so that ours has opened another file.
        at_end=[one.close for one in writers],
    )
