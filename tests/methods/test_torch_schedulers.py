"""torch's schedulers have the same effect on dashpot's optimizers as on torch's own."""

import inspect

import pytest
import torch
from contracts.trajectories import distance, gradient, identical, parameters, run
from registry import SUBJECTS, each
from subjects import Subject
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.swa_utils import SWALR

import dashpot as dp

STEPS = 9
TOLERANCE = 1e-11  # the documented bound for parity with torch.optim in float64

SCHEDULERS = {
    "LambdaLR": lambda opt: torch_schedulers.LambdaLR(opt, lambda step: 0.9**step),
    "MultiplicativeLR": lambda opt: torch_schedulers.MultiplicativeLR(opt, lambda step: 0.9),
    "StepLR": lambda opt: torch_schedulers.StepLR(opt, 3, gamma=0.5),
    "MultiStepLR": lambda opt: torch_schedulers.MultiStepLR(opt, [2, 5], gamma=0.5),
    "ConstantLR": lambda opt: torch_schedulers.ConstantLR(opt, factor=0.5, total_iters=4),
    "LinearLR": lambda opt: torch_schedulers.LinearLR(opt, start_factor=0.2, total_iters=6),
    "ExponentialLR": lambda opt: torch_schedulers.ExponentialLR(opt, 0.8),
    "PolynomialLR": lambda opt: torch_schedulers.PolynomialLR(opt, total_iters=10, power=2.0),
    "CosineAnnealingLR": lambda opt: torch_schedulers.CosineAnnealingLR(opt, T_max=10, eta_min=1e-3),
    "CosineAnnealingWarmRestarts": lambda opt: torch_schedulers.CosineAnnealingWarmRestarts(opt, T_0=3, T_mult=2),
    "CyclicLR": lambda opt: torch_schedulers.CyclicLR(opt, 0.001, 0.02, step_size_up=3, cycle_momentum=False),
    "CyclicLR with momentum": lambda opt: torch_schedulers.CyclicLR(
        opt, 0.001, 0.02, step_size_up=3, base_momentum=0.7, max_momentum=0.9
    ),
    "OneCycleLR": lambda opt: torch_schedulers.OneCycleLR(opt, 0.05, total_steps=STEPS, cycle_momentum=False),
    "OneCycleLR with momentum": lambda opt: torch_schedulers.OneCycleLR(opt, 0.05, total_steps=STEPS),
    "SequentialLR": lambda opt: torch_schedulers.SequentialLR(
        opt,
        [torch_schedulers.LinearLR(opt, 0.1, total_iters=4), torch_schedulers.ExponentialLR(opt, 0.9)],
        milestones=[4],
    ),
    "ChainedScheduler": lambda opt: torch_schedulers.ChainedScheduler(
        [torch_schedulers.ConstantLR(opt, 0.5, total_iters=3), torch_schedulers.ExponentialLR(opt, 0.9)]
    ),
    "ReduceLROnPlateau": lambda opt: torch_schedulers.ReduceLROnPlateau(opt, factor=0.5, patience=1),
    "SWALR": lambda opt: SWALR(opt, swa_lr=0.002, anneal_epochs=5),
}
CYCLES_MOMENTUM = [name for name in SCHEDULERS if name.endswith("momentum")]

REPRESENTATIVES = {
    "heavy-ball",
    "nag",
    "qhm",
    "qhadam-both",
    "centered-adam",
    "adamw-decay-by-schedule",
    "autosgm-0-zero",
    "autosgm-1-debiased",
    "autosgm-2-plain",
    "autosgm-3-zero",
    "autosgm-4-debiased",
    "esgd-quasi-hyperbolic",
    "adahessian",
    "sophia",
    "sgm-all-stages",
    "sgm-no-stage",
    "own-stage",
}
"""One subject for each way in which methods use the rate and the momentum."""

each_scheduler = pytest.mark.parametrize("scheduler", SCHEDULERS)


def drivable(subject: Subject, scheduler: str) -> bool:
    """Return False if the scheduler cycles momentum but the subject has none."""
    return subject.momentum_key is not None or scheduler not in CYCLES_MOMENTUM


def advance(scheduler, step):
    if isinstance(scheduler, torch_schedulers.ReduceLROnPlateau):
        scheduler.step([1.0, 0.9, 0.9, 0.9, 0.9, 0.8][step % 6])
    else:
        scheduler.step()


def train(optimizer, params, scheduler, steps=STEPS):
    """Return the values of lr, momentum and betas (if the group has them) at each step."""
    history = []
    driver = SCHEDULERS[scheduler](optimizer)
    for step in range(steps):
        group = optimizer.param_groups[0]
        history.append({key: group[key] for key in ("lr", "momentum", "betas") if key in group})
        for index, p in enumerate(params):
            p.grad = gradient(p, step, index)
        optimizer.step()
        if step + 1 < steps:  # OneCycleLR does not allow further steps
            advance(driver, step)
    return history


def test_table_contains_every_torch_scheduler():
    public = {name for name in torch_schedulers.__all__ if inspect.isclass(getattr(torch_schedulers, name))}
    assert public - {"LRScheduler"} <= {name.split()[0] for name in SCHEDULERS}


def is_representative(subject):
    """Return True for the subjects listed above, and for subjects of classes that are not listed."""
    if subject.name in REPRESENTATIVES:
        return True
    return not subject.counterpart and subject.cls not in {s.cls for s in SUBJECTS if s.name in REPRESENTATIVES}


def test_representatives_are_subjects():
    assert {subject.name for subject in SUBJECTS} >= REPRESENTATIVES


@pytest.mark.diagonal
@each_scheduler
@each(lambda subject: subject.counterpart)
def test_scheduled_trajectory_equals_torch(subject, scheduler):
    if not drivable(subject, scheduler):
        with pytest.raises(ValueError, match="momentum"):
            SCHEDULERS[scheduler](subject.make_torch(parameters()))
        return
    torch.set_default_dtype(torch.float64)  # torch stores NAdam's running product in this dtype
    try:
        ours, theirs = parameters(), parameters()
        seen = train(subject.make(ours), ours, scheduler)
        expected = train(subject.make_torch(theirs, foreach=False), theirs, scheduler)
    finally:
        torch.set_default_dtype(torch.float32)
    assert seen == expected
    assert distance(ours, theirs) < TOLERANCE


@pytest.mark.diagonal
@each_scheduler
@each(is_representative)
def test_scheduled_lr_and_momentum_equal_manual_edits(subject, scheduler):
    """The scheduler writes the same values as for SGD or Adam of torch, and the step uses them."""
    if not drivable(subject, scheduler):
        with pytest.raises(ValueError, match="momentum"):
            SCHEDULERS[scheduler](subject.make(parameters()))
        return
    params, others, reference = parameters(), parameters(), parameters()
    optimizer = subject.make(params, schedule=None)
    seen = train(optimizer, params, scheduler)
    group = {key: value for key, value in optimizer.defaults.items() if key in ("lr", "momentum", "betas")}
    known = {"momentum": torch.optim.SGD, "betas": torch.optim.Adam, None: torch.optim.SGD}[subject.momentum_key]
    expected = train(known(reference, **group), reference, scheduler)
    assert seen == [{key: values[key] for key in group} for values in expected]
    assert len({str(values) for values in seen}) > 1
    by_hand = subject.make(others, schedule=None)
    initial = {
        key: optimizer.param_groups[0][key] for key in ("initial_lr", "max_lr") if key in optimizer.param_groups[0]
    }
    for step, values in enumerate(seen):
        by_hand.param_groups[0].update({**initial, **values})
        for index, p in enumerate(others):
            p.grad = gradient(p, step, index)
        by_hand.step()
    assert identical(params, others)


@each_scheduler
def test_scheduler_updates_a_tensor_lr(scheduler):
    params, others = parameters(), parameters()
    lr = torch.tensor(0.01, dtype=torch.float64)
    seen = train(dp.AdamW(params, lr=lr), params, scheduler)
    expected = train(dp.AdamW(others, lr=0.01), others, scheduler)
    assert distance(params, others) < 1e-9  # torch computes some factors in a different order
    assert [values["betas"] for values in seen] == [values["betas"] for values in expected]


@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if name != "ReduceLROnPlateau"])
def test_resumed_scheduler_equals_an_uninterrupted_run(scheduler):
    straight = parameters()
    whole = dp.AutoSGM(straight, lr=0.01)
    driver = SCHEDULERS[scheduler](whole)
    params = parameters()
    first = dp.AutoSGM(params, lr=0.01)
    first_driver = SCHEDULERS[scheduler](first)

    def go(optimizer, driver, params, steps):
        for step in steps:
            for index, p in enumerate(params):
                p.grad = gradient(p, step, index)
            optimizer.step()
            if step + 1 < STEPS:
                driver.step()

    go(whole, driver, straight, range(STEPS))
    go(first, first_driver, params, range(5))
    again = [p.detach().clone().requires_grad_() for p in params]
    second = dp.AutoSGM(again, lr=0.01)
    second_driver = SCHEDULERS[scheduler](second)
    saved = first_driver.state_dict()
    second_driver.load_state_dict(saved)
    second.load_state_dict(first.state_dict())  # after the scheduler, as torch's documentation requires
    go(second, second_driver, again, range(5, STEPS))
    assert identical(again, straight)


def test_decay_scale_schedule_follows_a_torch_scheduler():
    """With decay_scale="schedule", the decay uses the factor of a torch scheduler, but not the base lr."""

    def shrink(lr, scheduler):
        w = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = dp.AdamW([w], lr=lr, weight_decay=0.1, decay_scale="schedule")
        driver = SCHEDULERS[scheduler](optimizer)
        sizes = []
        for _ in range(4):
            w.grad = torch.zeros_like(w)
            before = w.item()
            optimizer.step()
            driver.step()
            sizes.append(1 - w.item() / before)
        return sizes

    # weight_decay times the current factor, which is 0.8^n or, for OneCycleLR, the fraction of the peak.
    expected = [0.1 * 0.8**n for n in range(4)]
    assert shrink(1e-3, "ExponentialLR") == pytest.approx(expected, rel=1e-12)
    assert shrink(1e-1, "ExponentialLR") == pytest.approx(expected, rel=1e-12)
    w = torch.ones(1, requires_grad=True)
    reference = torch.optim.SGD([w], lr=1e-3)
    driver = SCHEDULERS["OneCycleLR"](reference)
    shares = []
    for _ in range(4):
        shares.append(0.1 * reference.param_groups[0]["lr"] / 0.05)
        reference.step()
        driver.step()
    assert shrink(1e-3, "OneCycleLR") == pytest.approx(shares, rel=1e-12)


def test_lr_rounded_below_zero_counts_as_zero():
    """With its recursive formula, LinearLR ends slightly below zero."""
    params = parameters()
    optimizer = dp.SGD(params, lr=0.1)
    scheduler = torch_schedulers.LinearLR(optimizer, 1 / 3, 0.0, 5)
    for step in range(8):
        run(optimizer, params, [step])
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] < 0
    optimizer.param_groups[0]["lr"] = -1e-6
    with pytest.raises(dp.ArgumentError, match="lr must be"):
        optimizer.step()


def test_scheduled_decay_does_not_exceed_its_base_value():
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = dp.AdamW([w], lr=1e-2, weight_decay=0.1, decay_scale="schedule")
    scheduler = torch_schedulers.CyclicLR(optimizer, 1e-3, 1e-2, step_size_up=4, cycle_momentum=False)
    for _ in range(8):
        before = w.detach().clone()
        w.grad = torch.zeros_like(w)
        optimizer.step()
        torch.testing.assert_close(w.detach(), before * 0.9, rtol=1e-12, atol=0)
        scheduler.step()
