"""The training loop against a naive one, and what it says of a run that diverges."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import nn

import dashpot
from dashpot.data import Batches
from dashpot.errors import ArgumentError
from dashpot.schedules import Exponential
from dashpot.tasks import Problem, accuracy, evaluate
from dashpot.tasks.means import FLUSH
from dashpot.training import Callback, CancelFit, Divergence, Engine, Learner, train
from dashpot.training.loop import COUNT, EpochStats


def problem(examples: int = 10, batch_size: int = 4, seed: int = 0) -> Problem:
    """Three classes from four numbers; batches of 4, 4 and 2, in a new order every epoch."""
    draw = torch.Generator().manual_seed(seed)
    x, y = torch.randn(examples, 4, generator=draw), torch.randint(0, 3, (examples,), generator=draw)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
    return Problem(
        model=model,
        train=Batches(x, y, batch_size, shuffle=True, seed=seed),
        evaluation=Batches(x, y, examples),
        loss=nn.functional.cross_entropy,
        metrics={"accuracy": accuracy},
    )


def surface(losses: list[float]) -> Problem:
    """A problem whose loss at step k is `losses[k]`, whatever the weight; one step an example."""

    class Told(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0 * self.w

    x = torch.tensor(losses)
    return Problem(Told(), Batches(x, torch.zeros(len(losses)), batch_size=1), lambda output, _: output.mean())


def test_weights_and_losses_are_those_of_a_naive_loop():
    ours, naive = problem(), problem()
    optimizer = dashpot.Adam(ours.model.parameters(), lr=0.01)
    torch.manual_seed(5)
    epochs = train(ours, optimizer, 3)
    reference = dashpot.Adam(naive.model.parameters(), lr=0.01)
    torch.manual_seed(5)
    losses = []
    for number in range(3):
        naive.model.train()
        for x, y in naive.train.epoch(number):
            reference.zero_grad()
            loss = naive.loss(naive.model(x), y)
            loss.backward()
            reference.step()
            losses.append(loss.item())
    assert [loss for epoch in epochs for loss in epoch.loss] == losses
    for mine, theirs in zip(ours.model.parameters(), naive.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_every_epoch_is_evaluated_with_the_weights_it_ends_with():
    p = problem()
    seen = []
    train(p, dashpot.SGD(p.model.parameters(), lr=0.1), 2, on_epoch=lambda e: seen.append((e.evaluation, evaluate(p))))
    assert len(seen) == 2
    assert all(recorded == now for recorded, now in seen)


def test_a_learner_measures_what_evaluate_measures():
    """Also over more batches than are read from the device at a time."""
    p = problem(examples=3 * FLUSH + 1)
    p.evaluation = Batches(p.train.x, p.train.y, 2)
    learner = Learner.of(p, dashpot.SGD(p.model.parameters(), lr=0.1), engine=Engine("cpu"))
    learner.fit(1)
    assert learner.history[0]["eval"] == evaluate(p)
    [epoch] = train(p, dashpot.SGD(p.model.parameters(), lr=0.1), 1)
    assert epoch.evaluation == evaluate(p)


def test_it_trains_where_the_model_is_whatever_has_started_the_process(monkeypatch):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)  # nor is it needed
    p = problem()
    [epoch] = train(p, dashpot.SGD(p.model.parameters(), lr=0.1), 1)
    assert epoch.steps == 3


def test_the_model_is_left_ready_to_train():
    p = problem()
    train(p, dashpot.SGD(p.model.parameters(), lr=0.1), 1)
    assert all(module.training for module in p.model.modules())


class StopAfter(Callback):
    order = 200

    def __init__(self, batches):
        self.batches, self.state = batches, None

    def after_batch(self, learner):
        self.batches -= learner.training
        if self.batches == 0 and self.state is None:
            self.state = learner.state_dict()
            raise CancelFit


@pytest.mark.parametrize("batches", [1, 2, 3, 5])
def test_epochs_are_told_whole_where_a_fit_goes_on(batches):
    def begun():
        p = problem()
        return Learner.of(p, dashpot.Adam(p.model.parameters(), lr=0.01), engine=Engine("cpu")), EpochStats()

    def numbers(epochs):
        return [(e.number, e.steps, e.train, e.evaluation, e.loss, e.lr) for e in epochs]

    torch.manual_seed(5)
    learner, whole = begun()
    learner.fit(3, callbacks=[whole])
    torch.manual_seed(5)
    learner, first = begun()
    stop = StopAfter(batches)
    learner.fit(3, callbacks=[first, stop])
    learner, rest = begun()
    learner.fit(3, callbacks=[rest], resume=stop.state)
    assert numbers([*first.epochs, *rest.epochs]) == numbers(whole.epochs)


def test_training_means_weigh_batches_by_their_size():
    p = problem()
    p.model[2].p = 0.0
    optimizer = dashpot.SGD(p.model.parameters(), lr=0.0)
    [epoch] = train(p, optimizer, 1)
    everything = evaluate(p)
    assert epoch.train["accuracy"] == everything["accuracy"]
    # The weights stand still, so the weighted mean over batches is the mean over all; float32 losses agree to rounding.
    assert epoch.train["loss"] == pytest.approx(everything["loss"], rel=1e-6)
    assert epoch.steps == 3 == len(epoch.loss)


@pytest.mark.parametrize("first", [0, 2])
def test_recorded_rate_is_the_one_each_step_used(first):
    p = problem()
    optimizer = dashpot.SGD(p.model.parameters(), lr=0.1, schedule=Exponential(0.5))
    epochs = train(p, optimizer, 3, first=first)
    rates = [lr for epoch in epochs for lr in epoch.lr]
    assert rates == [0.1 * 0.5**k for k in range(3 * (3 - first))]


def test_recorded_rate_under_a_torch_scheduler_is_the_one_before_the_scheduler_steps():
    p = problem()
    optimizer = torch.optim.SGD(p.model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    [epoch] = train(p, optimizer, 1, on_step=lambda _: scheduler.step())
    assert epoch.lr == [1.0, 0.5, 0.25]


def test_steps_are_counted_over_epochs_and_from_where_a_run_goes_on():
    p = problem()
    counted: list[int] = []
    epochs = train(p, dashpot.SGD(p.model.parameters()), 3, first=1, on_step=counted.append)
    assert counted == [4, 5, 6, 7, 8, 9]
    assert [(epoch.number, epoch.steps) for epoch in epochs] == [(2, 6), (3, 9)]


def test_later_epochs_see_their_own_order():
    p, seen = problem(), []
    p.loss = lambda output, y: seen.append(y.tolist()) or nn.functional.cross_entropy(output, y)
    p.evaluation = None
    train(p, dashpot.SGD(p.model.parameters()), 2, first=1)
    assert seen == [y.tolist() for _, y in p.train.epoch(1)]


@pytest.mark.parametrize(("value", "label"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "inf")])
@pytest.mark.parametrize("step", [0, 1, FLUSH - 1, FLUSH, 2 * FLUSH + 3])
def test_divergence_is_told_at_its_step_and_ends_the_run(step, value, label):
    losses = [1.0] * (4 * FLUSH)
    losses[step] = value
    p, trained = surface(losses), []
    epochs = train(p, torch.optim.SGD(p.model.parameters(), lr=0.1), 2, on_step=trained.append)
    assert len(epochs) == 1
    assert epochs[0].diverged == Divergence(step, label)
    assert epochs[0].loss[:step] == losses[:step]
    assert len(epochs[0].loss) == len(epochs[0].lr) == epochs[0].steps == step + 1
    assert epochs[0].train == epochs[0].evaluation == {}
    assert len(trained) <= step + FLUSH


def test_divergence_in_a_later_epoch_counts_steps_from_the_start():
    p = surface([1.0, 1.0, 1.0])
    calls = iter(range(100))
    p.loss = lambda output, _: output.mean() + (math.nan if next(calls) == 4 else 0.0)
    epochs = train(p, torch.optim.SGD(p.model.parameters(), lr=0.1), 5)
    assert [epoch.diverged for epoch in epochs] == [None, Divergence(4, "nan")]


@pytest.mark.parametrize("value", COUNT.refused())
@pytest.mark.parametrize("name", ["epochs", "first"])
def test_bad_counts_are_refused_before_training(name, value):
    p = problem()
    arguments = {"epochs": 1, "first": 0, name: value}
    with pytest.raises(ArgumentError, match=f"train: {name} must be"):
        train(p, dashpot.SGD(p.model.parameters()), on_step=lambda _: pytest.fail("trained"), **arguments)


def test_no_epochs_or_more_done_than_wanted_is_refused():
    p = problem()
    for epochs, first in ((0, 0), (1, 2)):
        with pytest.raises(ArgumentError, match="train: "):
            train(p, dashpot.SGD(p.model.parameters()), epochs, first=first)
