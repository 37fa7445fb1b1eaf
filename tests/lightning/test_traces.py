import copy
import pickle
import warnings

import pytest
import torch
import torch._dynamo.eval_frame
from lightning.pytorch import Callback, seed_everything
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils.data import DataLoader

from gpt import GPTModule
from mfu_callback import MFUCallback
from mfu_callback.tools.dynamo import SWITCH
from tests.helpers.runs import PEAK, SMALL_MODEL, TINY, TINY_FLOPS, Manual, fit, make_trainer, tiny_data
from tests.helpers.torch_features import global_hooks


def marks(trainer, module):
    """Where a bracket or a hook could be left."""
    loop = trainer.fit_loop.epoch_loop
    loops = (loop, loop.val_loop, loop.automatic_optimization, loop.manual_optimization)
    objects = (trainer, trainer.fit_loop, trainer._logger_connector, trainer.strategy, *loops, module)
    return (
        [sorted(name for name, value in vars(thing).items() if callable(value)) for thing in objects],
        [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        [len(optimizer._optimizer_step_post_hooks) for optimizer in trainer.optimizers],
        torch.utils._python_dispatch._get_current_dispatch_mode(),
        len(global_hooks()),
        [len(hooks) for hooks in (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)],
        getattr(torch._dynamo.eval_frame, SWITCH).__module__,
        list(warnings.filters),
    )


class Breaks(GPTModule):
    """Fails in a training step."""

    def __init__(self, at, error):
        super().__init__(TINY)
        self.at, self.error = at, error

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if batch_idx == self.at:
            raise self.error
        return loss


@pytest.mark.parametrize(("at", "modules"), [(0, False), (3, True), (5, False)])
@pytest.mark.parametrize("error", [ArithmeticError("broken"), KeyboardInterrupt()])
def test_nothing_stays_behind_when_the_run_breaks_off(at, modules, error):
    def run(*callbacks):
        trainer, module = make_trainer(*callbacks), Breaks(at, error)
        with pytest.raises((ArithmeticError, SystemExit)) as caught:
            trainer.fit(module, datamodule=tiny_data())
        return type(caught.value), marks(trainer, module)

    callback = MFUCallback(peak=PEAK, modules=modules)
    assert run(callback) == run()
    assert callback.summary.steps == {0: 0, 3: 0, 5: 2}[at]


def test_nothing_stays_behind_after_a_whole_run():
    def run(*callbacks):
        trainer, module = make_trainer(*callbacks), GPTModule(TINY)
        trainer.fit(module, datamodule=tiny_data())
        return marks(trainer, module)

    assert run(MFUCallback(peak=PEAK, modules=True)) == run()


class CopiesItself(GPTModule):
    """Keeps copies of itself from its very first batch on, as averaging and checkpointing callbacks do."""

    def __init__(self, path):
        super().__init__(TINY)
        self.path, self.copies = path, []

    def training_step(self, batch, batch_idx):
        self.copies.append(copy.deepcopy(self.model))
        pickle.loads(pickle.dumps(next(c for c in self.trainer.callbacks if isinstance(c, MFUCallback))))
        torch.save(self.model, self.path)
        self.copies.append(torch.load(self.path, weights_only=False))
        return super().training_step(batch, batch_idx)


def test_copies_made_in_the_first_batch_know_nothing_of_us(tmp_path):
    module = CopiesItself(tmp_path / "model.pt")
    callback, _ = fit(module, data=DataLoader([(torch.zeros(8, dtype=torch.long),) * 2] * 40, batch_size=4))
    assert callback.summary.flops.forward == TINY_FLOPS
    for duplicate in module.copies:
        assert [sorted(vars(part)) for part in duplicate.modules()] == [sorted(vars(p)) for p in module.model.modules()]
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in duplicate.modules())


class BackwardByHand(Manual):
    """Calls backward itself, past every hook of Lightning's."""

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        self.two(self.one(batch)).square().mean().backward()
        for optimizer in (first, second):
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_a_backward_called_by_hand_is_counted_and_changes_nothing():
    seed_everything(1, verbose=False)
    one = BackwardByHand()
    two = copy.deepcopy(one)
    make_trainer().fit(one)
    callback, _ = fit(two)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert callback.summary.flops.backward == 2 * 4 * (8 * 8 + 2 * 8 * 4)


class FailsOnException(Callback):
    def on_exception(self, trainer, pl_module, exception):
        raise LookupError("a callback before ours fails too")


def test_nothing_stays_behind_when_another_callbacks_on_exception_raises():
    def run(*callbacks):
        trainer, module = make_trainer(*callbacks), Breaks(0, ArithmeticError("broken"))
        with pytest.raises(LookupError):
            trainer.fit(module, datamodule=tiny_data())
        return marks(trainer, module)[3:]

    assert run(FailsOnException(), MFUCallback(peak=PEAK)) == run(FailsOnException())


def test_a_users_hooks_stay_and_see_the_same():
    seen = []
    module = GPTModule(TINY)
    module.model.register_forward_hook(lambda *_: seen.append("after"))
    module.model.register_forward_pre_hook(lambda *_: seen.append("before"))
    make_trainer(MFUCallback(peak=PEAK)).fit(module, datamodule=tiny_data())
    assert seen == ["before", "after"] * 8
