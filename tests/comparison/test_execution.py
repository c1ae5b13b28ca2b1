"""Execution of one item: measurements in the record, and every way to end."""

from __future__ import annotations

import dataclasses
import json
import math
import sys

import pytest
import torch
from item_support import build_with_test, example_study, run_item, with_test
from study_support import build, diverging, toy

import dashpot as dp
from dashpot.comparison import Entry, StudyFolder, read_run
from dashpot.comparison.execution import record_failure
from dashpot.comparison.record_results import judged_run
from dashpot.comparison.study_items import plan
from dashpot.errors import DataError, RunError
from dashpot.runs.records import COMPARABLE, check_header
from dashpot.runs.run_scores import validation_score, verdict_score
from dashpot.tasks import accuracy
from dashpot.tasks import evaluate as evaluate_model
from dashpot.training import Callback, train
from dashpot.utils.rng_state import seed_all

KEY = "run/adam/0"


def record(out, key=KEY):
    return read_run(StudyFolder(out).item_record(key))


def changed(**changes):
    """Return a task whose problem has `changes`."""
    return with_test(build=lambda seed: dataclasses.replace(build_with_test(seed), **changes))


# ---- measurements ---------------------------------------------------------------------------------------------------


def test_losses_are_those_of_plain_training(tmp_path):
    """Evaluations before and between steps do not change any step."""
    study = example_study(epochs=3, evaluate_every=1)
    run_item(study, tmp_path / "out")
    problem = build(0)
    seed_all(0)
    epochs = train(problem, lambda params: study.entries[0].optimizer(params, 12), 3)
    assert record(tmp_path / "out").loss == [loss for epoch in epochs for loss in epoch.loss]
    assert record(tmp_path / "out").epochs[-1]["eval"] == epochs[-1].evaluation


def test_evaluations_are_on_the_grid_and_at_step_zero(tmp_path):
    run_item(example_study(epochs=2, evaluate_every=3), tmp_path / "out")
    run = record(tmp_path / "out")
    assert [epoch["steps"] for epoch in run.epochs] == [3, 6, 8]
    assert len(run.loss) == 8
    assert run.initial is not None
    problem = build(0)
    assert run.initial["eval"] == pytest.approx(evaluate_model(problem), rel=1e-6)  # other order of the sums


def test_test_data_are_evaluated_once_after_training(tmp_path):
    ended = run_item(example_study(), tmp_path / "out")
    run = record(tmp_path / "out")
    assert run.end is not None
    assert set(run.end["test"]) == {"loss", "accuracy"}
    assert ended.score == verdict_score(run) == run.end["test"]["accuracy"]
    assert validation_score(run) == run.epochs[-1]["eval"]["accuracy"]
    assert "test" not in json.dumps(run.epochs)


def test_trials_never_use_the_test_data(tmp_path):
    class Forbidden:
        def __len__(self):
            raise AssertionError("the test data were read")

        def epoch(self, index):
            raise AssertionError("the test data were read")

    study = example_study(task=changed(test=Forbidden()), budget=1)
    ended = run_item(study, tmp_path / "out", "trial/adam/0")
    run = record(tmp_path / "out", "trial/adam/0")
    assert (ended.status, run.seed) == ("done", 1000)
    assert ended.score == validation_score(run)
    assert run.end is not None
    assert "test" not in run.end


def test_score_without_test_data_is_that_on_validation_data(tmp_path):
    ended = run_item(example_study(task=toy()), tmp_path / "out")
    run = record(tmp_path / "out")
    assert run.header["score"]["split"] == "validation"
    assert ended.score == run.epochs[-1]["eval"]["accuracy"]


def test_score_without_evaluation_data_is_that_of_the_last_interval(tmp_path):
    def without(seed):
        return dataclasses.replace(build(seed), evaluation=None)

    ended = run_item(example_study(task=toy(build=without)), tmp_path / "out")
    run = record(tmp_path / "out")
    assert run.initial is not None
    assert run.initial["eval"] == {}
    assert set(run.initial["train"]) == {"loss", "accuracy"}
    assert ended.score == run.epochs[-1]["train"]["accuracy"]


def test_costs_of_the_run_are_recorded(tmp_path):
    run_item(example_study(), tmp_path / "out")
    run = record(tmp_path / "out")
    assert run.end is not None
    parameters = sum(p.numel() for p in build(0).model.parameters())
    assert run.header["task"]["parameters"] == parameters
    assert run.end["state_bytes"] == 2 * 4 * parameters + 4 * len(list(build(0).model.parameters()))
    if sys.platform == "linux":
        assert 2**24 < run.end["memory_bytes"] < 2**36
    for name in ("cpu_s", "wall_s"):
        assert run.end[name] == pytest.approx(sum(epoch[name] for epoch in run.epochs), abs=1e-3)


def test_header_contains_the_item_and_its_settings(tmp_path):
    run_item(example_study(budget=2), tmp_path / "out", "trial/adam/0")
    run = check_header(record(tmp_path / "out", "trial/adam/0"), COMPARABLE)
    assert (run.header["item"], run.header["steps"], run.header["evaluate_every"]) == ("trial/adam/0", 8, 1)
    assert run.header["values"] == {"lr": 0.05, "momentum": 0.9, "warmup": 0.0}


def test_command_is_recorded_without_password(tmp_path):
    command = "dashpot compare toy --storage postgresql://me:secret@host/db"
    run_item(example_study(), tmp_path / "out", command=command)
    path = StudyFolder(tmp_path / "out").item_record(KEY)
    assert "secret" not in path.read_text()
    assert "postgresql://me:***@host/db" in path.read_text()


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adagrad, torch.optim.NAdam, dp.AdaHessian, dp.Sophia])
def test_any_optimizer_can_be_executed(tmp_path, make):
    ended = run_item(example_study(Entry("mine", make, 0.01), epochs=1), tmp_path / "out", "run/mine/0")
    assert ended.status == "done"


# ---- divergence -----------------------------------------------------------------------------------------------------


def test_diverged_run_has_the_score_of_its_untrained_model(tmp_path):
    ended = run_item(example_study(diverging()), tmp_path / "out", "run/too-fast/0")
    run = record(tmp_path / "out", "run/too-fast/0")
    assert ended.status == run.status == "diverged"
    assert run.end is not None
    problem = build_with_test(0)
    seed_all(0)
    untrained = evaluate_model(dataclasses.replace(problem, evaluation=problem.test))
    assert run.end["test"] == pytest.approx(untrained, rel=1e-6)  # other order of the sums
    assert ended.score == run.end["test"]["accuracy"]
    assert run.end["step"] == len(run.loss) - 1
    assert run.end["cpu_s"] > 0


def test_diverged_run_without_test_data_has_the_first_validation_score(tmp_path):
    ended = run_item(example_study(diverging(), task=toy()), tmp_path / "out", "run/too-fast/0")
    run = record(tmp_path / "out", "run/too-fast/0")
    assert run.initial is not None
    assert ended.score == run.initial["eval"]["accuracy"]


def test_run_that_diverges_before_its_first_interval_has_the_evaluation_of_its_untrained_model(tmp_path):
    run_item(example_study(diverging(), evaluate_every=1000), tmp_path / "out", "run/too-fast/0")
    run = record(tmp_path / "out", "run/too-fast/0")
    assert run.initial is not None
    curve = judged_run(run, 1000).curves["validation accuracy"]
    assert (curve.steps.tolist(), curve.values.tolist()) == ([0], [run.initial["eval"]["accuracy"]])


def test_diverged_trial_has_no_score(tmp_path):
    ended = run_item(example_study(diverging(), budget=1), tmp_path / "out", "trial/too-fast/0")
    assert (ended.status, ended.score) == ("diverged", None)


def test_final_score_that_is_not_finite_is_a_divergence(tmp_path):
    def broken_at_the_end(output, y):
        return accuracy(output, y) * (math.nan if len(y) == 10 else 1.0)  # only the test data have 10 examples

    ended = run_item(example_study(task=changed(metrics={"accuracy": broken_at_the_end})), tmp_path / "out")
    run = record(tmp_path / "out")
    assert ended.status == "diverged"
    assert run.end is not None
    assert (run.end["step"], run.end["loss"], run.end["reason"]) == (8, "nan", "the final score is nan")
    assert ended.score is None  # the untrained model has no finite score either


# ---- failures -------------------------------------------------------------------------------------------------------


class BrokenError(RuntimeError):
    pass


def failing(place):
    """Return a study whose task raises an error at a place."""

    def fail(*_):
        raise BrokenError("out of\nluck")

    class FailingOptimizer(torch.optim.SGD):
        def step(self, closure=None):
            fail()

    class FailingCallback(Callback):
        def after_backward(self, learner):
            fail()

    if place == "optimizer":
        return example_study(Entry("adam", FailingOptimizer, 0.1))
    if place == "factory":
        calls = iter(range(10))
        return example_study(Entry("adam", lambda p, lr: fail() if next(calls) else torch.optim.SGD(p, lr), 0.1))
    if place == "build":
        calls = iter(range(10))
        return example_study(task=with_test(build=lambda seed: fail() if next(calls) else build_with_test(seed)))
    part = {
        "loss": {"loss": fail},
        "evaluation loss": {"evaluation_loss": fail},
        "metric": {"metrics": {"accuracy": fail}},
        "callback": {"callbacks": [FailingCallback()]},
    }
    return example_study(task=changed(**part[place]))


PLACES = ("build", "factory", "optimizer", "loss", "evaluation loss", "metric", "callback")


@pytest.mark.parametrize("place", PLACES)
def test_error_of_the_task_ends_the_item_as_failed(tmp_path, place):
    study = failing(place)
    ended = run_item(study, tmp_path / "out")
    run = check_header(record(tmp_path / "out"), COMPARABLE)
    assert (ended.status, ended.score) == ("failed", None)
    assert run.end is not None
    assert "BrokenError: out of luck" in run.end["error"]
    assert "in fail" in run.end["traceback"]
    assert not StudyFolder(tmp_path / "out").checkpoint("adam", 0).exists()
    assert StudyFolder(tmp_path / "out").runs()[0].status == "failed"


@pytest.mark.parametrize("error", [MemoryError(), SystemExit(3), RunError("Learner: a callback was wrong.")])
def test_memory_error_exit_and_error_of_the_library_fail_the_item(tmp_path, error):
    def late(output, y):
        if output.requires_grad and len(y) == 4:
            raise error
        return torch.nn.functional.cross_entropy(output, y)

    ended = run_item(example_study(task=changed(loss=late)), tmp_path / "out")
    run = record(tmp_path / "out")
    assert ended.status == "failed"
    assert run.end is not None
    assert run.end["error"].startswith(type(error).__name__)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("no data")])
def test_interrupt_and_missing_data_leave_the_item_unfinished(tmp_path, error):
    def late(output, y):
        raise error

    with pytest.raises(type(error)):
        run_item(example_study(task=changed(loss=late)), tmp_path / "out")
    assert record(tmp_path / "out").status == "unfinished"


@pytest.mark.parametrize("name", ["on_step", "on_interval", "prune"])
def test_error_of_the_caller_leaves_the_item_unfinished(tmp_path, name):
    def broken(*_):
        raise RunError("The storage is lost.")

    with pytest.raises(RunError, match="storage is lost"):
        run_item(example_study(), tmp_path / "out", **{name: broken})
    assert record(tmp_path / "out").status == "unfinished"
    assert run_item(example_study(), tmp_path / "out").status == "done"


def test_long_error_messages_are_cut(tmp_path):
    def fail(*_):
        raise ValueError("long " * 10_000)

    run_item(example_study(task=changed(loss=fail)), tmp_path / "out")
    assert StudyFolder(tmp_path / "out").item_record(KEY).stat().st_size < 20_000


def test_failure_without_an_exception_is_recorded(tmp_path):
    study = example_study()
    folder = StudyFolder(tmp_path / "out")
    folder.prepare(study.settings(), None)
    ended = record_failure(study, plan(study, KEY, {}), folder, "3 workers were killed by signal 9")
    assert (ended.status, ended.score) == ("failed", None)
    [run] = folder.runs()
    assert run.end is not None
    assert run.end["error"] == "3 workers were killed by signal 9"


class UnsavedAdam(torch.optim.Adam):
    """Optimizer whose state contains an object that no checkpoint accepts."""

    def state_dict(self):
        return {**super().state_dict(), "helper": object()}


def test_state_that_cannot_be_saved_fails_the_item(tmp_path):
    study = example_study()
    ended = run_item(dataclasses.replace(study, entries=(Entry("adam", UnsavedAdam, 0.01),)), tmp_path / "out")
    run = record(tmp_path / "out")
    assert ended.status == "failed"
    assert run.end is not None
    assert run.end["error"].startswith(
        "ContentError: A checkpoint must contain only plain data and tensors, got object"
    )


# ---- pruning --------------------------------------------------------------------------------------------------------


def test_pruner_sees_each_validation_score_except_the_last(tmp_path):
    seen = []
    run_item(
        example_study(budget=1, evaluate_every=3),
        tmp_path / "out",
        "trial/adam/0",
        prune=lambda step, score: seen.append((step, score)),
    )
    run = record(tmp_path / "out", "trial/adam/0")
    assert seen == [(epoch["steps"], epoch["eval"]["accuracy"]) for epoch in run.epochs[:-1]]


def test_pruned_trial_ends_without_a_score(tmp_path):
    study = example_study(budget=1)
    ended = run_item(study, tmp_path / "out", "trial/adam/0", prune=lambda step, _: step == 3)
    run = record(tmp_path / "out", "trial/adam/0")
    assert (ended.status, ended.score, len(run.loss)) == ("pruned", None, 3)
    assert run_item(study, tmp_path / "out", "trial/adam/0").status == "pruned"
