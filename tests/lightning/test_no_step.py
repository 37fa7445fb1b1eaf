"""Runs that measure no step say the true reason."""

from __future__ import annotations

import pytest

from mfu_callback import MFUCallback
from tests.helpers.runs import PEAK, Step, make_trainer, two_layers

GIVE = "or pass flops= per token or as a function of the batch, so that nothing is counted."


class Evaluated(Step):
    """Is validated on its batches too."""

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)

    def val_dataloader(self):
        return self.train_dataloader()


def of_rows(*rows: int) -> Evaluated:
    """A model with a batch of each number of rows."""
    return Evaluated(two_layers(), sizes=[(number, 8) for number in rows])


@pytest.mark.filterwarnings("ignore:The backward pass of this model takes")
@pytest.mark.parametrize(
    ("rows", "warmup_steps", "parts", "why"),
    [
        (
            (4, 5, 6, 7),
            0,
            {"counting": 4},
            "each of the 4 steps counted FLOPs, as a batch of a new shape needs, so they are left out. Pad batches to a"
            f" few shapes, {GIVE}",
        ),
        (
            (4, 5, 6),
            1,
            {"warmup": 1, "counting": 2},
            "each of the 2 steps after the warm-up counted FLOPs, as a batch of a new shape needs, so they are left"
            f" out. Pad batches to a few shapes, {GIVE}",
        ),
        (
            (4,),
            0,
            {"counting": 1},
            f"the only step counted FLOPs, as a batch of a new shape needs, so it is left out. Train longer, {GIVE}",
        ),
        ((4, 4), 3, {"warmup": 2}, "the first 3 are warm-up. Train longer, or lower warmup_steps."),
        ((4,), 1, {"warmup": 1}, "the first is warm-up. Train longer, or lower warmup_steps."),
    ],
)
def test_a_fit_says_what_its_steps_were(rows, warmup_steps, parts, why, capsys):
    callback = MFUCallback(peak=PEAK, warmup_steps=warmup_steps, summary="line")
    make_trainer(callback, max_steps=len(rows), limit_val_batches=0).fit(of_rows(*rows))
    assert (callback.summary.steps, callback.summary.steps_by_part) == (0, parts)
    assert capsys.readouterr().out == f"MFUCallback measured no step: {why}\n"


def test_a_validation_says_what_its_batches_were(capsys):
    callback = MFUCallback(peak=PEAK, warmup_steps=0, summary="line")
    make_trainer(callback).validate(of_rows(4, 5, 6), verbose=False)
    assert callback.evaluations["validate"].steps_by_part == {"counting": 3}
    assert capsys.readouterr().out == (
        "MFUCallback measured no batch of validate: each of the 3 batches counted FLOPs, as a batch of a new shape"
        f" needs, so they are left out. Pad batches to a few shapes, {GIVE}\n"
    )


@pytest.mark.filterwarnings("ignore:The backward pass of this model takes")
def test_the_steps_of_a_fit_by_what_they_were():
    callback = MFUCallback(peak=PEAK, warmup_steps=2, summary=None)
    make_trainer(callback, max_steps=7, limit_val_batches=0).fit(of_rows(4, 4, 4, 5, 4, 5, 4))
    assert callback.summary.steps_by_part == {"warmup": 2, "counting": 1, "training": 4}
    assert callback.summary.steps == 4
