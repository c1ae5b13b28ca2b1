"""Classes with only a constructor, `step` and `zero_grad` as optimizers of the learner."""

import copy

import pytest
import torch
from learner_support import At, StopAt, fp16, pairs, problem, same, weights
from plain_support import Lesson, MomentumSGD, Saved, learner_of
from torch import nn

from dashpot.errors import ArgumentError, RunError
from dashpot.training import (
    EMA,
    Checkpoints,
    ClipGradients,
    Engine,
    Learner,
    NonFinite,
    find_lr,
    latest,
    read_newest,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*is not a torch optimizer:UserWarning")


# ---- steps ----------------------------------------------------------------------------------------------------------


def test_lesson_class_equals_its_own_loop():
    learner = learner_of(MomentumSGD)
    model, grads = copy.deepcopy(learner.model), {}
    for x, y in pairs() * 2:
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for name, p in model.named_parameters():
                grads[name] = 0.9 * grads.get(name, 0) + 0.1 * p.grad
                p -= 1.25 * grads[name]
    learner.fit(2)
    for trained, expected in zip(learner.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(trained, expected, rtol=1e-6, atol=1e-7)  # float32, different order of products
    assert learner.opt.wrapped.i == learner.steps == 6


class Positional(Lesson):
    def __init__(self, weights, rate):
        super().__init__(weights, rate)


class Iterates:
    """An optimizer that stores its argument without a copy."""

    def __init__(self, params, lr):
        self.params, self.lr = params, lr

    def step(self):
        for p in self.params:
            p.data -= self.lr * p.grad

    def zero_grad(self):
        for p in self.params:
            p.grad = None


def anything(*arguments):
    return Lesson(*arguments)


@pytest.mark.parametrize("make", [Lesson, Positional, Iterates, anything])
def test_constructor_with_any_signature_gives_sgd(make):
    learner, reference = learner_of(make, lr=0.1), learner_of(torch.optim.SGD, lr=0.1)
    learner.fit(2)
    reference.fit(2)
    for ours, theirs in zip(learner.model.parameters(), reference.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)  # float32, fused multiplication in torch


def test_instance_is_shared_by_fits():
    torch.manual_seed(3)
    model = nn.Linear(3, 2)
    given = Lesson(model.parameters(), 0.1)
    learner = learner_of(given, lr=None, model=model)
    learner.fit(1)
    learner.fit(1)
    assert learner.opt.wrapped is given
    assert given.i == 6
    with pytest.raises(ArgumentError, match="lr must be None if optimizer is an instance"):
        learner.fit(1, lr=0.1)


def test_clipping_averages_and_loss_scale_apply():
    clip, ema = ClipGradients(norm=1e-3), EMA(0.5, warmup=False)
    learner, reference = learner_of(Lesson, lr=0.1), learner_of(torch.optim.SGD, lr=0.1)
    for fit in (learner, reference):
        fit.engine = fp16()
        fit.fit(1, callbacks=[clip, ema])
        assert clip.last_norm > 1e-3
    for ours, theirs in zip(learner.model.parameters(), reference.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


# ---- state ----------------------------------------------------------------------------------------------------------


def test_state_without_state_dict_cannot_be_saved(tmp_path):
    for callback in (Checkpoints(tmp_path / "a"), NonFinite(folder=tmp_path / "b")):
        with pytest.raises(RunError, match=r"the state of MomentumSGD cannot be saved; define the methods state_dict"):
            learner_of(MomentumSGD).fit(1, callbacks=[callback])
    assert not list(tmp_path.iterdir())
    learner = learner_of(MomentumSGD)
    learner.fit(1, callbacks=[NonFinite()])
    with pytest.raises(RunError, match="Learner: the state of MomentumSGD cannot be saved"):
        learner.state_dict()


def test_resume_with_state_dict_is_bit_identical(tmp_path):
    def make():
        return Learner.of(problem(), Saved, lr=0.5, engine=Engine("cpu"))

    torch.manual_seed(0)
    whole = make()
    whole.fit(3)
    torch.manual_seed(0)
    stop = At("before_batch", lambda o: (_ for _ in ()).throw(MemoryError) if o.loop.position == (1, 2) else None)
    with pytest.raises(MemoryError):
        make().fit(3, callbacks=[Checkpoints(tmp_path, every_steps=1), stop])
    assert latest(tmp_path) is not None
    resumed = make()
    resumed.fit(3, resume=read_newest(tmp_path))
    assert same(weights(resumed), weights(whole))
    assert resumed.opt.wrapped.i == whole.opt.wrapped.i == 9


def test_rejected_resume_leaves_state_unchanged():
    stop = StopAt(2)
    learner_of(Saved).fit(1, callbacks=[stop])
    assert stop.state is not None
    other = learner_of(Saved)
    other.fit(1)
    given = other.opt
    learner = learner_of(given, lr=None, model=other.model)
    averages = [average.clone() for average in given.wrapped.state_dict()["averages"]]
    stop.state["callbacks"]["EMA"] = {"averages": {}, "count": 1, "statistics": {}}
    stop.state["settings"]["callbacks"]["EMA"] = EMA(0.9).settings()
    with pytest.raises(RunError, match="averages of different parameters"):
        learner.fit(1, callbacks=[EMA(0.9)], resume=stop.state, override=True)
    assert given.wrapped.i == 3
    assert all(map(torch.equal, given.wrapped.state_dict()["averages"], averages))


def test_resume_of_different_optimizer_is_rejected():
    stop = StopAt(2)
    learner_of(torch.optim.SGD).fit(1, callbacks=[stop])
    with pytest.raises(RunError, match=r"optimizer: saved torch.SGD, current Saved"):
        learner_of(Saved).fit(1, resume=stop.state)
    with pytest.raises(RunError, match="cannot be loaded: The state is not that of Saved"):
        learner_of(Saved).fit(1, resume=stop.state, override=True)


def test_damaged_state_is_rejected():
    stop = StopAt(2)
    learner_of(Saved).fit(1, callbacks=[stop])
    assert stop.state is not None
    [saved] = stop.state["optimizer"]["state"].values()
    saved["averages"][0] = saved["averages"][0][:1]
    with pytest.raises(RunError, match=r"optimizer state of the checkpoint is damaged: optimizer\.state"):
        learner_of(Saved).fit(1, resume=stop.state)


def test_find_lr_restores_attributes_of_parameters():
    learner = learner_of(MomentumSGD)
    [p, _] = learner.model.parameters()
    p.note = torch.zeros(2)
    curve = find_lr(learner, callbacks=[At("after_step", lambda o: p.note.add_(1))])
    assert len(curve.lrs) > 3
    assert vars(p).keys() == {"note"}
    assert p.note.tolist() == [0, 0]
    model = nn.Linear(3, 2)
    with pytest.raises(RunError, match="find_lr: the state of MomentumSGD cannot be saved"):
        find_lr(learner_of(MomentumSGD(model.parameters(), 0.1), lr=None, model=model))


def test_find_lr_restores_an_instance_with_state_dict():
    model = nn.Linear(3, 2)
    given = Saved(model.parameters(), 0.1)
    learner = learner_of(given, lr=None, model=model)
    learner.fit(1)
    before = copy.deepcopy(given.state_dict())
    assert len(find_lr(learner).lrs) > 3
    assert (given.lr, given.i) == (0.1, 3)
    assert all(map(torch.equal, given.state_dict()["averages"], before["averages"]))


# ---- errors ---------------------------------------------------------------------------------------------------------


class NeedsClosure(Lesson):
    def step(self, closure):  # pyright: ignore[reportIncompatibleMethodOverride]
        closure()


class NoZeroGrad:
    def __init__(self, params, lr):
        pass

    def step(self):
        pass


class KeepsIterator(Iterates):
    def __init__(self, params, lr):
        super().__init__(iter(params), lr)


@pytest.mark.parametrize(
    ("make", "lr", "message"),
    [
        (NeedsClosure, 0.1, r"must support step\(\) without arguments, got NeedsClosure, whose step requires closure"),
        (NoZeroGrad, 0.1, "must have the methods step and zero_grad, got NoZeroGrad without zero_grad"),
        (KeepsIterator, 0.1, r"KeepsIterator: params must be a list, got an iterator.*store list\(params\)"),
        (Lesson, None, "lr must be given, because Lesson requires it"),
        (lambda params, wd=0: Lesson(params, 0.1, wd), 0.1, "optimizer must accept the argument lr"),
        (lambda params, lr: 3, 0.1, "must return a torch.optim.Optimizer or an object with step and zero_grad, got 3"),
    ],
)
def test_unsuitable_factory_is_rejected(make, lr, message):
    with pytest.raises(ArgumentError, match=message):
        learner_of(make, lr=lr).fit(1)


def test_parameters_without_gradient_are_named_as_the_cause():
    model = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])
    model.forward = model[0].forward
    with pytest.raises(RunError, match=r"Lesson: step fails .*, and 2 parameters have no gradient; skip parameters"):
        learner_of(Lesson, model=model).fit(1)


def test_adapter_rejects_groups_and_closures():
    learner = learner_of(Lesson)
    learner.fit(1)
    with pytest.raises(ArgumentError, match="parameter groups cannot be added"):
        learner.opt.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})
    with pytest.raises(ArgumentError, match="closure must be None"):
        learner.opt.step(lambda: 0)
    with pytest.raises(AttributeError, match="the Lesson is its attribute wrapped"):
        learner.opt.i  # noqa: B018
