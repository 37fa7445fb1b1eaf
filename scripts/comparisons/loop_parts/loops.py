"""The same training in each of the loops that can be measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import accelerate
import transformers
from lightning.fabric import Fabric
from lightning.pytorch import Trainer

from mfu_callback import MFUCallback, MFUMeter
from mfu_callback.loops import MFUTrainerCallback
from mfu_callback.meter.summary import Summary
from scripts.comparisons.loop_parts.subject import Model, Module, Tokens, loader_of, optimizer_of

_CLIP = 1.0  # norm of the gradients, as Hugging Face's Trainer clips them by default


def trainer(steps: int, **arguments: Any) -> Summary:
    """Lightning's Trainer."""
    callback = MFUCallback(**arguments)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    one = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        logger=False,
        gradient_clip_val=_CLIP,
        callbacks=[callback],
        **quiet,
    )
    one.fit(Module(), loader_of(steps))
    return callback.summary


def own_loop(steps: int, **arguments: Any) -> Summary:
    """A loop in plain torch."""
    import torch

    model = Model()
    optimizer = optimizer_of(model)
    meter = MFUMeter(model, **arguments)
    for batch in meter.fetch(loader_of(steps)):
        with meter.step(batch):
            model(**batch)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
            optimizer.step()
            optimizer.zero_grad()
    return meter.close()


def fabric(steps: int, **arguments: Any) -> Summary:
    """A loop with Lightning Fabric."""
    one = Fabric(accelerator="cpu", devices=1)
    model = Model()
    model, optimizer = one.setup(model, optimizer_of(model))
    meter = MFUMeter(model, fabric=one, **arguments)
    for batch in meter.fetch(one.setup_dataloaders(loader_of(steps))):
        with meter.step(batch):
            one.backward(model(**batch)["loss"])
            one.clip_gradients(model, optimizer, max_norm=_CLIP)
            optimizer.step()
            optimizer.zero_grad()
    return meter.close()


def accelerate_loop(steps: int, **arguments: Any) -> Summary:
    """A loop with accelerate."""
    accelerator = accelerate.Accelerator(cpu=True)
    model = Model()
    model, optimizer, loader = accelerator.prepare(model, optimizer_of(model), loader_of(steps))
    meter = MFUMeter(model, **arguments)
    for batch in meter.fetch(loader):
        with meter.step(batch), accelerator.accumulate(model):
            accelerator.backward(model(**batch)["loss"])
            accelerator.clip_grad_norm_(model.parameters(), _CLIP)
            optimizer.step()
            optimizer.zero_grad()
    return meter.close()


def hugging_face(steps: int, **arguments: Any) -> Summary:
    """Hugging Face's Trainer."""
    callback = MFUTrainerCallback(**arguments)
    model = Model()
    with tempfile.TemporaryDirectory() as directory:
        settings = transformers.TrainingArguments(
            output_dir=directory,
            max_steps=steps,
            per_device_train_batch_size=loader_of(1).batch_size,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            max_grad_norm=_CLIP,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        one = transformers.Trainer(
            model, settings, train_dataset=Tokens(steps), callbacks=[callback], optimizers=(optimizer_of(model), None)
        )
        one.train()
    return callback.summary


LOOPS: dict[str, Callable[..., Summary]] = {
    "Lightning's Trainer": trainer,
    "loop of one's own": own_loop,
    "Fabric": fabric,
    "accelerate": accelerate_loop,
    "Hugging Face's Trainer": hugging_face,
}
