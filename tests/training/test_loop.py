"""Function `train`: equality with a plain loop, recorded epochs, and divergence."""

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
from dashpot.tasks.running_means import SYNC_INTERVAL
from dashpot.training import Callback, CancelFit, Divergence, Engine, Learner, train
from dashpot.training.intervals import COUNT as EPOCHS
from dashpot.training.loop import EpochStats, single_device_learner


def problem(examples: int = 10, batch_size: int = 4, seed: int = 0) -> Problem:
    """Return a problem of three classes and four inputs, with batches of 4, 4 and 2 shuffled in every epoch."""
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


def scripted_problem(losses: list[float]) -> Problem:
    """Return a problem whose loss at step k is `losses[k]` for any weight, with one example per step."""

    class Identity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0 * self.w

    x = torch.tensor(losses)
    return Problem(Identity(), Batches(x, torch.zeros(len(losses)), batch_size=1), lambda output, _: output.mean())


def test_train_equals_plain_loop():
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


def test_train_evaluates_after_every_epoch():
    p = problem()
    seen = []
    train(p, dashpot.SGD(p.model.parameters(), lr=0.1), 2, on_epoch=lambda e: seen.append((e.evaluation, evaluate(p))))
    assert len(seen) == 2
    assert all(recorded == now for recorded, now in seen)


def test_learner_evaluation_equals_evaluate():
    """The evaluations are also equal with more batches than are read from the device at once."""
    p = problem(examples=3 * SYNC_INTERVAL + 1)
    p.evaluation = Batches(p.train.x, p.train.y, 2)
    learner = Learner.of(p, dashpot.SGD(p.model.parameters(), lr=0.1), engine=Engine("cpu"))
    learner.fit(1)
    assert learner.history[0]["eval"] == evaluate(p)
    [epoch] = train(p, dashpot.SGD(p.model.parameters(), lr=0.1), 1)
    assert epoch.evaluation == evaluate(p)


def test_train_ignores_launcher_variables(monkeypatch):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)  # `train` does not require Fabric either
    p = problem()
    [epoch] = train(p, dashpot.SGD(p.model.parameters(), lr=0.1), 1)
    assert epoch.steps == 3


def test_train_leaves_model_in_training_mode():
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
def test_epoch_stats_are_restored_on_resume(batches):
    def make():
        p = problem()
        return Learner.of(p, dashpot.Adam(p.model.parameters(), lr=0.01), engine=Engine("cpu")), EpochStats()

    def numbers(epochs):
        return [(e.number, e.steps, e.train, e.evaluation, e.loss, e.lr) for e in epochs]

    torch.manual_seed(5)
    learner, whole = make()
    learner.fit(3, callbacks=[whole])
    torch.manual_seed(5)
    learner, first = make()
    stop = StopAfter(batches)
    learner.fit(3, callbacks=[first, stop])
    learner, rest = make()
    learner.fit(3, callbacks=[rest], resume=stop.state)
    assert numbers([*first.epochs, *rest.epochs]) == numbers(whole.epochs)


def test_training_means_are_weighted_by_batch_size():
    p = problem()
    p.model[2].p = 0.0
    optimizer = dashpot.SGD(p.model.parameters(), lr=0.0)
    [epoch] = train(p, optimizer, 1)
    everything = evaluate(p)
    assert epoch.train["accuracy"] == everything["accuracy"]
    # The weights are constant, so the weighted mean over batches equals the mean over examples up to float32 rounding.
    assert epoch.train["loss"] == pytest.approx(everything["loss"], rel=1e-6)
    assert epoch.steps == 3 == len(epoch.loss)


def test_recorded_lr_is_that_of_each_step():
    p = problem()
    epochs = train(p, dashpot.SGD(p.model.parameters(), lr=0.1, schedule=Exponential(0.5)), 3)
    assert [lr for epoch in epochs for lr in epoch.lr] == [0.1 * 0.5**k for k in range(9)]


def test_recorded_lr_precedes_torch_scheduler_step():
    p = problem()
    optimizer = torch.optim.SGD(p.model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    [epoch] = train(p, optimizer, 1, on_step=lambda _: scheduler.step())
    assert epoch.lr == [1.0, 0.5, 0.25]


def test_steps_are_counted_over_epochs():
    p, counted = problem(), []
    epochs = train(p, dashpot.SGD(p.model.parameters()), 2, on_step=counted.append)
    assert counted == [1, 2, 3, 4, 5, 6]
    assert [(epoch.number, epoch.steps) for epoch in epochs] == [(1, 3), (2, 6)]


def test_every_epoch_has_its_data_order():
    p, seen = problem(), []
    p.loss = lambda output, y: seen.append(y.tolist()) or nn.functional.cross_entropy(output, y)
    p.evaluation = None
    train(p, dashpot.SGD(p.model.parameters()), 2)
    assert seen == [y.tolist() for epoch in range(2) for _, y in p.train.epoch(epoch)]


@pytest.mark.parametrize(("value", "label"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "inf")])
@pytest.mark.parametrize("step", [0, 1, SYNC_INTERVAL - 1, SYNC_INTERVAL, 2 * SYNC_INTERVAL + 3])
def test_divergence_ends_training_at_its_step(step, value, label):
    losses = [1.0] * (4 * SYNC_INTERVAL)
    losses[step] = value
    p, trained = scripted_problem(losses), []
    epochs = train(p, torch.optim.SGD(p.model.parameters(), lr=0.1), 2, on_step=trained.append)
    assert len(epochs) == 1
    assert epochs[0].diverged == Divergence(step, label)
    assert epochs[0].loss[:step] == losses[:step]
    assert len(epochs[0].loss) == len(epochs[0].lr) == epochs[0].steps == step + 1
    assert epochs[0].train == epochs[0].evaluation == {}
    assert len(trained) <= step + SYNC_INTERVAL


def test_divergence_step_counts_from_start_of_run():
    p = scripted_problem([1.0, 1.0, 1.0])
    calls = iter(range(100))
    p.loss = lambda output, _: output.mean() + (math.nan if next(calls) == 4 else 0.0)
    epochs = train(p, torch.optim.SGD(p.model.parameters(), lr=0.1), 5)
    assert [epoch.diverged for epoch in epochs] == [None, Divergence(4, "nan")]


@pytest.mark.parametrize("epochs", EPOCHS.refused())
def test_invalid_epochs_raise_before_training(epochs):
    p = problem()
    with pytest.raises(ArgumentError, match="train: epochs must be"):
        train(p, dashpot.SGD(p.model.parameters()), epochs, on_step=lambda _: pytest.fail("trained"))


@pytest.mark.parametrize("length", [{"steps": 10}, {"epochs": 2}])
def test_stats_of_intervals_count_steps_since_the_start(length):
    data = problem(examples=18)
    counted: list[int] = []
    stats = EpochStats(on_step=counted.append)
    learner = single_device_learner(data, torch.optim.SGD(data.model.parameters(), lr=0.1))
    learner.fit(**length, evaluate_every=3, callbacks=[stats])
    assert counted == list(range(1, 11))
    assert [(epoch.steps, len(epoch.loss)) for epoch in stats.epochs] == [(3, 3), (6, 3), (9, 3), (10, 1)]
