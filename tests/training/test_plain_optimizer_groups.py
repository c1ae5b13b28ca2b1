"""Hyperparameters and groups of plain optimizers: schedules, recorders, tables, and warnings."""

import warnings

import pytest
import torch
from learner_support import At, StopAt, problem, same, weights
from plain_support import Lesson, MomentumSGD, Saved, learner_of
from torch.optim.lr_scheduler import StepLR

from dashpot.errors import ArgumentError
from dashpot.schedules import Linear
from dashpot.training import Progress, Recorder, Schedule, one_cycle, train

pytestmark = pytest.mark.filterwarnings("ignore:.*is not a torch optimizer:UserWarning")


def test_schedule_and_recorder_use_attributes():
    recorder = Recorder("lr", "mom", "wd")
    schedules = Schedule({"lr": Linear(1.0, 0.5, steps=2), "mom": Linear(1.0, 0.0, steps=3)})
    learner = learner_of(MomentumSGD, lr=0.1)
    used = []
    learner.fit(1, callbacks=[recorder, schedules, At("after_step", lambda o: used.append(o.opt.wrapped.lr), order=-1)])
    assert recorder.values["lr"] == pytest.approx([0.1, 0.075, 0.05], rel=1e-12)
    assert used == recorder.values["lr"]
    assert recorder.values["mom"] == pytest.approx([0.9, 0.6, 0.3], rel=1e-12)
    assert learner.opt.param_groups[0]["lr"] == learner.opt.wrapped.lr == 0.1  # restored after the fit


def test_attribute_set_by_a_callback_is_used_and_recorded():
    def halve(learner):
        learner.opt.wrapped.lr /= 2

    recorder = Recorder("lr")
    learner = learner_of(Lesson, lr=0.8)
    learner.fit(1, callbacks=[recorder, At("after_step", halve, order=100)])
    assert recorder.values["lr"] == [0.8, 0.4, 0.2]


def test_torch_scheduler_and_one_cycle_change_the_attribute():
    for schedule, last in ((Schedule(lambda opt: StepLR(opt, 1, 0.1)), 1e-2), (one_cycle(max_lr=1.0), 4e-6)):
        learner, used = learner_of(Lesson, lr=1.0), []
        record = At("after_step", lambda o, used=used: used.append(o.opt.wrapped.lr), order=-1)
        learner.fit(1, callbacks=[schedule, record])
        assert used[-1] == pytest.approx(last, rel=1e-12)


class NoRate:
    def __init__(self, params, lr):
        self.inner = torch.optim.SGD(params, lr)

    def step(self):
        self.inner.step()

    def zero_grad(self):
        self.inner.zero_grad()


@pytest.mark.parametrize(
    "callback",
    [Recorder("lr"), Schedule(Linear(1.0, 0.5, steps=2)), Schedule(lambda opt: StepLR(opt, 1)), one_cycle(0.1)],
)
def test_unknown_learning_rate_cannot_be_scheduled_or_recorded(callback):
    with pytest.raises(ArgumentError, match="'lr'"):
        learner_of(NoRate).fit(1, callbacks=[callback])


class Slow:
    """Wrapper of a torch optimizer that halves its steps and does not inherit from `Optimizer`."""

    def __init__(self, params, lr):
        self.inner = torch.optim.SGD(params, lr, momentum=0.9)
        self.param_groups = self.inner.param_groups

    def step(self):
        before = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        self.inner.step()
        with torch.no_grad():
            for p, old in zip(self.param_groups[0]["params"], before, strict=True):
                p.lerp_(old, 0.5)

    def zero_grad(self):
        self.inner.zero_grad()

    def state_dict(self):
        return self.inner.state_dict()

    def load_state_dict(self, state):
        self.inner.load_state_dict(state)
        self.param_groups = self.inner.param_groups


def test_groups_of_the_object_are_scheduled_recorded_and_resumed():
    def fit(*callbacks, **options):
        learner = learner_of(Slow, lr=0.5)
        learner.fit(2, callbacks=[one_cycle(), recorder, *callbacks], **options)
        return learner

    recorder, stop = Recorder("lr", "momentum"), StopAt(4)
    whole = fit()
    values = recorder.values
    assert values["momentum"][0] == 0.95
    assert max(values["lr"]) > 0.4
    fit(stop)
    resumed = fit(resume=stop.state)
    assert same(weights(resumed), weights(whole))
    assert recorder.values == values


class Fixed(Lesson):
    lr = property(lambda self: 0.1)

    def __init__(self, params, lr):
        self.params, self.wd, self.i = list(params), 0, 0


def test_attribute_that_cannot_be_set_is_named():
    with pytest.raises(ArgumentError, match="Fixed: attribute 'lr' must be writable to be scheduled"):
        learner_of(Fixed).fit(1, callbacks=[Schedule(Linear(1.0, 0.5, steps=2))])


def test_unknown_learning_rate_is_omitted_from_table_and_nan_in_epochs(capsys):
    learner = learner_of(NoRate, lr=0.1)
    learner.fit(1, callbacks=[Progress()])
    assert len(capsys.readouterr().out.splitlines()) == 3
    given = problem()
    [epoch] = train(given, NoRate(given.model.parameters(), 0.1), 1)  # pyright: ignore[reportArgumentType]
    assert all(lr != lr for lr in epoch.lr)


def test_limits_are_stated_once_for_each_class():
    class Rate(NoRate):
        pass

    learner = learner_of(Rate)
    with pytest.warns(UserWarning, match=r"state is not saved.*has no attribute lr"):
        learner.fit(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner.fit(1)
        learner_of(Saved).fit(1)
