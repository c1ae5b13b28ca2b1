"""`Learner.evaluate` before, during and after a fit, which it must not affect; fits within a fit."""

from __future__ import annotations

import random
import threading
from functools import partial

import numpy as np
import pytest
import torch
from learner_support import At, X, Y, learner, linear_learner, pairs, problem, same, weights
from slow_values import others_slow
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import dashpot as dp
from dashpot.data import Batches
from dashpot.errors import ArgumentError, RunError
from dashpot.tasks import accuracy, evaluate
from dashpot.training import (
    EMA,
    SWA,
    Accumulate,
    Activations,
    Callback,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    ForOptimizer,
    Recorder,
    one_cycle,
)

# ---- values ---------------------------------------------------------------------------------------------------------


def test_evaluate_before_a_fit_equals_tasks_evaluate():
    subject = learner()
    assert subject.evaluate() == evaluate(problem())
    assert not hasattr(subject, "loop")
    assert subject.history == []


def test_evaluate_after_a_fit_is_bit_identical_to_its_evaluation():
    subject = learner()
    subject.fit(2)
    assert subject.evaluate() == subject.history[-1]["eval"]
    assert subject.evaluate() != subject.history[0]["eval"]


def test_evaluate_uses_evaluation_loss_and_given_data():
    model, loss = nn.Linear(3, 2), nn.functional.cross_entropy
    subject = linear_learner(
        pairs(), model=model, loss=nn.CrossEntropyLoss(label_smoothing=0.5), evaluation_loss=loss,
        metrics={"accuracy": accuracy},
    )  # fmt: skip
    batches = [(X[:7], Y[:7]), (X[7:], Y[7:])]
    found = subject.evaluate(batches)
    output = model.double()(X.double())
    # float32 sums of 12 losses
    assert found["loss"] == pytest.approx(loss(output, Y).item(), rel=1e-6)
    assert found["accuracy"] == accuracy(output, Y).item() / 12


@pytest.mark.parametrize(
    "data",
    [Batches(X, Y, 5), pairs(), DataLoader(TensorDataset(X, Y), batch_size=5), [(X, Y)]],
    ids=["stream", "list", "loader", "one batch"],
)
def test_evaluate_accepts_every_type_of_data(data):
    subject = linear_learner(pairs(), metrics={"accuracy": accuracy})
    found, expected = subject.evaluate(data), subject.evaluate([(X, Y)])
    assert found == pytest.approx(expected, rel=1e-6)  # float32 sums in a different order


def test_evaluate_reads_a_stream_at_the_current_epoch():
    class Counting(Batches):
        def epoch(self, index):
            indices.append(index)
            return super().epoch(index)

    indices = []
    subject = linear_learner(pairs())
    data = Counting(X, Y, 12)
    subject.evaluate(data)
    subject.fit(3, callbacks=[At("after_epoch", lambda learner: learner.evaluate(data))])
    subject.evaluate(data)
    assert indices == [0, 0, 1, 2, 2]


# ---- a running fit --------------------------------------------------------------------------------------------------


class Everywhere(Callback):
    """Evaluate at each event, where the learner allows it."""

    order = 1000
    essential = False

    def __init__(self, data, skipped=()):
        self.count = 0
        for event in dp.training.callback.EVENTS:
            if event not in skipped:
                setattr(self, event, lambda learner, event=event: self.evaluate(learner, data))

    def evaluate(self, learner, data):
        if len(learner._calls) > 1:
            return  # in a pass for the batch norm statistics of SWA, within an evaluation
        before = {name: value for name, value in vars(learner).items() if name != "_calls"}
        modes = [module.training for module in learner.model.modules()]
        learner.evaluate(data)
        self.count += 1
        assert vars(learner).items() >= before.items()
        assert [module.training for module in learner.model.modules()] == modes


def fitted(callbacks, train=None, evaluate=True, **options):
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    subject = learner(callbacks=callbacks, **options)
    if train is not None:
        subject.train = train(subject)
    subject.fit(3, evaluate=evaluate)
    return subject


NOT_BETWEEN_PASSES = ("after_predict", "after_loss")


@pytest.mark.parametrize(
    ("make", "skipped"),
    [
        pytest.param(lambda: [], (), marks=pytest.mark.slow),
        pytest.param(lambda: [Accumulate(2)], (), marks=pytest.mark.slow),
        pytest.param(lambda: [EMA(0.9)], NOT_BETWEEN_PASSES, marks=pytest.mark.slow),
        (lambda: [EMA(0.9, buffers="average", keep=False), Accumulate(2)], NOT_BETWEEN_PASSES),
        (lambda: [SWA(first_epoch=0, every=2)], NOT_BETWEEN_PASSES),
    ],
    ids=["plain", "accumulate", "ema", "ema of buffers", "swa"],
)
def test_evaluate_at_each_event_does_not_affect_the_fit(make, skipped):
    own = problem().evaluation
    expected = fitted([*make(), Recorder("lr", "grad_norm")])
    probe = Everywhere(own, skipped)
    actual = fitted([*make(), Recorder("lr", "grad_norm"), probe])
    assert probe.count > 50
    assert same(weights(actual), weights(expected))
    assert (actual.history, actual.steps) == (expected.history, expected.steps)
    for one, other in zip(actual._callbacks, expected._callbacks, strict=False):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert torch.equal(torch.rand(3), fresh_draw(make))


@pytest.mark.parametrize("event", others_slow(["after_backward", "after_step"], "after_step"))
def test_evaluate_within_a_batch_computes_statistics_of_swa_without_effect_on_the_fit(event):
    """Without evaluation phases, every evaluation computes the batch norm statistics of the averaged weights."""
    swa = [SWA(first_epoch=0)]
    expected = fitted(swa, evaluate=False)
    values = []
    actual = fitted([*swa, At(event, lambda one: values.append(one.evaluate()["loss"]), order=90)], evaluate=False)
    assert len(set(values)) > 3
    assert same(weights(actual), weights(expected))
    assert actual.history == expected.history


def fresh_draw(make):
    fitted([*make(), Recorder("lr", "grad_norm")])
    return torch.rand(3)


def test_evaluate_on_the_training_loader_does_not_affect_the_fit():
    def shuffled():
        x, y = problem().train.x, problem().train.y
        return DataLoader(TensorDataset(x, y), 4, shuffle=True, generator=torch.Generator().manual_seed(3))

    def run(callbacks):
        given = problem()
        torch.manual_seed(1)
        subject = dp.training.Learner(
            given.model, loader := shuffled(), loader, loss=given.loss, optimizer=dp.AdamW, lr=0.01, callbacks=callbacks
        )
        subject.fit(3)
        return subject

    probe = At("after_batch", lambda learner: learner.evaluate(learner.train.source))
    probe.essential = False
    actual, expected = run([probe]), run([])
    assert same(weights(actual), weights(expected))
    assert actual.history == expected.history


def test_evaluate_in_before_batch_is_not_recorded_by_activations():
    def recorded(*callbacks):
        torch.manual_seed(1)
        activations = Activations()
        learner().fit(1, callbacks=[activations, *callbacks])
        return activations.values

    probe = At("before_batch", lambda learner: learner.evaluate(), order=1000)
    probe.essential = False
    assert recorded(probe) == recorded()


class Endless(IterableDataset):
    """Dataset without a length."""

    def __iter__(self):
        return iter(zip(X, Y, strict=True))


@pytest.mark.parametrize("train", [pairs(), DataLoader(Endless(), 4)], ids=["list", "unknown length"])
def test_evaluate_does_not_affect_a_fit_by_steps(train):
    def fitted(*callbacks):
        subject = linear_learner(train, evaluation=pairs(5), metrics={"accuracy": accuracy})
        subject.fit(steps=7, evaluate_every=3, callbacks=[EMA(0.5), *callbacks])
        return subject

    found = []
    probe = At("after_step", lambda learner: found.append(learner.evaluate()))
    probe.order = 30
    actual, expected = fitted(probe), fitted()
    assert same(weights(actual), weights(expected))
    assert actual.history == expected.history
    assert [found[2], found[5], found[6]] == [epoch["eval"] for epoch in actual.history]
    assert len(found) == 7
    assert actual.evaluate(DataLoader(Endless(), 5)) == actual.evaluate(pairs(5))


def test_evaluate_with_several_optimizers_returns_each_loss():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x, part="b"):
            return getattr(self, part)(x)

    class Shifted(Callback):
        def after_predict(self, learner):
            learner.batch.output = learner.batch.output + torch.tensor([0.5, 0.0])

    def fitted(*callbacks):
        torch.manual_seed(1)
        losses = dict.fromkeys("ab", nn.functional.cross_entropy)
        optimizers = {name: partial(torch.optim.SGD, lr=0.1) for name in losses}
        subject = dp.training.Learner(Parts(), pairs(), pairs(), loss=losses, optimizer=optimizers)
        bound = [ForOptimizer("a", EMA(0.5)), ForOptimizer("b", one_cycle(max_lr=0.2)), ForOptimizer("a", Shifted())]
        subject.fit(2, callbacks=[*bound, *callbacks])
        return subject

    found = []
    probes = [
        At("after_backward", lambda learner: learner.evaluate()),
        At("after_step", lambda learner: found.append(learner.evaluate()), order=-100),
    ]
    actual, expected = fitted(*probes), fitted()
    assert found[3] != found[2]
    assert same(weights(actual), weights(expected))
    assert actual.history == expected.history
    assert actual.evaluate() == actual.history[-1]["eval"]
    assert list(actual.evaluate()) == ["loss", "loss_a", "loss_b"]
    assert torch.equal(actual.predict(pairs()), torch.cat([actual.model.b(x).detach() for x, _ in pairs()]))


def test_evaluate_rejects_the_running_loader_with_persistent_workers():
    loader = DataLoader(TensorDataset(X, Y), 4, num_workers=1, persistent_workers=True)
    subject = linear_learner(loader)
    subject._calls, subject.loop = [("fit", threading.get_ident())], type("Loop", (), {"loader": subject.train})()
    with pytest.raises(ArgumentError, match="the DataLoader of the running phase if persistent_workers=True"):
        subject.evaluate(loader)


def test_evaluate_within_a_fit_uses_averaged_weights():
    found = []
    ema = EMA(0.5)
    subject = learner(callbacks=[ema])
    record = At("after_step", lambda learner: found.append((learner.evaluate(), ema.weights())), order=30)
    subject.fit(1, callbacks=[record])
    values, state = found[2]  # after the last training batch; the evaluation phase uses the same averages
    assert values == subject.history[0]["eval"]
    other = problem()
    other.model.load_state_dict(state)
    assert values == evaluate(other)
    assert ema.in_model == "its averages"
    assert subject.evaluate() == values


def test_evaluate_between_forward_and_backward_with_averages_raises():
    hook = At("after_loss", lambda learner: learner.training and learner.batch.index and learner.evaluate())
    with pytest.raises(RunError, match="with averaged weights, evaluate must not be called between the forward and"):
        learner(callbacks=[EMA(0.9), hook]).fit(1)


def test_evaluate_in_another_thread_of_a_running_fit_raises():
    raised = []

    def evaluate_in_thread(learner):
        def call():
            with pytest.raises(RunError, match="evaluate must be called in the thread of the running fit") as error:
                learner.evaluate()
            raised.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    learner(callbacks=[At("before_fit", evaluate_in_thread)]).fit(1)
    assert len(raised) == 1


def test_evaluate_within_evaluate_raises_and_can_be_repeated():
    nested = At("after_batch", lambda learner: None if learner.training else learner.evaluate())
    nested.essential = True
    subject = learner(callbacks=[nested])
    with pytest.raises(RunError, match="evaluate must not be called during evaluate of the same learner"):
        subject.evaluate()
    subject._callbacks.clear()
    assert subject.evaluate() == evaluate(problem())


# ---- callbacks ------------------------------------------------------------------------------------------------------


def test_evaluate_calls_batch_events_of_callbacks_other_than_observers():
    events = []

    class Events(Callback):
        def __init__(self, essential):
            self.essential = essential
            for event in dp.training.callback.EVENTS:
                setattr(self, event, lambda learner, event=event: events.append((event, learner.training)))

    subject = learner(callbacks=[Events(True), Events(False)])
    subject.evaluate()
    names = ("before_batch", "after_predict", "after_loss", "after_batch", "cleanup_batch")
    assert events == [(name, False) for name in names]


def test_evaluate_applies_predict_and_before_batch_of_callbacks():
    class Scaled(Callback):
        def before_batch(self, learner):
            learner.batch.x = learner.batch.x * 2

        def predict(self, learner, proceed):
            learner.batch.output = learner.forward(learner.batch.x) + 1

    subject = linear_learner(pairs(), loss=lambda output, y: output.sum(), callbacks=[Scaled()])
    expected = (subject.model(X * 2) + 1).sum().item()
    assert subject.evaluate([(X, Y)])["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("cancel", "examples"), [(CancelBatch, 8), (CancelEpoch, 4), (CancelFit, 4)])
def test_evaluate_outside_a_fit_with_cancellation_returns_the_means_so_far(cancel, examples):
    def hook(learner):
        if learner.batch.index == 1:
            raise cancel

    subject = linear_learner(
        pairs(), loss=lambda output, y: output.sum() / len(y), callbacks=[At("after_predict", hook)]
    )
    kept = torch.cat([X[:4], X[8:]]) if examples == 8 else X[:4]
    assert subject.evaluate(pairs())["loss"] == pytest.approx(subject.model(kept).sum().item() / examples, rel=1e-6)


def test_cancel_fit_in_evaluate_within_a_fit_ends_the_fit():
    def cancel(learner):
        if not learner.training:
            raise CancelFit

    subject = linear_learner(pairs(), callbacks=[At("after_predict", cancel)])
    subject.fit(3, callbacks=[At("after_step", lambda learner: learner.evaluate(pairs()), order=1)])
    assert subject.steps == 1


# ---- rejected calls -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "evaluate: data must be given, because the learner has no evaluation data"),
        (
            (X, Y),
            r"data must yield batches, such as dashpot.data.Batches\(x, y, batch_size=64\) .* got a tuple of 2 tens",
        ),
        (X, r"data must yield batches, .* got a tensor of shape \(12, 3\)"),
        ([X], "data must yield batches, .* got a list of 1 tensors"),
        ([], "data must contain at least one batch"),
        (3, "data must be dashpot.data.Batches"),
    ],
)
def test_evaluate_with_unsupported_data_raises(data, message):
    subject = linear_learner(pairs())
    with pytest.raises(ArgumentError, match=message):
        subject.evaluate(data)
    assert subject._calls == []
