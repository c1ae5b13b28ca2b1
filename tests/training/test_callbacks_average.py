"""Weight averages: values, evaluation, resume, and the absence of effects on training."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from learner_support import StopAt, learner, same, weights
from slow_values import others_slow
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from dashpot.constraints import POLE, Interval
from dashpot.errors import ArgumentError, RunError
from dashpot.tasks import Problem, evaluate
from dashpot.training import Callback, CancelFit
from dashpot.training.callbacks.average import EMA, SWA, evaluated_weights

F64 = {"dtype": torch.float64}
# The order of float64 operations differs, which causes a few rounding errors of 2e-16 for weights of size 1.
EXACT = {"rtol": 0, "atol": 1e-14}


class RecordParameters(Callback):
    """Record the parameters at the start, after every step and after every training phase."""

    order = 30

    def before_fit(self, learner):
        self.start, self.steps, self.epochs = params(learner), [], []

    def after_step(self, learner):
        self.steps.append(params(learner))

    def after_epoch(self, learner):
        if learner.training:
            self.epochs.append(params(learner))


def params(learner):
    return {name: p.detach().clone() for name, p in learner.model.named_parameters()}


def fit(average, epochs=3, seed=7, **options):
    torch.manual_seed(seed)
    seen, one = RecordParameters(), learner(lr=0.05, **options)
    one.fit(epochs, callbacks=[average, seen])
    return one, seen


def test_ema_without_warmup_matches_closed_form():
    ema, d = EMA(0.9, warmup=False), 0.9
    _, seen = fit(ema, **F64)
    t = len(seen.steps)
    assert ema.count == t == 9
    for name, average in ema.averages.items():
        sum_ = sum(d ** (t - i) * w[name] for i, w in enumerate(seen.steps, 1))
        torch.testing.assert_close(average, d**t * seen.start[name] + (1 - d) * sum_, **EXACT)


def test_ema_with_warmup_matches_recursion():
    ema = EMA(0.4)
    _, seen = fit(ema, **F64)
    want = seen.start
    for t, w in enumerate(seen.steps, 1):
        d = min(0.4, (1 + t) / (10 + t))
        want = {name: d * want[name] + (1 - d) * w[name] for name in want}
    assert ema.decay_at(3) == 4 / 13 < 0.4 == ema.decay_at(5)  # both branches occur
    for name, average in ema.averages.items():
        torch.testing.assert_close(average, want[name], **EXACT)


def test_ema_matches_torch():
    ema = EMA(0.95, warmup=False)

    class Torch(Callback):
        def before_fit(self, learner):
            self.model = AveragedModel(learner.model, multi_avg_fn=get_ema_multi_avg_fn(0.95))
            self.model.n_averaged += 1  # torch would start with the weights after the first step

        def after_step(self, learner):
            self.model.update_parameters(learner.model)

    other = Torch()
    torch.manual_seed(7)
    learner(**F64).fit(3, callbacks=[ema, other])
    for name, p in other.model.module.named_parameters():
        torch.testing.assert_close(ema.averages[name], p.detach(), **EXACT)


def test_swa_is_the_mean_of_its_epochs():
    swa = SWA(1, every=2)
    _, seen = fit(swa, epochs=6, **F64)
    assert swa.count == 3
    for name, average in swa.averages.items():
        want = torch.stack([seen.epochs[i][name] for i in (1, 3, 5)]).mean(0)
        torch.testing.assert_close(average, want, **EXACT)


@pytest.mark.parametrize("average", [lambda: EMA(0.9, keep=False), lambda: SWA(0, keep=False)], ids=["ema", "swa"])
def test_training_is_not_affected(average):
    torch.manual_seed(7)
    plain = learner(lr=0.05)
    plain.fit(3)
    averaged, _ = fit(average())
    assert same(weights(plain), weights(averaged))
    assert [epoch["train"] for epoch in plain.history] == [epoch["train"] for epoch in averaged.history]
    assert plain.history != averaged.history


@pytest.mark.parametrize(
    "average", [lambda **k: EMA(0.9, **k), lambda **k: EMA(0.9, buffers="average", **k), lambda **k: SWA(1, **k)]
)
def test_averages_are_evaluated_kept_and_returned(average):
    one = average()
    kept, _ = fit(one)
    other = average(keep=False)
    left, seen = fit(other)
    assert kept.history == left.history
    state = other.weights()
    assert all(torch.equal(value, state[name]) for name, value in kept.model.state_dict().items())
    assert all(torch.equal(value, seen.steps[-1][name]) for name, value in left.model.named_parameters())
    left.model.load_state_dict(state)
    data = {"train": left.train.source, "evaluation": left.evaluation.source}
    problem = Problem(model=left.model, **data, loss=left._loss, metrics=left.metrics)
    assert evaluate(problem) == left.history[-1]["eval"]


def test_swa_evaluates_the_weights_before_its_first_average():
    torch.manual_seed(7)
    plain = learner(lr=0.05)
    plain.fit(2)
    averaged, _ = fit(SWA(2))
    assert [epoch["eval"] for epoch in averaged.history[:2]] == [epoch["eval"] for epoch in plain.history]


def test_swa_recomputes_batch_norm_statistics():
    swa = SWA(0, keep=False)
    one, _ = fit(swa)
    model = copy.deepcopy(one.model)
    model.load_state_dict(swa.weights())
    update_bn(([x] for x, _ in one.train.source.epoch(2)), model)
    assert swa.statistics.keys() == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    for name, value in swa.statistics.items():
        assert torch.equal(value, dict(model.named_buffers())[name])
        assert not torch.equal(value, dict(one.model.named_buffers())[name])
    assert one.model[1].momentum == 0.1
    evaluated = swa.statistics
    again = SWA(0)
    torch.manual_seed(7)
    unevaluated = learner(lr=0.05)
    unevaluated.fit(3, callbacks=[again], evaluate=False)  # statistics are computed once, at the end of the fit
    assert all(torch.equal(again.statistics[name], value) for name, value in evaluated.items())
    assert torch.equal(unevaluated.model[1].running_mean, evaluated["1.running_mean"])


def test_buffers_are_copied_or_averaged():
    copied, averaged = EMA(0.9), EMA(0.9, buffers="average")
    one, _ = fit(copied)
    other, _ = fit(averaged)
    assert "1.running_mean" not in copied.averages
    assert "1.running_mean" in averaged.averages
    assert "1.num_batches_tracked" not in averaged.averages
    assert not torch.equal(one.model[1].running_mean, other.model[1].running_mean)
    assert one.model[1].num_batches_tracked == other.model[1].num_batches_tracked == 9


class Fails(Callback):
    order = 100

    def __init__(self, error):
        self.error = error

    def after_batch(self, learner):
        if not learner.training and learner.epoch == 1:
            raise self.error


@pytest.mark.parametrize("error", [ValueError("expected"), KeyboardInterrupt()])
def test_failed_evaluation_restores_the_training_weights(error):
    ema, seen = EMA(0.9), RecordParameters()
    torch.manual_seed(7)
    one = learner(lr=0.05)
    with pytest.raises(type(error)):
        one.fit(3, callbacks=[ema, seen, Fails(error)])
    assert len(seen.steps) == 6
    assert all(torch.equal(p, seen.steps[-1][name]) for name, p in one.model.named_parameters())


def test_cancelled_fit_restores_the_training_weights():
    seen = RecordParameters()
    one = learner(lr=0.05)
    one.fit(3, callbacks=[EMA(0.9), seen, Fails(CancelFit())])
    assert all(torch.equal(p, seen.steps[-1][name]) for name, p in one.model.named_parameters())


@pytest.mark.diagonal
@pytest.mark.parametrize("at", others_slow([1, 4, 6, 9], 4, 6))
@pytest.mark.parametrize(
    "average", [lambda: EMA(0.9), lambda: EMA(0.9, buffers="average"), lambda: SWA(1)], ids=["ema", "buffers", "swa"]
)
def test_resumed_fit_is_identical(average, at):
    whole, ema = learner(), average()
    torch.manual_seed(7)
    whole.fit(3, callbacks=[ema])
    stop = StopAt(at)
    torch.manual_seed(7)
    learner().fit(3, callbacks=[average(), stop])
    torch.manual_seed(99)
    resumed, other = learner(seed=0), average()
    resumed.fit(3, callbacks=[other], resume=stop.state)
    assert same(weights(whole), weights(resumed))
    assert whole.history == resumed.history
    assert all(torch.equal(value, other.averages[name]) for name, value in ema.averages.items())


def test_state_after_an_epoch_has_the_training_weights():
    class After(Callback):
        order = 90

        def after_epoch(self, learner):
            if not learner.training:
                self.state = copy.deepcopy(learner.state_dict())

    after, seen, ema = After(), RecordParameters(), EMA(0.9)
    learner().fit(2, callbacks=[after, seen, ema])
    assert all(torch.equal(after.state["model"][name], p) for name, p in seen.steps[-1].items())
    finished = learner()
    finished.fit(2, callbacks=[After(), RecordParameters(), other := EMA(0.9)], resume=after.state)
    assert all(torch.equal(p, other.averages[name]) for name, p in finished.model.named_parameters())


def test_half_precision_is_averaged_in_float32():
    one = learner(lr=0.05, dtype=torch.bfloat16)
    ema = EMA(0.999, warmup=False)
    one.fit(2, callbacks=[ema])
    assert {value.dtype for value in ema.averages.values()} == {torch.float32}
    assert {p.dtype for p in one.model.parameters()} == {torch.bfloat16}
    # With its 8 significant bits, a bfloat16 average would not change by a thousandth.
    assert any(not torch.equal(value, value.bfloat16().float()) for value in ema.averages.values())


def test_evaluated_weights_are_averages_if_available():
    one, _ = fit(ema := EMA(0.9, keep=False))
    assert torch.equal(evaluated_weights(one)["0.weight"], ema.averages["0.weight"])
    plain = learner()
    plain.fit(1)
    assert torch.equal(evaluated_weights(plain)["0.weight"], plain.model[0].weight)


def test_invalid_arguments_are_rejected():
    for value in POLE.refused():
        with pytest.raises(ArgumentError, match="EMA: decay must be"):
            EMA(value)
    for value in Interval(1, math.inf, "left", integer=True).refused():
        with pytest.raises(ArgumentError, match="SWA: every must be"):
            SWA(0, every=value)
    with pytest.raises(ArgumentError, match="buffers must be one of 'copy', 'average', got 'none'"):
        EMA(buffers="none")
    with pytest.raises(ArgumentError, match="first_epoch must be below the number of epochs, 2, got 2"):
        learner().fit(2, callbacks=[SWA(2)])
    with pytest.raises(ArgumentError, match="callbacks must contain at most one weight average, got EMA and SWA"):
        learner().fit(2, callbacks=[EMA(), SWA(0)])
    with pytest.raises(RunError, match="no weights have been averaged"):
        SWA(0).weights()
    one, stop = learner(), StopAt(2)
    one.fit(1, callbacks=[EMA(), stop])
    with pytest.raises(RunError, match="EMA: buffers: saved copy, current average"):
        learner().fit(1, callbacks=[EMA(buffers="average")], resume=stop.state)
