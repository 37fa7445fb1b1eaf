"""How ranks share batches: how many are handed the same one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def ranks_per_batch(trainer: Trainer, given: int | None, warn_once: Callable[[str, str], None]) -> int:
    """Number of ranks that are handed the same batch.

    Args:
        trainer: The Trainer, whose processes are there.
        given: The argument of `MFUCallback`.
        warn_once: Warns with a message, once per subject.

    Returns:
        The given number, or that of the strategy if none is given or it does not divide the number of ranks. A strategy
        tells it by what it hands the sampler: how many different batches there are (``num_replicas``).
    """
    ranks = trainer.world_size
    replicas = _sampler_arguments(trainer).get("num_replicas") or ranks
    of_strategy = ranks // replicas if ranks % replicas == 0 else 1
    if given is None:
        return of_strategy
    if ranks % given == 0:
        return given
    warn_once(
        "ranks_per_batch",
        f"ranks_per_batch={given} does not divide the number of ranks, {ranks}, so it is taken as {of_strategy}, as"
        " the strategy has it. Pass the number of ranks that are handed the same batch.",
    )
    return of_strategy


def is_in_first_replica(trainer: Trainer) -> bool:
    """Whether this rank works on the batches that rank zero works on, as far as the strategy tells."""
    return bool(_sampler_arguments(trainer).get("rank", trainer.global_rank) == 0)


def _sampler_arguments(trainer: Trainer) -> dict[str, Any]:
    try:
        return trainer.distributed_sampler_kwargs or {}
    except Exception:  # a strategy of the user's, or a mesh without "data_parallel", which has no sampler put in
        return {}
