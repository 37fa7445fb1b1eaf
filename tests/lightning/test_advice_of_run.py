"""Real runs that are slow for a known reason, the advice that they get, and what is known of their settings."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from mfu_callback.lightning.circumstances import circumstances_of
from scripts.checks import advice as check
from tests.helpers.runs import Manual, Step, fit, make_trainer, two_layers

OF_TWO = ("slow-data-of-a-rank", "slow-device", "late-in-turn", "slow-collective")
ALONE = [cause for cause in check.CAUSES if cause.name not in OF_TWO]


@pytest.fixture(autouse=True)
def threads():
    """A cause is a number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def in_one_of_three(is_right):
    """Whether a run comes out right. What else runs on the machine may be a larger cause than the one provoked."""
    return any(is_right() for _ in range(3))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_there", [True, False], ids=["there", "not there"])
@pytest.mark.parametrize("cause", ALONE, ids=lambda cause: cause.name)
def test_a_cause_is_named_where_it_is_there_and_nowhere_else(cause, is_there):
    if not cause.is_possible():
        pytest.skip("this machine cannot provoke it")
    assert in_one_of_three(lambda: check.is_named(cause, cause.run(is_there) or "") is is_there)


@pytest.mark.parametrize("name", OF_TWO)
def test_a_cause_between_two_processes_is_named(name):
    (cause,) = (one for one in check.CAUSES if one.name == name)
    assert in_one_of_three(lambda: check.is_named(cause, check.in_own_process(name, "with")["advice"]))


@pytest.mark.filterwarnings("ignore")
def test_a_run_without_a_cause_is_told_of_none():
    def is_told_of_none():
        advice = check.no_cause(False) or ""
        return not any(check.is_named(cause, advice) for cause in check.CAUSES)

    assert in_one_of_three(is_told_of_none)


def known_of(module, *callbacks, **arguments):
    """The circumstances of a real run."""
    measured, _ = fit(module, *callbacks, **{"max_steps": 3} | arguments)
    return measured.summary.circumstances


def test_the_settings_of_a_run_are_known():
    known = known_of(Step(two_layers()), check.Sleeping())
    assert (known.device, known.num_workers, known.pin_memory, known.batch_size) == ("cpu", 0, False, 4)
    assert (known.unfused, known.is_compiled, known.modules) == (("SGD",), False, 2)
    assert (known.log_every_n_steps, known.callbacks) == (None, ("Sleeping",))
    assert known.cores >= 1


def test_the_settings_are_in_the_record(monkeypatch):
    # Which dtype is fast depends on the machine, and is not what this is about.
    monkeypatch.setattr("mfu_callback.meter.peak_of_run.rates_in_training", lambda *_, **__: {})
    measured, _ = fit(Step(two_layers()), max_steps=3)
    figures = measured.summary.as_dict()
    assert figures["circumstances"]["num_workers"] == 0
    assert (figures["hints"], figures["hint_times"]) == ([], [])


class Loaders(Step):
    """Loads by whatever it is given, and counts how often it is asked."""

    def __init__(self, loaders):
        super().__init__(two_layers())
        self.loaders, self.asked = loaders, 0

    def train_dataloader(self):
        self.asked += 1
        return self.loaders

    def unwrap(self, batch):
        return batch["a"] if isinstance(batch, dict) else batch


class Plain:
    """Batches from something else than torch's loader."""

    def __iter__(self):
        return iter([torch.ones(4, 8)] * 20)


def loader(workers):
    data = [torch.ones(4, 8)] * 20
    return DataLoader(data, batch_size=None, num_workers=workers, persistent_workers=workers > 0)


@pytest.mark.parametrize(
    ("loaders", "workers"),
    [({"a": loader(1), "b": loader(0)}, 0), (loader(1), 1), (Plain(), None)],
    ids=["several", "one", "no loader of torch's"],
)
def test_of_several_loaders_the_fewest_workers_count_and_no_loader_is_made_again(loaders, workers):
    module = Loaders(loaders)
    assert known_of(module).num_workers == workers
    assert module.asked == 1


@pytest.mark.parametrize(
    ("kind", "options", "unfused"),
    [
        (torch.optim.AdamW, {}, ("AdamW",)),
        (torch.optim.AdamW, {"foreach": True}, ("AdamW",)),
        (torch.optim.AdamW, {"fused": True}, ()),
        (torch.optim.Adadelta, {}, ()),
    ],
)
def test_an_optimizer_that_could_be_fused_is_known(kind, options, unfused):
    class Optimized(Step):
        def configure_optimizers(self):
            return kind(self.parameters(), lr=1e-3, **options)

    assert known_of(Optimized(two_layers())).unfused == unfused


@pytest.mark.filterwarnings("ignore:.*backward pass of this model")
def test_several_optimizers_of_a_class_are_named_once():
    assert known_of(Manual()).unfused == ("SGD",)


def test_where_gradients_are_unscaled_before_they_are_clipped_no_optimizer_can_be_fused():
    trainer = make_trainer(gradient_clip_val=1.0)
    module = Step(two_layers())
    trainer.strategy.connect(module)
    trainer.strategy.optimizers = [module.configure_optimizers()]
    assert circumstances_of(trainer, module, batch_size=None).unfused == ("SGD",)
    trainer.precision_plugin.scaler = object()
    assert circumstances_of(trainer, module, batch_size=None).unfused == ()


def compiled_in_place(network):
    network.compile(backend="eager")
    return network


@pytest.mark.parametrize(
    ("network", "is_compiled"),
    [
        (two_layers, False),
        (lambda: torch.compile(two_layers(), backend="eager"), True),
        (lambda: compiled_in_place(two_layers()), True),
        (lambda: nn.Sequential(two_layers(), compiled_in_place(nn.Linear(4, 4))), True),
    ],
    ids=["no", "wrapped", "in place", "a part"],
)
def test_a_model_that_is_compiled_is_known_to_be(network, is_compiled):
    assert circumstances_of(make_trainer(), Step(network()), batch_size=1).is_compiled is is_compiled


def test_a_whole_module_that_is_compiled_is_known_to_be():
    measured, _ = fit(torch.compile(Step(two_layers()), backend="eager"), max_steps=3)
    assert measured.summary.circumstances.is_compiled


def test_what_cannot_be_found_out_is_unknown_and_costs_nothing_else():
    broken = SimpleNamespace(num_devices=1)
    known = circumstances_of(broken, Step(two_layers()), batch_size=7)
    assert (known.device, known.num_workers, known.unfused, known.callbacks) == (None, None, None, None)
    assert (known.batch_size, known.modules, known.is_compiled) == (7, 2, False)
