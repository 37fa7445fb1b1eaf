"""Optimizers that call closures, compute on their own, or are stepped past Lightning."""

import pytest
import torch

from mfu_callback.meter.clock import HostTimer
from tests.helpers.runs import PEAK, SMALL_MODEL, FakeNow, Step, fit, two_layers


class ManyClosures(Step):
    """LBFGS calls the closure up to three times a step."""

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), max_iter=2, max_eval=3, tolerance_grad=0, tolerance_change=0)


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_every_closure_of_an_optimizer_is_counted_and_its_tokens_once(monkeypatch):
    now, calls = FakeNow(), []
    monkeypatch.setattr("mfu_callback.lightning.run.timer_for", lambda device: HostTimer(now))

    class Counted(ManyClosures):
        def training_step(self, batch, batch_idx):
            now.seconds += 1.0
            calls.append(batch_idx)
            return super().training_step(batch, batch_idx)

    callback, _ = fit(Counted(two_layers()), max_steps=3)
    measured = len([batch_idx for batch_idx in calls if batch_idx > 0])
    assert measured > callback.summary.steps == 2
    assert callback.summary.flops.forward == 2 * 4 * (64 + 32)
    assert callback.summary.mfu * PEAK * measured == pytest.approx(3 * 2 * 4 * (64 + 32) * measured)
    assert callback.summary.samples_per_sec * measured == pytest.approx(4 * 2)


class Muon(torch.optim.Optimizer):
    """Orthogonalizes its gradients with matmuls, as Muon does."""

    def __init__(self, parameters):
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for parameter in self.param_groups[0]["params"]:
            if parameter.dim() == 2 and parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad @ parameter.grad.T @ parameter.grad
        return loss


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.filterwarnings(SMALL_MODEL)
def test_an_optimizers_own_matmuls_are_not_the_models(automatic):
    class WithMuon(Step):
        automatic_optimization = automatic

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if not automatic:
                self.optimizers().zero_grad()
                self.manual_backward(loss)
                self.optimizers().step()
            return loss

        def configure_optimizers(self):
            return Muon(self.parameters())

    callback, _ = fit(WithMuon(two_layers()))
    assert callback.summary.flops.forward == 2 * 4 * (64 + 32)
    assert callback.summary.flops.backward == 2 * 4 * (64 + 2 * 32)


class PastLightning(Step):
    """Steps its optimizer past Lightning, which then sees no step at all."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        super().training_step(batch, batch_idx).backward()
        optimizer.step()


@pytest.mark.filterwarnings(SMALL_MODEL)
def test_an_optimizer_stepped_past_lightning_still_ends_a_step():
    callback, trainer = fit(PastLightning(two_layers()), max_epochs=1, max_steps=-1, limit_train_batches=6)
    assert trainer.global_step == 0
    assert callback.summary.steps == 5
