"""Tokens are the integers that a model looks up: real runs of models on batches in the layouts that people use."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

from mfu_callback import MFUCallback
from tests.helpers.runs import PEAK, SMALL_MODEL, make_trainer

B, T = 4, 10
pytestmark = pytest.mark.filterwarnings(SMALL_MODEL)


class Run(LightningModule):
    """Trains on what ``loss`` makes of a batch.

    Args:
        batch: Every batch.
        loss: Called with the module and the batch.
    """

    def __init__(self, batch, loss):
        super().__init__()
        self.batch, self.loss = batch, loss
        self.table, self.tables = nn.Embedding(32, 8), nn.ModuleList(nn.Embedding(9, 8) for _ in range(26))
        self.by_hand, self.layer = nn.Parameter(torch.ones(32, 8)), nn.Linear(8, 8)

    def training_step(self, batch, batch_idx):
        return self.loss(self, batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return DataLoader([self.batch] * 8, batch_size=None)

    def of(self, ids):
        return self.layer(self.table(ids)).square().mean()

    def of_columns(self, ids):
        return self.layer(sum(table(ids[:, column]) for column, table in enumerate(self.tables))).square().mean()


def ids(*shape):
    return torch.zeros(*(shape or (B, T)), dtype=torch.long)


def run(batch, loss, **arguments):
    callback = MFUCallback(peak=PEAK, warmup_steps=0, **arguments)
    make_trainer(callback, max_steps=5).fit(Run(batch, loss))
    return callback.summary


LABELS = torch.zeros(B, dtype=torch.long)
JAGGED = torch.nested.nested_tensor([torch.zeros(5).long(), torch.zeros(3).long()], layout=torch.jagged)


@pytest.mark.parametrize(
    ("batch", "loss", "tokens"),
    [
        ({"x": ids(), "y": ids()}, lambda m, b: m.of(b["x"]), B * T),
        ({"inputs": ids(), "targets": ids()}, lambda m, b: m.of(b["inputs"]), B * T),
        ((LABELS, ids()), lambda m, b: m.of(b[1]), B * T),
        (ids(B, T + 1), lambda m, b: m.of(b[:, :-1]), B * T),
        ({"text": ids(B, T + 1)}, lambda m, b: m.of(b["text"][:, 1:].contiguous()), B * T),
        (ids(B, T + 4), lambda m, b: m.of(b[:, :-4]), B * T),
        (ids().int(), lambda m, b: m.of(b.long()), B * T),
        (ids(), lambda m, b: m.of(b.flatten()), B * T),
        (ids(T, B), lambda m, b: m.of(b.t()), B * T),
        (ids(), lambda m, b: m.of(b[:1]) + m.of(b[1:]), B * T),
        (ids(B, T + 1), lambda m, b: m.of(b[:1, :-1]) + m.of(b[1:, :-1]), B * T),
        ((ids(B, 1), LABELS), lambda m, b: m.of(b[0]), B),  # a rank's part of a short sequence
        (ids(B, 6, 6), lambda m, b: m.of(b), B * 36),
        (SimpleNamespace(data={"words": ids()}, lengths=LABELS), lambda m, b: m.of(b.data["words"]), B * T),
        ((ids(), ids(B, 2 * T)), lambda m, b: m.of(b[0]) + m.of(b[1]), B * 2 * T),
        ({"input_ids": ids(), "labels": ids(B, 2 * T)}, lambda m, b: m.of(b["input_ids"]) + m.of(b["labels"]), B * T),
        ({"input_ids": ids(B * T)}, lambda m, b: m.of(b["input_ids"]), B * T),
        (ids(), lambda m, b: m.layer(m.by_hand[b]).square().mean(), B * T),
        (ids(), lambda m, b: m.layer(m.by_hand.index_select(0, b.flatten())).square().mean(), B * T),
        (ids(), lambda m, b: m.of(b) + m.of(torch.arange(T)), B * T),
        (JAGGED, lambda m, b: m.layer(m.table(b)).values().square().mean(), 8),
        # No tokens: categories, classes, and numbers that happen to be integers.
        ((ids(B, 26), LABELS), lambda m, b: m.of_columns(b[0]), None),
        (ids(B, 26), lambda m, b: m.layer(b.float()[:, :8]).square().mean(), None),
        ((torch.ones(B, 8), LABELS), lambda m, b: m.layer(b[0] + m.table(b[1])).square().mean(), None),
        ((torch.ones(B, 8), ids(B, 1)), lambda m, b: m.layer(b[0] + m.table(b[1])[:, 0]).square().mean(), None),
        # A name is believed where nothing is looked up.
        ({"tokens": ids()}, lambda m, b: m.layer(torch.ones(3, 8) * len(b)).square().mean(), B * T),
    ],
)
def test_tokens_are_what_the_model_looks_up(batch, loss, tokens):
    summary = run(batch, loss)
    assert summary.steps == 4
    assert summary.tokens == (None if tokens is None else 4 * tokens)


def test_what_is_taken_for_tokens_is_said_once(caplog):
    with caplog.at_level("INFO"):
        run({"x": ids(B, T + 1), "y": LABELS}, lambda m, b: m.of(b["x"][:, :-1]))
    said = "MFUCallback: 40 tokens in a batch: those in batch['x'], which the model looks up without the last 1 of each"
    assert caplog.text.count(said) == 1


def test_integers_that_are_no_tokens_are_named_with_the_remedy(caplog):
    with caplog.at_level("INFO"):
        run((ids(B, 26), LABELS), lambda m, b: m.of_columns(b[0]))
    assert caplog.text.count("so they are not taken for tokens; pass tokens= if they are") == 1


def test_a_batch_without_integers_is_not_spoken_of(caplog):
    with caplog.at_level("INFO"):
        run(torch.ones(B, 8), lambda m, b: m.layer(b).square().mean())
    assert "token" not in caplog.text.replace("tokens/sec", "")


def test_given_tokens_are_believed(caplog):
    with caplog.at_level("INFO"):
        summary = run({"x": ids()}, lambda m, b: m.of(b["x"]), tokens=7)
    assert summary.tokens == 4 * 7
    assert "tokens in a batch" not in caplog.text


def test_every_shape_has_its_own_number():
    module = Run(None, lambda m, b: m.of(b["x"][:, :-1]))
    lengths = [10, 5, 5, 10, 7, 10, 7]
    module.train_dataloader = lambda: DataLoader([{"x": ids(B, length + 1)} for length in lengths], batch_size=None)
    callback = MFUCallback(peak=PEAK, warmup_steps=0)
    make_trainer(callback, max_steps=7).fit(module)
    assert callback.summary.tokens == B * (5 + 10 + 10 + 7)


def test_compiled_code_shows_what_it_looks_up():
    module = Run({"x": ids(), "y": LABELS}, lambda m, b: m.compiled(b["x"]))
    module.compiled = torch.compile(module.of, backend="eager")
    callback = MFUCallback(peak=PEAK, warmup_steps=0)
    make_trainer(callback, max_steps=5).fit(module)
    assert callback.summary.tokens == 4 * B * T


def test_padding_is_told_by_the_mask_beside_the_ids_that_are_looked_up():
    mask = torch.ones(B, T)
    mask[:, 6:] = 0
    config = GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    batch = {"ids": ids(), "attention_mask": mask}
    module = Run(batch, lambda m, b: m.gpt(b["ids"], attention_mask=b["attention_mask"]).logits.square().mean())
    module.gpt = GPT2LMHeadModel(config)
    callback = MFUCallback(peak=PEAK, warmup_steps=0)
    make_trainer(callback, max_steps=5).fit(module)
    summary = callback.summary
    assert summary.tokens == 4 * B * T
    assert summary.real_tokens_per_sec / summary.tokens_per_sec == pytest.approx(0.6)
