"""Several optimizers, each with its own loss, step, clipping, schedule and columns."""

from __future__ import annotations

import copy
import json
from functools import partial
from typing import Any

import pytest
import torch
from learner_support import At, StopAt, fp16, raise_if
from torch import nn

import dashpot as dp
from dashpot.data import Batches
from dashpot.errors import ArgumentError
from dashpot.runs.entries import entry
from dashpot.tasks import Problem, evaluate
from dashpot.training import (
    EMA,
    Accumulate,
    CancelBatch,
    Checkpoints,
    ClipGradients,
    Engine,
    ForOptimizer,
    Freeze,
    JSONLines,
    Learner,
    Recorder,
    Schedule,
    find_lr,
    read_newest,
    train,
)

X = torch.randn(24, 2, generator=torch.Generator().manual_seed(0)) + 3
NOISE = torch.randn(24, 2, generator=torch.Generator().manual_seed(1))
RATES = {"discriminator": 0.05, "generator": 0.02}


class GAN(nn.Module):
    """Generator and discriminator of points in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, noise, part):
        fake = self.generator(noise)
        if part == "generator":
            return self.discriminator(fake)
        return fake.detach(), self.discriminator


def generator_loss(scores, y):
    return nn.functional.softplus(-scores).mean()


def discriminator_loss(output, real):
    fake, discriminator = output
    return nn.functional.softplus(-discriminator(real)).mean() + nn.functional.softplus(discriminator(fake)).mean()


LOSSES = {"discriminator": discriminator_loss, "generator": generator_loss}


def gan() -> GAN:
    torch.manual_seed(2)
    return GAN()


def learner(optimizers: Any = None, losses: Any = None, lr: Any = RATES, engine=None, **options) -> Learner:
    optimizers = dict.fromkeys(LOSSES, torch.optim.Adam) if optimizers is None else optimizers
    source = Batches(NOISE, X, 8, shuffle=True, seed=3)
    losses = LOSSES if losses is None else losses
    engine = engine or Engine("cpu")
    return Learner(gan(), source, loss=losses, optimizer=optimizers, lr=lr, engine=engine, **options)


def reference(epochs: int = 3, clip: float | None = None):
    """Train by a plain loop; return the weights, and the losses of each step."""
    model, batches = gan(), Batches(NOISE, X, 8, shuffle=True, seed=3)
    opts = {name: torch.optim.Adam(getattr(model, name).parameters(), lr=lr) for name, lr in RATES.items()}
    losses = []
    for epoch in range(epochs):
        for noise, real in batches.epoch(epoch):
            row = {}
            for name, opt in opts.items():
                model.zero_grad()
                loss = LOSSES[name](model(noise, name), real)
                loss.backward()
                if clip is not None and name == "generator":
                    nn.utils.clip_grad_norm_(model.generator.parameters(), clip)
                opt.step()
                row[name] = loss.item()
            losses.append(row)
    return [p.detach() for p in model.parameters()], losses


def assert_equal_weights(model, expected):
    for own, other in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(own.detach(), other, rtol=0, atol=0)


def test_fit_two_optimizers_equals_plain_loop():
    fitted = learner()
    fitted.fit(3)
    weights, losses = reference()
    assert_equal_weights(fitted.model, weights)
    assert fitted.steps == 9
    for name in LOSSES:
        mean = sum(row[name] for row in losses[-3:]) / 3
        assert fitted.history[-1]["train"][f"loss_{name}"] == pytest.approx(mean, rel=1e-6)  # float32 losses
    last = fitted.history[-1]["train"]
    assert last["loss"] == pytest.approx(last["loss_generator"] + last["loss_discriminator"], rel=1e-6)
    assert all(p.requires_grad for p in fitted.model.parameters())


@pytest.mark.parametrize("fitted", [True, False], ids=["after fit", "before fit"])
def test_evaluate_sums_the_losses(fitted):
    trained = learner(evaluation_loss=LOSSES)
    if fitted:
        trained.fit(1)
    measured = trained.evaluate([(NOISE, X)])
    problem = Problem(trained.model, trained.train.source, LOSSES, evaluation=Batches(NOISE, X, 24))
    expected = {f"loss_{name}": LOSSES[name](trained.model(NOISE, name), X).item() for name in LOSSES}
    assert measured == pytest.approx({**expected, "loss": sum(expected.values())}, rel=1e-6)  # float32 losses
    assert evaluate(problem)["loss"] == pytest.approx(measured["loss"], rel=1e-6)


def test_fit_problem_with_several_losses_uses_one_factory_for_each():
    problem = Problem(gan(), Batches(NOISE, X, 8, shuffle=True, seed=3), LOSSES)
    fitted = Learner.of(problem, torch.optim.Adam, lr=RATES, engine=Engine("cpu"))
    fitted.fit(3)
    assert_equal_weights(fitted.model, reference()[0])


def test_fit_instances_equals_factories():
    model = gan()
    opts = {name: torch.optim.Adam(getattr(model, name).parameters(), lr=lr) for name, lr in RATES.items()}
    fitted = learner(opts, lr=None)
    fitted.model.load_state_dict(model.state_dict())
    given = Learner(model, fitted.train.source, loss=LOSSES, optimizer=opts, engine=Engine("cpu"))
    given.fit(3)
    assert_equal_weights(model, reference()[0])


def test_for_optimizer_clips_one_optimizer():
    fitted = learner()
    recorder = Recorder("grad_norm")
    fitted.fit(3, callbacks=[ForOptimizer("generator", ClipGradients(norm=1e-3)), ForOptimizer("generator", recorder)])
    weights, losses = reference(clip=1e-3)
    assert_equal_weights(fitted.model, weights)
    assert recorder.values["loss"] == pytest.approx([row["generator"] for row in losses], rel=1e-6)
    assert len(recorder.values["grad_norm"]) == 9
    assert min(recorder.values["grad_norm"]) > 1e-3


def test_for_optimizer_schedules_one_optimizer():
    fitted, recorders = learner(), {name: Recorder("lr") for name in LOSSES}
    schedule = Schedule(lambda opt: torch.optim.lr_scheduler.ExponentialLR(opt, 0.5))
    observers = [ForOptimizer(name, recorder) for name, recorder in recorders.items()]
    fitted.fit(2, callbacks=[ForOptimizer("generator", schedule), *observers])
    assert recorders["generator"].values["lr"] == pytest.approx([0.02 * 0.5**step for step in range(6)])
    assert recorders["discriminator"].values["lr"] == [0.05] * 6


def test_for_optimizer_forwards_step_events_only_of_own_steps():
    class Events(Recorder):
        def __init__(self):
            super().__init__()
            self.seen = []

        def after_step(self, learner):
            self.seen.append(learner.opt)

    class Skip(Recorder):
        def step(self, learner, proceed):
            if learner.steps != 1:
                proceed()

    seen = {name: Events() for name in LOSSES}
    fitted = learner()
    fitted.fit(1, callbacks=[*(ForOptimizer(*item) for item in seen.items()), ForOptimizer("generator", Skip())])
    assert [opt is fitted.loop.optimizers["discriminator"] for opt in seen["discriminator"].seen] == [True] * 3
    assert len(seen["generator"].seen) == 2


def test_resume_within_epoch_equals_uninterrupted_fit(tmp_path):
    def callbacks():
        schedule = Schedule(lambda opt: torch.optim.lr_scheduler.ExponentialLR(opt, 0.9))
        return [ForOptimizer("generator", schedule), EMA(0.9)]

    stop = StopAt(4)
    learner(dict.fromkeys(LOSSES, dp.AdamW)).fit(3, callbacks=[*callbacks(), stop])
    resumed, whole = learner(dict.fromkeys(LOSSES, dp.AdamW)), learner(dict.fromkeys(LOSSES, dp.AdamW))
    resumed.fit(3, callbacks=callbacks(), resume=copy.deepcopy(stop.state))
    whole.fit(3, callbacks=callbacks())
    assert_equal_weights(resumed.model, whole.model.parameters())
    assert resumed.history == whole.history


def test_resume_from_checkpoint_file_equals_uninterrupted_fit(tmp_path):
    learner().fit(2, callbacks=[Checkpoints(tmp_path)])
    resumed, whole = learner(), learner()
    resumed.fit(3, resume=read_newest(tmp_path))
    whole.fit(3)
    assert_equal_weights(resumed.model, whole.model.parameters())


def test_logger_has_columns_of_each_optimizer(tmp_path):
    learner().fit(1, callbacks=[JSONLines(tmp_path / "log.jsonl")])
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert row["train"].keys() == {"loss", *(f"{kind}_{name}" for kind in ("loss", "lr") for name in LOSSES)}
    assert {name: row["train"][f"lr_{name}"] for name in LOSSES} == RATES
    assert row["lr"] == RATES["discriminator"]


def test_fit_with_fp16_scaler_steps_both_optimizers():
    engine = Engine("cpu", precision="fp16")
    engine.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    fitted = learner(engine=engine)
    fitted.fit(3)
    for own, other in zip(fitted.model.parameters(), reference()[0], strict=True):
        torch.testing.assert_close(own.detach(), other, rtol=0.05, atol=0.02)  # float16 forward passes


def test_same_forward_for_all_parts_without_argument_part():
    model = nn.Sequential()
    model.add_module("first", nn.Linear(2, 2))
    model.add_module("second", nn.Linear(2, 2))
    losses = dict.fromkeys(("first", "second"), nn.functional.mse_loss)
    fitted = Learner(
        model, [(X, X)], loss=losses, optimizer=dict.fromkeys(losses, torch.optim.SGD), lr=0.01, engine=Engine("cpu")
    )
    before = copy.deepcopy(model)
    fitted.fit(1)
    assert not torch.equal(model[0].weight, before[0].weight)
    assert not torch.equal(model[1].weight, before[1].weight)


SGD = torch.optim.SGD


@pytest.mark.parametrize(
    ("optimizers", "losses", "message"),
    [
        ({"generator": SGD}, None, "must be mappings with the same names .* got 'generator' and 'discriminator', 'gen"),
        (SGD, None, "must be mappings with the same names in the same order, got one type and 'discriminator', "),
        (None, generator_loss, "got 'discriminator', 'generator' and one function"),
        ({}, {}, "names of optimizers must be non-empty strings, got none"),
        ({1: SGD}, {1: generator_loss}, "names of optimizers must be non-empty strings, got 1"),
    ],
)
def test_names_of_optimizers_and_losses_differ_raises(optimizers, losses, message):
    with pytest.raises(ArgumentError, match=message):
        learner(optimizers, losses)


def test_unknown_child_raises():
    losses = {"critic": generator_loss}
    with pytest.raises(ArgumentError, match="child of the model, 'generator', 'discriminator', got 'critic'"):
        learner({"critic": SGD}, losses, lr=0.1).fit(1)


def test_parameter_without_optimizer_raises():
    with pytest.raises(ArgumentError, match=r"none for discriminator\.0\.weight, .* and 1 more; set requires_grad"):
        learner({"generator": SGD}, {"generator": generator_loss}, lr=0.1).fit(1)


def test_shared_parameter_raises():
    model = gan()
    opts = {name: SGD(model.parameters(), lr=0.1) for name in LOSSES}
    fitted = Learner(model, [(NOISE, X)], loss=LOSSES, optimizer=opts, engine=Engine("cpu"))
    with pytest.raises(ArgumentError, match="must not share parameters, got one of 'discriminator' and 'generator'"):
        fitted.fit(1)


@pytest.mark.parametrize("rates", [{"critic": 0.1}, {"discriminator": 0.1}, {**RATES, "critic": 0.1}])
def test_unknown_or_missing_rate_raises(rates):
    with pytest.raises(ArgumentError, match="lr must be a number or have the names of the optimizers, 'disc"):
        learner(lr=rates).fit(1)


@pytest.mark.parametrize("callback", [Recorder("lr"), Schedule(lambda opt: None), ClipGradients(norm=1.0)])
def test_callback_of_one_optimizer_without_binding(callback):
    if isinstance(callback, ClipGradients):  # clips the gradient of each optimizer
        learner().fit(1, callbacks=[callback])
        return
    with pytest.raises(ArgumentError, match=r"bind a callback to one with ForOptimizer\('discriminator', callback\)"):
        learner().fit(1, callbacks=[callback])


def test_accumulation_raises():
    with pytest.raises(ArgumentError, match="accumulate must be 1 with several optimizers, got 2"):
        learner().fit(1, callbacks=[Accumulate(2)])


def test_find_lr_with_several_optimizers_raises():
    with pytest.raises(ArgumentError, match="find_lr: the learner must have one optimizer, got 2"):
        find_lr(learner())


@pytest.mark.parametrize(
    ("name", "callback", "message"),
    [
        ("critic", Recorder("lr"), "name must be one of discriminator, generator, got 'critic'"),
    ],
)
def test_for_optimizer_unknown_name_raises(name, callback, message):
    with pytest.raises(ArgumentError, match=message):
        learner().fit(1, callbacks=[ForOptimizer(name, callback)])


@pytest.mark.parametrize("callback", [1, None, ForOptimizer("a", Recorder("lr"))])
def test_for_optimizer_invalid_callback_raises(callback):
    with pytest.raises(ArgumentError, match="ForOptimizer: callback must be a callback, got"):
        ForOptimizer("a", callback)


def test_train_with_factory_creates_one_optimizer_for_each_loss():
    problem = Problem(gan(), Batches(NOISE, X, 8, shuffle=True, seed=3), LOSSES)
    epochs = train(problem, partial(entry("adamw", "gan", lr=0.01).optimizer, steps=9), 3)
    other = learner(dict.fromkeys(LOSSES, dp.AdamW), lr=0.01)
    other.fit(3)
    assert_equal_weights(problem.model, other.model.parameters())
    assert epochs[-1].train["loss_generator"] == other.history[-1]["train"]["loss_generator"]
    assert epochs[-1].lr == [0.01] * 3


def test_turn_cancelled_under_loss_scale_with_recorder_of_the_other_optimizer():
    def in_second_batch(one):
        return one.loop.part == "generator" and one.batch.index == 1

    def fitted(*callbacks):
        one = learner(engine=fp16())
        one.fit(2, callbacks=[At("after_backward", raise_if(CancelBatch, in_second_batch), order=15), *callbacks])
        return one

    recorder = Recorder("grad_norm")
    one = fitted(ForOptimizer("discriminator", recorder))
    assert (one.steps, len(recorder.values["grad_norm"])) == (6, 6)  # the discriminator steps in all six batches
    assert_equal_weights(one.model, fitted().model.parameters())


def test_frozen_part_of_the_model_is_named():
    message = "must depend on a trained parameter of the optimizer 'generator'; all parameters of the optimizer"
    with pytest.raises(ArgumentError, match=message):
        learner().fit(1, callbacks=[Freeze("generator.*")])
