"""What Hugging Face's Trainer does is the same with and without the callback, also when it is broken off."""

import sys

import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import _get_current_dispatch_mode
from transformers import TrainerCallback

from tests.helpers.torch_features import needs
from tests.helpers.trainer_runs import TOKENS, Texts, losses_of, make_callback, make_trainer, train

OPTIMIZERS = sys.modules["torch.optim.optimizer"]  # torch.optim hides it
RUNS = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 3},
    "bf16": {"bf16": True},
    "without clipping": {"max_grad_norm": 0.0},
    "checkpointing": {"activation_checkpointing": True},
    "evaluation": {"eval_strategy": "steps", "eval_steps": 3},
    "epochs": {"max_steps": -1, "num_train_epochs": 2, "data": Texts(12)},
    "SGD": {"optim": "sgd"},
}


def ends(trainer):
    """What a training ends with."""
    losses = [(one["step"], one["loss"], one["grad_norm"]) for one in losses_of(trainer)]
    return {**trainer.model.state_dict(), "random": torch.random.get_rng_state()}, losses


def assert_same(one, two):
    (weights, losses), (other_weights, other_losses) = one, two
    assert list(weights) == list(other_weights)
    assert all(torch.equal(value, other_weights[name]) for name, value in weights.items())
    assert losses == other_losses


@pytest.mark.parametrize("run", RUNS)
def test_a_training_ends_in_the_same_weights_and_the_same_random_state(run, tmp_path):
    sampling = {"modules": True, "operators": True, "warmup_steps": 0} if run == "accumulation" else {}
    callback = make_callback(**sampling)
    assert_same(ends(train(tmp_path, callback, **RUNS[run])), ends(train(tmp_path, **RUNS[run])))
    assert callback.summary.steps > 0


def compiled(directory, *callbacks):
    """What a compiled training ends with, and what Dynamo counts of it."""
    torch._dynamo.reset()
    counters.clear()
    trainer = train(directory, *callbacks, torch_compile=True, torch_compile_backend="eager")
    return ends(trainer), {name: dict(counters[name]) for name in ("stats", "frames")}


# Dynamo asks every tensor for its gradient, which torch warns of.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@needs("torch.compiler.is_exporting", "2.7")  # transformers 5 asks for it
def test_a_compiled_model_is_counted_and_its_graphs_are_the_same(tmp_path):
    callback, plain = make_callback(), make_callback()
    (end, graphs), (other_end, other_graphs) = compiled(tmp_path, callback), compiled(tmp_path)
    assert graphs == other_graphs
    assert graphs["stats"]["unique_graphs"] > 0
    assert_same(end, other_end)
    train(tmp_path, plain)
    assert callback.summary.flops.forward == plain.summary.flops.forward
    assert (callback.summary.steps, callback.summary.circumstances.is_compiled) == (7, True)


class RaisedError(Exception):
    pass


def raising(*_, **__):
    raise RaisedError


def interrupted(*_, **__):
    raise KeyboardInterrupt


class RaisingCallback(TrainerCallback):
    """Raises at an event."""

    def __init__(self, event):
        setattr(self, event, raising)


def in_the_model(trainer):
    calls = iter(range(5))
    trainer.model.register_forward_pre_hook(lambda *_: None if next(calls, None) is not None else raising())


def in_the_first_step(trainer):
    trainer.model.register_forward_pre_hook(raising)


def in_the_optimizer(trainer):
    calls = iter(range(5))
    trainer.create_optimizer().register_step_pre_hook(lambda *_: None if next(calls, None) is not None else raising())


def in_the_data(trainer):
    trainer.train_dataset.__class__ = type("Raising", (Texts,), {"__getitem__": interrupted})


def in_the_backward_pass(trainer):
    next(trainer.model.parameters()).register_hook(interrupted)


def at_the_event(event):
    def prepare(trainer):
        trainer.add_callback(RaisingCallback(event))

    prepare.__name__ = event
    return prepare


EVENTS = ["on_epoch_begin", "on_step_begin", "on_pre_optimizer_step", "on_step_end", "on_log", "on_epoch_end"]
EVENTS += ["on_evaluate", "on_save", "on_prediction_step"]
PLACES = [in_the_model, in_the_first_step, in_the_optimizer, in_the_data, in_the_backward_pass]
PLACES += [at_the_event(event) for event in EVENTS]


def traces(trainer):
    """What a callback could leave behind."""
    hooks = [len(one._forward_pre_hooks) + len(one._forward_hooks) for one in trainer.model.modules()]
    return (
        [sorted(vars(one)) for one in (trainer, trainer.accelerator, trainer.callback_handler, trainer.model)],
        torch.autograd.backward.__module__,
        _get_current_dispatch_mode(),
        len(OPTIMIZERS._global_optimizer_pre_hooks) + len(OPTIMIZERS._global_optimizer_post_hooks),
        hooks,
    )


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_an_exception_reaches_the_user_and_leaves_nothing_behind(place, tmp_path):
    arguments = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4}

    def broken_off(*callbacks):
        trainer = make_trainer(tmp_path, *callbacks, data=Texts(), **arguments)
        place(trainer)
        with pytest.raises((RaisedError, KeyboardInterrupt)):
            trainer.train()
        return trainer

    callback = make_callback()
    assert traces(broken_off(callback)) == traces(broken_off())
    steps_before = {in_the_model: 3, in_the_optimizer: 4}  # of the model's five calls, one is an evaluation
    if place in steps_before:
        assert callback.summary.steps == steps_before[place]


def test_the_next_training_is_measured_after_one_that_was_broken_off(tmp_path):
    callback = make_callback()
    trainer = make_trainer(tmp_path, callback)
    handle = trainer.model.register_forward_pre_hook(raising)
    with pytest.raises(RaisedError):
        trainer.train()
    assert callback.summary is None
    handle.remove()
    trainer.train()
    assert callback.summary.steps == 7


def test_nothing_is_left_behind_after_two_trainings(tmp_path):
    def twice(*callbacks):
        trainer = train(tmp_path, *callbacks)
        trainer.train()
        return trainer

    assert traces(twice(make_callback(modules=True))) == traces(twice())


def test_a_training_that_is_resumed_ends_in_the_same_weights(tmp_path):
    def resumed(directory, *callbacks):
        train(directory, save_strategy="steps", save_steps=5, data=Texts(8), max_steps=8)
        trainer = make_trainer(directory, *callbacks, data=Texts(8), max_steps=8)
        trainer.train(resume_from_checkpoint=str(directory / "checkpoint-5"))
        return ends(trainer)

    callback = make_callback()
    assert_same(resumed(tmp_path / "with", callback), resumed(tmp_path / "without"))
    assert (callback.summary.steps, callback.summary.tokens) == (2, 2 * TOKENS)
