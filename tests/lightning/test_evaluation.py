import copy
import csv
import functools
import pickle
from pathlib import Path

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mfu_callback import MFUCallback
from tests.helpers.evaluated import STAGES, Evaluated, Line, evaluate, figures_of, token_batches
from tests.helpers.runs import PEAK, TINY_FLOPS, make_trainer
from tests.lightning.test_traces import marks

LOGGED = {
    "throughput/tokens_per_sec",
    "throughput/samples_per_sec",
    "throughput/device/tokens_per_sec",
    "throughput/device/tflops_per_sec",
    "throughput/mfu",
    "time/step_sec",
    *(f"waterfall/{part}" for part in ("mfu", "unreachable", "kernels", "data", "other")),
}
NO_ITERATOR = ("ignore:You are using the `dataloader_iter` step flavor", "ignore:Found `dataloader_iter`")


def rows_of(logger):
    with open(f"{logger.log_dir}/metrics.csv") as file:
        return list(csv.DictReader(file))


def names_in(row):
    return {name for name, value in row.items() if value} - {"step"}


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_logs_its_values_once_under_its_name_to_every_logger(stage, tmp_path):
    table, board = CSVLogger(tmp_path), TensorBoardLogger(tmp_path)
    callback = MFUCallback(peak=PEAK)
    trainer = make_trainer(callback, logger=[table, board])
    evaluate(stage, Evaluated(), trainer)
    figures = figures_of(callback, stage)
    assert (figures.stage, figures.steps, figures.tokens) == (stage, 5, 5 * 32)  # 8 less the warm-up of 3
    tags = {f"{stage}/{tag}" for tag in LOGGED}
    (row,) = (row for row in rows_of(table) if f"{stage}/throughput/mfu" in names_in(row))
    assert names_in(row) == tags
    assert {name for name in trainer.callback_metrics if name.startswith(f"{stage}/")} - {"test/loss"} == tags
    events = EventAccumulator(board.log_dir)
    events.Reload()
    (event,) = events.Scalars(f"{stage}/throughput/mfu")
    assert event.value == pytest.approx(figures.mfu)
    parts = [value for tag, value in row.items() if "/waterfall/" in tag]
    assert sum(map(float, parts)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("model", "flops"), [(Evaluated, TINY_FLOPS), (Line, Line.forward_flops)])
def test_a_forward_pass_alone_is_counted(model, flops, stage, inference_mode):
    callback = MFUCallback(peak=PEAK, warmup_steps=0)
    evaluate(stage, model(), make_trainer(callback, inference_mode=inference_mode))
    figures = figures_of(callback, stage)
    assert (figures.flops.forward, figures.flops.backward, figures.flops.complete) == (flops, None, True)
    assert figures.steps == 7  # 8 less the counted one
    assert figures.mfu == pytest.approx(flops * figures.samples_per_sec / 4 / PEAK)
    assert figures.conventions == "attention full, forward alone"


class Forces(Line):
    """Predicts the gradient of the energy by the positions."""

    def predict_step(self, batch, batch_idx):
        with torch.enable_grad():
            energy = self.line(batch.requires_grad_()).sum()
            return torch.autograd.grad(energy, batch)[0]


def test_a_gradient_that_a_step_asks_for_counts_as_it_ran():
    callback = MFUCallback(peak=PEAK, warmup_steps=0)
    evaluate("predict", Forces(), make_trainer(callback, inference_mode=False))
    figures = figures_of(callback, "predict")
    assert (figures.flops.forward, figures.flops.backward) == (256, 256)
    assert figures.mfu == pytest.approx(512 * figures.samples_per_sec / 4 / PEAK)


@pytest.mark.parametrize("flops", [6000, lambda batch: 6000 * 32])
@pytest.mark.parametrize(("factor", "forward"), [(2.0, 2000), (3.0, 1500)])
def test_given_flops_of_forward_and_backward_are_divided(flops, factor, forward):
    callback = MFUCallback(peak=PEAK, flops=flops, backward_factor=factor, warmup_steps=1)
    evaluate("test", Evaluated(), make_trainer(callback))
    figures = figures_of(callback, "test")
    assert figures.steps == 7
    assert figures.mfu == pytest.approx(forward * figures.tokens_per_sec / PEAK)


def test_given_flops_with_a_measured_backward_leave_mfu_out_and_say_so():
    callback = MFUCallback(peak=PEAK, flops=6000, backward_factor="measured")
    with pytest.warns(UserWarning, match=r"MFU of test is left out\. Pass backward_factor= as a number"):
        evaluate("test", Evaluated(), make_trainer(callback))
    figures = figures_of(callback, "test")
    assert (figures.mfu, figures.tokens) == (None, 5 * 32)


def test_several_loaders_are_taken_together_and_each_shape_is_counted():
    callback = MFUCallback(peak=PEAK, warmup_steps=0)
    loaders = [token_batches(12), token_batches(6, batch_size=2)]
    evaluate("test", Evaluated(), make_trainer(callback), loaders)
    figures = figures_of(callback, "test")
    assert (figures.steps, figures.tokens) == (4, 2 * 32 + 2 * 16)  # the first batch of each shape is counted
    assert figures.mfu == pytest.approx(TINY_FLOPS / 32 * figures.tokens_per_sec / PEAK)


@pytest.mark.parametrize("asked", [True, False])
def test_validation_inside_fit_is_measured_if_asked_for(asked, tmp_path):
    logger, callback = CSVLogger(tmp_path), MFUCallback(peak=PEAK, validation=asked, warmup_steps=3)
    trainer = make_trainer(callback, logger=logger, val_check_interval=4, limit_val_batches=5, num_sanity_val_steps=2)
    trainer.fit(Evaluated())
    rows = rows_of(logger)
    losses = [int(row["step"]) for row in rows if row["val/loss"]]
    assert losses == [3, 7]
    logged = [int(row["step"]) for row in rows if row.get("validate/throughput/mfu")]
    assert logged == (losses if asked else [])
    assert set(callback.evaluations) == ({"validate"} if asked else set())
    if asked:  # the warm-up is that of the first validation; in it one of five batches is counted
        figures = callback.evaluations["validate"]
        assert (figures.steps, figures.flops.forward) == (5, TINY_FLOPS)
    assert callback.summary.steps == 5


def test_a_validation_of_warm_up_batches_alone_logs_nothing(tmp_path):
    logger, callback = CSVLogger(tmp_path), MFUCallback(peak=PEAK, validation=True, warmup_steps=3)
    trainer = make_trainer(callback, logger=logger, val_check_interval=2, limit_val_batches=2, num_sanity_val_steps=2)
    trainer.fit(Evaluated())
    rows = [row for row in rows_of(logger) if row["validate/time/step_sec"]]
    assert [int(row["step"]) for row in rows] == [3, 5, 7]  # the first has two batches, the second one more of warm-up


def test_the_summary_of_fit_stays_as_it_is():
    callback = MFUCallback(peak=PEAK)
    trainer, module = make_trainer(callback, check_val_every_n_epoch=2), Evaluated()
    trainer.fit(module)
    summary = callback.summary
    for stage in STAGES:
        evaluate(stage, module, trainer)
    assert callback.summary is summary
    assert set(callback.evaluations) == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_outputs_metrics_and_random_numbers_are_those_of_a_run_without_the_callback(stage):
    def run(*callbacks):
        seed_everything(1, verbose=False)
        module = Evaluated()
        trainer = make_trainer(*callbacks)
        out = evaluate(stage, module, trainer)
        return out, torch.get_rng_state(), marks(trainer, module), module.state_dict()

    ours, theirs = run(MFUCallback(peak=PEAK)), run()
    if stage == "predict":
        assert all(torch.equal(one, other) for one, other in zip(ours[0], theirs[0], strict=True))
    else:
        assert ours[0] == theirs[0]
        assert ours[0][0]
    assert torch.equal(ours[1], theirs[1])
    assert ours[2] == theirs[2]
    assert all(torch.equal(ours[3][name], theirs[3][name]) for name in theirs[3])


def test_validation_inside_fit_changes_no_weight():
    def run(*callbacks):
        seed_everything(1, verbose=False)
        module = Evaluated()
        make_trainer(*callbacks, val_check_interval=2, limit_val_batches=4).fit(module)
        return module.state_dict()

    ours, theirs = run(MFUCallback(peak=PEAK, validation=True)), run()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class Breaks(Evaluated):
    """Fails in one evaluated batch."""

    def __init__(self, at, error):
        super().__init__()
        self.at, self.error = at, error

    def _loss(self, batch):
        loss = super()._loss(batch)
        if not self.training:
            self.at -= 1
            if self.at < 0:
                raise self.error
        return loss


def loops_of(trainer):
    return (trainer.test_loop, trainer.validate_loop, trainer.predict_loop, trainer.fit_loop.epoch_loop.val_loop)


def own_functions(trainer):
    return [sorted(name for name, value in vars(loop).items() if callable(value)) for loop in loops_of(trainer)]


@pytest.mark.parametrize("how", ["fit", "validate", "test"])
@pytest.mark.parametrize("at", [0, 4])
@pytest.mark.parametrize("error", [ArithmeticError("broken"), KeyboardInterrupt()])
def test_nothing_stays_behind_when_an_evaluation_breaks_off(how, at, error):
    def run(*callbacks):
        trainer, module = make_trainer(*callbacks, num_sanity_val_steps=0, val_check_interval=2), Breaks(at, error)
        begin = trainer.fit if how == "fit" else functools.partial(evaluate, how, trainer=trainer)
        with pytest.raises((ArithmeticError, SystemExit)) as caught:
            begin(module)
        return type(caught.value), marks(trainer, module), own_functions(trainer)

    callback = MFUCallback(peak=PEAK, validation=True)
    assert run(callback) == run()
    assert callback.evaluations == {}
    assert callback._evaluation is None


def test_a_count_that_fails_is_one_warning_and_the_rest_goes_on(monkeypatch):
    monkeypatch.setattr("mfu_callback.flops.compiled_regions.compiled_calls_watched", lambda *_: 1 / 0)
    callback = MFUCallback(peak=PEAK)
    with pytest.warns(UserWarning, match="FLOPs could not be counted") as caught:
        evaluate("test", Evaluated(), make_trainer(callback))
    assert sum("FLOPs" in str(one.message) for one in caught) == 1
    figures = figures_of(callback, "test")
    assert (figures.steps, figures.tokens, figures.mfu) == (5, 5 * 32, None)
    assert figures.tokens_per_sec > 0


class TakesTheIterator(Evaluated):
    """Fetches its batches itself."""

    def test_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        self._loss(batch)


@pytest.mark.filterwarnings(*NO_ITERATOR)
def test_a_step_that_fetches_its_batches_itself_is_left_out_and_told_so():
    callback = MFUCallback(peak=PEAK)
    with pytest.warns(UserWarning, match=r"test_step fetches its batches itself .*Take the batch instead"):
        evaluate("test", TakesTheIterator(), make_trainer(callback))
    assert figures_of(callback, "test").steps == 0


class CopiesTheCallback(Evaluated):
    """Copies the callback in every batch."""

    def test_step(self, batch, batch_idx):
        callback = next(one for one in self.trainer.callbacks if isinstance(one, MFUCallback))
        for duplicate in (copy.copy(callback), copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
            assert duplicate._evaluation is None
        self._loss(batch)


def test_the_callback_can_be_copied_while_it_measures():
    callback = MFUCallback(peak=PEAK)
    evaluate("test", CopiesTheCallback(), make_trainer(callback))
    assert pickle.loads(pickle.dumps(callback)).evaluations["test"] == callback.evaluations["test"]


@pytest.mark.parametrize(
    ("style", "quiet", "lines"),
    [
        ("table", True, "many"),
        ("line", True, "one"),
        (None, False, "none"),
        ("auto", False, "one"),
        ("auto", True, "none"),
    ],
)
def test_what_the_end_of_a_test_prints(style, quiet, lines, tmp_path, capsys, caplog):
    callback = MFUCallback(peak=PEAK, summary=style)
    with caplog.at_level("INFO", "lightning.pytorch.utilities.rank_zero"):
        evaluate("test", Evaluated(), make_trainer(callback, logger=CSVLogger(tmp_path) if quiet else False))
    out = capsys.readouterr().out
    assert ("none" if not out.strip() else "one" if out.count("\n") == 1 else "many") == lines
    in_the_log = [one.message for one in caplog.records if one.message.startswith("MFUCallback: test: forward MFU ")]
    assert len(in_the_log) == (style == "auto" and quiet)
    assert not Path(tmp_path / "mfu_summary.json").exists()


@pytest.mark.filterwarnings(r"ignore:You are trying to `self.log\(\)` but `Trainer\(barebones=True\)`")
def test_barebones_has_no_metrics_but_figures():
    callback = MFUCallback(peak=PEAK)
    trainer = make_trainer(callback, barebones=True, logger=None, log_every_n_steps=None)
    evaluate("test", Evaluated(), trainer)
    assert figures_of(callback, "test").steps == 5
    assert not [name for name in trainer.callback_metrics if name.startswith("test/throughput")]
