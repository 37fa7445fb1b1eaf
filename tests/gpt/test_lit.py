from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor

from gpt import GPTConfig, GPTModule, TextFile, get_config

TINY = GPTConfig(n_layer=2, n_head=2, n_embd=32, vocab_size=256, context_length=32)
CORPUS = Path(__file__).parents[2] / "LICENSE"

pytestmark = [
    # Lightning recommends data workers; these runs are over before one would have started.
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    # Lightning 2.6 asks torch 2.13 for a type that is on its way out.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


def make_trainer(**options: object) -> Trainer:
    defaults: dict[str, object] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return Trainer(**{**defaults, **options})


def corpus(**options: int) -> TextFile:
    return TextFile(CORPUS, batch_size=4, context_length=32, **options)


class RecordLoss(GPTModule):
    """Keeps the loss of every step."""

    def on_fit_start(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, outputs: dict[str, Tensor], batch: object, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].item())


def test_the_loss_falls_on_a_real_text() -> None:
    seed_everything(0, verbose=False)
    module = RecordLoss(TINY, learning_rate=1e-2)
    trainer = make_trainer(max_steps=40)

    trainer.fit(module, corpus())

    assert module.losses[0] == pytest.approx(5.545, abs=0.05)  # ln 256: it knows nothing yet
    assert sum(module.losses[-8:]) / 8 < 4.0
    assert trainer.callback_metrics["train/loss"].item() == pytest.approx(module.losses[-1])
    assert 0 < trainer.callback_metrics["val/loss"].item() < 5.0


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "bf16-mixed"])
def test_it_trains_in_every_precision_with_and_without_clipping(precision: str, clip: float | None) -> None:
    module = GPTModule(TINY)
    before = [parameter.detach().float().clone() for parameter in module.parameters()]

    trainer = make_trainer(max_steps=2, precision=precision, gradient_clip_val=clip, limit_val_batches=1)
    trainer.fit(module, corpus())

    assert trainer.global_step == 2
    after = [parameter.detach().float() for parameter in module.parameters()]
    assert all(torch.isfinite(weight).all() for weight in after)
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True) if old.ndim > 1)


def test_only_matrices_decay() -> None:
    module = GPTModule(TINY, weight_decay=0.3)

    decayed, plain = module.configure_optimizers().param_groups

    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert {parameter.ndim for parameter in decayed["params"]} == {2}
    assert {parameter.ndim for parameter in plain["params"]} == {1}
    assert len(decayed["params"]) + len(plain["params"]) == len(list(module.parameters()))


def test_frozen_parameters_are_left_to_nobody() -> None:
    module = GPTModule(TINY)
    module.model.token_embedding.requires_grad_(False)

    groups = module.configure_optimizers().param_groups

    frozen = module.model.token_embedding.weight
    assert all(parameter is not frozen for group in groups for parameter in group["params"])


def test_the_optimizer_is_fused_where_there_is_a_kernel() -> None:
    assert GPTModule(TINY).configure_optimizers().defaults["fused"] is True
    with torch.device("meta"):
        on_meta = GPTModule(TINY)
    assert on_meta.configure_optimizers().defaults["fused"] is False


def test_the_optimizer_has_the_arguments_given() -> None:
    defaults = GPTModule(TINY, learning_rate=0.5, betas=(0.8, 0.99)).configure_optimizers().defaults

    assert (defaults["lr"], defaults["betas"]) == (0.5, (0.8, 0.99))


def test_a_size_is_given_by_name() -> None:
    with torch.device("meta"):
        assert GPTModule("gpt-medium").model.config == get_config("gpt-medium")


def test_an_unknown_size_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'gpt-huge'.*gpt-small"):
        GPTModule("gpt-huge")


@pytest.mark.filterwarnings("ignore:You are using `torch.load` with `weights_only=False`:FutureWarning")
def test_a_checkpoint_brings_the_module_back(tmp_path: Path) -> None:
    module = GPTModule(TINY, learning_rate=0.01, weight_decay=0.2, betas=(0.8, 0.9))
    trainer = make_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(module, corpus())
    trainer.save_checkpoint(tmp_path / "gpt.ckpt")

    restored = GPTModule.load_from_checkpoint(tmp_path / "gpt.ckpt", map_location="cpu")

    assert restored.model.config == TINY
    optimizer = restored.configure_optimizers()
    assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (0.01, (0.8, 0.9))
    assert optimizer.param_groups[0]["weight_decay"] == 0.2
    assert restored.model.head.weight is restored.model.token_embedding.weight
    state = module.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in restored.state_dict().items())
