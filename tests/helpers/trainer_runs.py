"""Small trainings with the Trainer of transformers that several tests share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from mfu_callback.loops import MFUTrainerCallback
from tests.helpers.runs import PEAK

if not hasattr(Trainer, "_run_epoch"):  # the newest transformers wants torch 2.6 or later
    pytest.skip("transformers 5.3 or later has Trainers that are measured", allow_module_level=True)

LENGTH, VOCABULARY, SAMPLES = 8, 64, 2
TOKENS = SAMPLES * LENGTH  # of a micro-batch
SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


class Texts(Dataset):
    """Texts of 8 tokens; with padding, sample number i ends in i % 4 tokens of it."""

    def __init__(self, length: int = 64, *, padding: bool = False) -> None:
        self.length, self.padding = length, padding

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(3, VOCABULARY, (LENGTH,), generator=generator)
        mask = torch.ones(LENGTH, dtype=torch.long)
        if self.padding:
            mask[LENGTH - index % 4 :] = 0
        return {"input_ids": ids, "labels": ids, **({"attention_mask": mask} if self.padding else {})}


def gpt2(**arguments: Any) -> nn.Module:
    """A GPT-2 with dropout, with the same weights every time."""
    set_seed(1)
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=LENGTH, **SIZES | arguments))


def llama() -> nn.Module:
    """A Llama with fewer heads of keys than of queries."""
    set_seed(1)
    return LlamaForCausalLM(LlamaConfig(**_BERT | SIZES, num_key_value_heads=1, max_position_embeddings=LENGTH))


def bert() -> nn.Module:
    """A BERT that predicts masked tokens."""
    set_seed(1)
    return BertForMaskedLM(BertConfig(**_BERT | SIZES, max_position_embeddings=LENGTH))


def make_callback(**arguments: Any) -> MFUTrainerCallback:
    """A callback that prints nothing."""
    return MFUTrainerCallback(**{"peak": PEAK, "warmup_steps": 1, "summary": None} | arguments)


def make_trainer(
    directory: Path | str,
    *callbacks: TrainerCallback,
    model: nn.Module | None = None,
    data: Dataset | None = None,
    kind: type[Trainer] = Trainer,
    **arguments: Any,
) -> Trainer:
    """A quiet Trainer on the CPU that takes eight steps and logs every second one."""
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    sizes = {"per_device_train_batch_size": SAMPLES, "max_steps": 8, "logging_steps": 2}
    return kind(
        gpt2() if model is None else model,
        TrainingArguments(str(directory), **quiet | sizes | arguments),
        train_dataset=Texts() if data is None else data,
        eval_dataset=Texts(8),
        callbacks=list(callbacks),
    )


def train(directory: Path | str, *callbacks: TrainerCallback, **arguments: Any) -> Trainer:
    """A Trainer of `make_trainer` that has trained."""
    trainer = make_trainer(directory, *callbacks, **arguments)
    trainer.train()
    return trainer


def losses_of(trainer: Trainer) -> Sequence[dict[str, Any]]:
    """The records of the loss in the Trainer's log."""
    return [record for record in trainer.state.log_history if "loss" in record]
