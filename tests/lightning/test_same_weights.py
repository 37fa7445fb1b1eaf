"""200 steps end in bit-identical weights with and without the callback; on several processes: test_distributed.py."""

import copy
from dataclasses import replace

import lightning.pytorch.callbacks
import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from gpt import GPTModule
from mfu_callback import MFUCallback
from tests.helpers.runs import PEAK, SMALL_MODEL, TINY, Manual, counted_again, make_trainer, tiny_data, train_tiny

STEPS = 200
RUNS = {
    "plain": {},  # with dropout, as all of them but the compiled one
    "accumulation": {"accumulate_grad_batches": 4},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "bf16-true": {"precision": "bf16-true"},
    "clipping": {"gradient_clip_val": 0.01},
    "validation in the middle": {"val_check_interval": 7, "limit_val_batches": 1},
    "max_epochs": {"max_epochs": 2, "limit_train_batches": 0.5},
}


def same(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("sync", ["step", "window"])
@pytest.mark.parametrize("run", RUNS)
def test_the_weights_are_those_of_a_run_without_the_callback(run, sync):
    arguments = {"max_steps": STEPS} | RUNS[run]
    callback = MFUCallback(peak="measured" if run == "plain" else PEAK, modules=run != "clipping", sync=sync)
    assert same(train_tiny(callback, **arguments).state_dict(), train_tiny(**arguments).state_dict())
    assert callback.summary.steps > 0


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_manual_optimization_ends_in_the_same_weights():
    seed_everything(1, verbose=False)
    one = Manual()
    two = copy.deepcopy(one)
    make_trainer(max_steps=STEPS).fit(one)
    make_trainer(MFUCallback(peak=PEAK, modules=True), max_steps=STEPS).fit(two)
    assert same(two.state_dict(), one.state_dict())


@pytest.mark.skipif(
    not hasattr(lightning.pytorch.callbacks, "EMAWeightAveraging"),
    reason="this version of Lightning has no EMA callback",
)
@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback with a model that overrides")  # the GPT's
@pytest.mark.parametrize("ours_first", [True, False])
def test_an_average_of_the_weights_beside_us_is_the_same(ours_first):
    def averaged(*callbacks):
        ema = lightning.pytorch.callbacks.EMAWeightAveraging(decay=0.9)
        ordered = (*callbacks, ema) if ours_first else (ema, *callbacks)
        return train_tiny(*ordered, max_steps=STEPS).state_dict(), ema._average_model.state_dict()

    (weights, average), (plain_weights, plain_average) = averaged(MFUCallback(peak=PEAK, modules=True)), averaged()
    assert same(weights, plain_weights)
    assert same(average, plain_average)


def compiled(*callbacks):
    torch._dynamo.reset()
    seed_everything(1, verbose=False)
    module = GPTModule(replace(TINY, dropout=0.0))
    module.model.compile()
    make_trainer(*callbacks, max_steps=STEPS).fit(module, datamodule=tiny_data())
    return module.state_dict()


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_weights_are_the_same_wherever_two_runs_without_us_agree():
    plain, again = compiled(), compiled()
    assert same(plain, again)
    assert same(compiled(MFUCallback(peak=PEAK, modules=True)), plain)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended:UserWarning")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create:UserWarning")
def test_a_run_that_is_resumed_in_the_middle_of_an_epoch_ends_in_the_same_weights(tmp_path):
    def resumed(directory, *callbacks):
        first = ModelCheckpoint(directory, every_n_train_steps=130, save_top_k=-1)
        train_tiny(first, *copy.deepcopy(callbacks), max_steps=130, enable_checkpointing=True)
        module = GPTModule(TINY)
        trainer = make_trainer(*callbacks, max_steps=STEPS)
        trainer.fit(module, datamodule=tiny_data(), ckpt_path=next(directory.glob("*.ckpt")))
        assert trainer.global_step == STEPS
        return module.state_dict()

    callback = MFUCallback(peak=PEAK)
    assert same(resumed(tmp_path / "with", callback), resumed(tmp_path / "without"))
    measured = STEPS - 130 - 3 - counted_again(STEPS - 130)
    assert (callback.summary.steps, callback.summary.tokens) == (measured, 32 * measured)
