"""Schedules of a fit: repeated and resumed fits."""

from __future__ import annotations

import io
from functools import partial

import pytest
import torch
from learner_support import StopAt, learner, problem, same, weights
from schedule_support import BOTH_SGD, TORCH_SCHEDULERS, StepValues, step_values
from slow_values import others_slow
from torch.optim import lr_scheduler

import dashpot as dp
from dashpot.errors import RunError
from dashpot.schedules import Cosine, Exponential, OneCycleMomentum, Plateau
from dashpot.training import Callback, Engine, Learner
from dashpot.training.callbacks.schedule import Schedule, one_cycle

# ---- repeated fits --------------------------------------------------------------------------------------------------


REPEATED = {
    **TORCH_SCHEDULERS,
    "ours": Cosine,
    "plateau": Plateau(factor=0.1, patience=0),
    "1cycle": one_cycle(0.3).schedule,
}


@pytest.mark.diagonal
@pytest.mark.parametrize("name", others_slow(sorted(REPEATED), "onecycle", "ours", "plateau", "sequential"))
@BOTH_SGD
def test_second_fit_repeats_the_schedule_of_the_first(name, make):
    """Both fits share an optimizer, whose hyperparameters are restored and whose added keys are removed."""
    made = problem()
    optimizer = make(made.model.parameters(), lr=0.5, momentum=0.9)
    subject = Learner.of(made, optimizer, engine=Engine("cpu"))
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    seen = []
    for _ in range(2):
        seen.append(StepValues())
        subject.fit(3, callbacks=[Schedule(REPEATED[name]), seen[-1]])
        left = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        for group in (*settings, *left):
            group.pop("steps_done", None)
        assert left == settings
        assert "step" not in vars(optimizer)
    assert seen[0].values == seen[1].values
    assert len(seen[0].values) == 9


def test_tensor_lr_is_updated_in_place():
    rate = torch.tensor(0.5, dtype=torch.float64)
    seen = step_values(Schedule(Cosine), make=lambda params, lr: torch.optim.SGD(params, lr=rate))
    assert seen == [Cosine(9).value(0.5, step) for step in range(9)]
    assert rate.item() == 0.5


def test_hyperparameters_are_restored_after_an_error():
    class Fails(Callback):
        def after_batch(self, learner):
            raise ZeroDivisionError

    subject = learner(torch.optim.SGD, callbacks=[Schedule(Exponential(0.5))])
    with pytest.raises(ZeroDivisionError):
        subject.fit(1, callbacks=[Fails()])
    assert subject.opt.param_groups[0]["lr"] == 0.01


# ---- resuming -------------------------------------------------------------------------------------------------------


def save_and_load(state):
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


RESUMED = {**REPEATED, "mapping": lambda n: {"lr": Cosine(n), "momentum": OneCycleMomentum(n)}}


@pytest.mark.diagonal
@pytest.mark.parametrize("at", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("per", ["batch", "epoch"])
@pytest.mark.parametrize(
    "name", others_slow(sorted(RESUMED), "1cycle", "mapping", "onecycle", "ours", "plateau", "sequential")
)
def test_resumed_fit_has_identical_values(name, per, at):
    make = partial(dp.SGD if at == 4 else torch.optim.SGD, momentum=0.9)
    torch.manual_seed(1)
    values, subject = StepValues(), learner(make, 0.5, callbacks=[Schedule(RESUMED[name], per)])
    subject.fit(3, callbacks=[values])
    torch.manual_seed(1)
    stop = StopAt(at)
    first = learner(make, 0.5, callbacks=[Schedule(RESUMED[name], per)])
    first.fit(3, callbacks=[stop])
    again = StepValues()
    second = learner(make, 0.5, callbacks=[Schedule(RESUMED[name], per), again])
    stop.state["callbacks"]["StepValues"] = {}
    second.fit(3, resume=save_and_load(stop.state))
    assert again.values == values.values[at:]
    assert same(weights(subject), weights(second))


@pytest.mark.parametrize("name", others_slow(["ours", "exponential", "plateau"], "ours"))
def test_state_after_a_fit_resumes(name):
    """After a fit, the optimizer has its initial rates; the scheduled rates are in the state of the callback."""
    make = partial(Exponential, 0.9) if name == "ours" else None
    schedule = (lambda n: make()) if make else RESUMED[name]
    first = learner(torch.optim.SGD, 0.5, callbacks=[Schedule(schedule)])
    torch.manual_seed(1)
    first.fit(2)
    again = StepValues()
    second = learner(torch.optim.SGD, 0.5, callbacks=[Schedule(schedule), again])
    state = save_and_load(first.state_dict())
    state["callbacks"]["StepValues"] = {}
    second.fit(4, resume=state)
    torch.manual_seed(1)
    whole = step_values(Schedule(schedule), 4)
    assert again.values == whole[6:]


DIFFERENT = {
    "longer": (Cosine, Cosine),
    "torch": (TORCH_SCHEDULERS["exponential"], partial(lr_scheduler.ExponentialLR, gamma=0.8)),
    "longer torch": (TORCH_SCHEDULERS["onecycle"], TORCH_SCHEDULERS["onecycle"]),
    "kind": (Cosine(20), TORCH_SCHEDULERS["exponential"]),
    "plateau": (Plateau(factor=0.5, patience=0), Plateau(factor=0.1, patience=0)),
    "torch plateau": (
        partial(lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=0, threshold=0.9),
        partial(lr_scheduler.ReduceLROnPlateau, factor=0.1, patience=0, threshold=0.9),
    ),
}


@pytest.mark.diagonal
@pytest.mark.parametrize("per", ["batch", "epoch"])
@pytest.mark.parametrize("name", others_slow(DIFFERENT, "longer", "kind", "torch plateau"))
def test_different_schedule_is_rejected_or_advanced_with_override(name, per):
    """`load_state_dict` of torch schedulers silently overwrites settings."""
    saved, current = DIFFERENT[name]
    first = learner(partial(torch.optim.SGD, momentum=0.9), 0.5, callbacks=[Schedule(saved, per)])
    torch.manual_seed(1)
    first.fit(2)
    state = save_and_load(first.state_dict())
    with pytest.raises(RunError, match=r"schedules of the checkpoint and of this fit differ: .* saved .*, current "):
        learner(partial(torch.optim.SGD, momentum=0.9), 0.5, callbacks=[Schedule(current, per)]).fit(3, resume=state)
    seen = StepValues()
    resumed = learner(partial(torch.optim.SGD, momentum=0.9), 0.5, callbacks=[Schedule(current, per)])
    resumed.fit(3, callbacks=[seen], resume=state, override=True)
    if "plateau" in name:  # uses the losses of the first fit
        made = plateau_factor(current, [epoch["eval"]["loss"] for epoch in first.history])
        assert seen.values == pytest.approx([0.5 * made] * 3, rel=1e-15)
    else:
        whole = step_values(Schedule(current, per), make=partial(torch.optim.SGD, momentum=0.9))
        assert seen.values == whole[6:]


def plateau_factor(plateau, losses):
    p = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    if isinstance(plateau, Plateau):
        return plateau.factor_after(losses)
    scheduler = plateau(p)
    for loss in losses:
        scheduler.step(loss)
    return p.param_groups[0]["lr"]
