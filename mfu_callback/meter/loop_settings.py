"""The settings that advice names, as each kind of loop calls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """The settings of one kind of loop.

    Attributes:
        measured_by: The name of what measures it, whose arguments are named.
        precisions: By dtype, what makes the matmuls of the model run in it.
        accumulate: Steps of two micro-batches.
        log_less: Logging every 50 steps.
        buckets: Larger buckets of gradients under DDP.
        largest_batch: What finds the largest batch; empty if there is nothing.
    """

    measured_by: str
    precisions: Mapping[str, str]
    accumulate: str
    log_less: str
    buckets: str
    largest_batch: str = ""


_TRAINER = LoopSettings(
    measured_by="MFUCallback",
    precisions={
        "float32": 'precision="32-true"',
        "bfloat16": 'precision="bf16-true"',
        "float16": 'precision="16-mixed"',
    },
    accumulate="Trainer(accumulate_grad_batches=2)",
    log_less="Trainer(log_every_n_steps=50)",
    buckets="DDPStrategy(bucket_cap_mb=100)",
    largest_batch=" (BatchSizeFinder finds the largest)",
)
_OWN = LoopSettings(
    measured_by="MFUMeter",
    precisions={
        "float32": "model.float(), without autocast",
        "bfloat16": "model.bfloat16(), or torch.autocast with bfloat16",
        "float16": "torch.autocast with float16 and a torch.amp.GradScaler",
    },
    accumulate="two micro-batches a step",
    log_less="MFUMeter.due(50)",
    buckets="DistributedDataParallel(bucket_cap_mb=100)",
)
_HUGGING_FACE = LoopSettings(
    measured_by="MFUTrainerCallback",
    precisions={
        "float32": "TrainingArguments(bf16=False, fp16=False)",
        "bfloat16": "TrainingArguments(bf16=True)",
        "float16": "TrainingArguments(fp16=True)",
    },
    accumulate="TrainingArguments(gradient_accumulation_steps=2)",
    log_less="TrainingArguments(logging_steps=50)",
    buckets="TrainingArguments(ddp_bucket_cap_mb=100)",
)
# By the kind of the loop, as the circumstances of a run name it.
LOOP_SETTINGS: dict[str, LoopSettings] = {
    "trainer": _TRAINER,
    "fabric": replace(_OWN, precisions=_TRAINER.precisions, buckets=_TRAINER.buckets),
    "own": _OWN,
    "hugging face": _HUGGING_FACE,
}
