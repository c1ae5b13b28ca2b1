"""Scheduler: parity with torch, exact resume, errors."""

import copy
import io
import pickle

import pytest
import torch
from torch.optim import SGD, AdamW, lr_scheduler

import dashpot.schedules as sch
from dashpot.errors import ArgumentError
from dashpot.schedules import Scheduler

KNOBS = ("lr", "weight_decay", "eps", "betas")


def parameter(seed=0):
    return torch.nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(seed)))


def adamw(lr=0.1, groups=1, **options):
    return AdamW([{"params": [parameter(k)], "lr": lr / (k + 1)} for k in range(groups)], **options)


def train(optimizer, scheduler, steps, seen=None):
    """Take a few steps of gradient descent; `seen` collects the values at each step."""
    for _ in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = p.detach().clone()
        if seen is not None:
            seen.append([tuple(group[key] for key in KNOBS if key in group) for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()


def everything(optimizer, **options):
    return Scheduler(
        optimizer,
        lr=sch.OneCycle(12),
        momentum=sch.OneCycleMomentum(12),
        weight_decay=sch.Cosine(12),
        eps=sch.Exponential(0.5),
        also={"betas[1]": sch.InverseTime(0.01)},
        **options,
    )


def weights(optimizer):
    return [p.tolist() for group in optimizer.param_groups for p in group["params"]]


def through_disk(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_every_hyperparameter_follows_its_schedule():
    optimizer = adamw(groups=2, weight_decay=0.2, eps=1e-3)
    seen = []
    train(optimizer, everything(optimizer), 15, seen)
    for step, groups in enumerate(seen):
        for k, values in enumerate(groups):
            assert values == (
                0.1 / (k + 1) * sch.OneCycle(12)(step),
                0.2 * sch.Cosine(12)(step),
                1e-3 * 0.5**step,
                (sch.OneCycleMomentum(12)(step), 0.999 * sch.InverseTime(0.01)(step)),
            )


def test_same_as_torch_lambda():
    ours, theirs = adamw(groups=2), adamw(groups=2)
    schedule = sch.Sequence((sch.LinearWarmup(4), sch.Cosine(8)), (4,))
    train(ours, scheduler := Scheduler(ours, lr=schedule), 10)
    train(theirs, reference := lr_scheduler.LambdaLR(theirs, schedule), 10)
    assert scheduler.get_last_lr() == reference.get_last_lr()
    assert scheduler.base_lrs == reference.base_lrs
    assert scheduler.last_epoch == reference.last_epoch
    assert weights(ours) == weights(theirs)


def test_same_as_torch_one_cycle_with_momentum():
    ours, theirs = adamw(lr=0.3), adamw(lr=0.3)
    lr, momentum = [], []
    scheduler = Scheduler(ours, lr=sch.OneCycle(20), momentum=sch.OneCycleMomentum(20))
    reference = lr_scheduler.OneCycleLR(theirs, 0.3, 20)
    for _ in range(20):
        lr.append((ours.param_groups[0]["lr"], theirs.param_groups[0]["lr"]))
        momentum.append((ours.param_groups[0]["betas"], theirs.param_groups[0]["betas"]))
        train(ours, scheduler, 1)
        train(theirs, reference, 1)
    for mine, torchs in lr:
        assert mine == pytest.approx(torchs, rel=1e-12)
    for mine, torchs in momentum:
        assert mine == pytest.approx(torchs, rel=1e-12)


@pytest.mark.parametrize("name", ["momentum", "pole"])
def test_momentum_and_pole_are_aliases(name):
    optimizer = SGD([parameter()], lr=0.1, momentum=0.9)
    scheduler = Scheduler(optimizer, **{name: sch.Constant(0.5)})
    assert optimizer.param_groups[0]["momentum"] == 0.45
    assert optimizer.param_groups[0]["initial_momentum"] == 0.9
    assert scheduler.get_last_lr() == scheduler.base_lrs == [0.1]


def test_hyperparameter_of_any_name_can_be_scheduled():
    optimizer = torch.optim.RMSprop([parameter()], lr=0.1, alpha=0.8)
    Scheduler(optimizer, alpha=sch.Constant(0.5))
    assert optimizer.param_groups[0]["alpha"] == 0.4


@pytest.mark.parametrize("last", [False, True])
def test_creating_a_second_scheduler_does_not_compound(last):
    optimizer = adamw(groups=2)
    seen, reference = [], []
    uninterrupted = adamw(groups=2)
    train(uninterrupted, everything(uninterrupted), 9, reference)
    train(optimizer, everything(optimizer), 5, seen)
    for _ in range(3):
        scheduler = everything(optimizer, last_epoch=4 if last else -1)
    if last:
        train(optimizer, scheduler, 4, seen)
        assert seen == reference
    else:
        train(optimizer, scheduler, 5, again := [])
        assert again == reference[:5]


@pytest.mark.parametrize("way", ["rebuild", "load", "load-scheduler-first"])
def test_resumed_equals_uninterrupted(way):
    straight = adamw(groups=2)
    train(straight, everything(straight), 12, reference := [])

    first = adamw(groups=2)
    scheduler = everything(first)
    train(first, scheduler, 5, seen := [])
    saved, state = through_disk(first.state_dict()), through_disk(scheduler.state_dict())

    second = AdamW([{"params": [torch.tensor(values, requires_grad=True)]} for values in weights(first)])
    if way == "rebuild":
        second.load_state_dict(saved)
        resumed = everything(second, last_epoch=4)
    else:
        resumed = everything(second)
        if way == "load":
            second.load_state_dict(saved)
        resumed.load_state_dict(state)
        if way == "load-scheduler-first":
            second.load_state_dict(saved)
    assert resumed.last_epoch == 5
    assert resumed.get_last_lr() == scheduler.get_last_lr()
    train(second, resumed, 7, seen)
    assert seen == reference
    assert weights(second) == weights(straight)


def test_loading_writes_current_values_without_the_optimizer_state():
    optimizer = adamw()
    scheduler = Scheduler(optimizer, lr=sch.Exponential(0.5))
    train(optimizer, scheduler, 3)
    fresh = adamw(lr=7.0)
    Scheduler(fresh, lr=sch.Exponential(0.5)).load_state_dict(scheduler.state_dict())
    assert fresh.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == 0.1 * 0.125


def test_state_is_plain_data():
    assert Scheduler(adamw(), lr=sch.Exponential(0.5)).state_dict() == {
        "last_epoch": 0,
        "schedules": {"lr": {"schedule": "Exponential", "factor": 0.5}},
        "bases": [{"lr": 0.1}],
    }


def test_tensor_lr_is_written_in_place_and_copied_on_read():
    lr = torch.tensor(0.1, dtype=torch.float64)
    optimizer = SGD([parameter()], lr=lr)
    scheduler = Scheduler(optimizer, lr=sch.Exponential(0.5))
    for step in range(4):
        assert optimizer.param_groups[0]["lr"] is lr
        assert lr.item() == 0.1 * 0.5**step
        last = scheduler.get_last_lr()[0]
        assert torch.equal(last, lr)
        last.fill_(9.0)
        train(optimizer, scheduler, 1)
    assert scheduler.base_lrs == [0.1]


def test_tensor_base_value_of_torch_is_read():
    optimizer = SGD([parameter()], lr=torch.tensor(0.5))
    lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    assert isinstance(optimizer.param_groups[0]["initial_lr"], torch.Tensor)
    scheduler = Scheduler(optimizer, lr=sch.Constant(0.5))
    assert scheduler.get_last_lr() == [torch.tensor(0.25)]
    assert scheduler.state_dict()["bases"] == [{"lr": 0.5}]


def test_group_added_later_is_scheduled():
    optimizer = adamw()
    scheduler = Scheduler(optimizer, lr=sch.Exponential(0.5))
    train(optimizer, scheduler, 2)
    optimizer.add_param_group({"params": [parameter(5)], "lr": 0.8})
    train(optimizer, scheduler, 1)
    assert scheduler.get_last_lr() == [0.1 * 0.125, 0.1]
    assert scheduler.base_lrs == [0.1, 0.8]


def test_optimizer_step_is_not_wrapped():
    optimizer = adamw()
    scheduler = Scheduler(optimizer, lr=sch.Exponential(0.5))
    assert "step" not in vars(optimizer)
    scheduler.step()  # a gradient scaler may have skipped the previous step; in this test, warnings are errors
    optimizer.step()
    assert scheduler.get_last_lr() == [0.05]


def test_works_inside_torch_schedulers():
    optimizer = SGD([parameter()], lr=0.1, momentum=0.8)
    parts = [
        Scheduler(optimizer, lr=sch.LinearWarmup(3, 0.5), momentum=sch.Constant(0.5)),
        Scheduler(optimizer, lr=sch.Exponential(0.5), momentum=sch.Constant(1.0)),
    ]
    scheduler = lr_scheduler.SequentialLR(optimizer, parts, [3])
    seen = []
    for _ in range(6):
        seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        scheduler.step()
    warm, fall = sch.LinearWarmup(3, 0.5), sch.Exponential(0.5)
    assert seen == [(0.1 * warm(s), 0.4) for s in range(3)] + [(0.1 * fall(s), 0.8) for s in range(3)]


def test_get_lr_returns_the_current_rate():
    optimizer = adamw(groups=2)
    scheduler = Scheduler(optimizer, lr=sch.Exponential(0.5))
    train(optimizer, scheduler, 2)
    assert scheduler.get_lr() == scheduler.get_last_lr() == [0.025, 0.0125]
    assert Scheduler(adamw(), eps=sch.Constant()).get_lr() == [0.1]


def test_step_accepts_an_epoch():
    optimizer = adamw()
    scheduler = Scheduler(optimizer, lr=sch.Exponential(0.5))
    scheduler.step(4)
    assert scheduler.get_last_lr() == [0.1 * 0.5**4]
    scheduler.step()
    assert scheduler.last_epoch == 5


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copy_schedules_its_own_optimizer(duplicate):
    optimizer = adamw()
    scheduler = everything(optimizer)
    train(optimizer, scheduler, 3)
    other, twin = duplicate((optimizer, scheduler))
    train(other, twin, 4, copied := [])
    train(optimizer, scheduler, 4, straight := [])
    assert twin.optimizer is other
    assert copied == straight


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Scheduler("adam", lr=sch.Constant()), "optimizer must be a torch.optim.Optimizer, got 'adam'"),
        (lambda: Scheduler(adamw(), lr=0.5), "lr must be a dashpot.schedules.Schedule, got 0.5"),
        (lambda: Scheduler(adamw(), lr=lambda step: 1.0), "lr must be a dashpot.schedules.Schedule"),
        (lambda: Scheduler(adamw(), also={"betas[1]": None}), r"betas\[1\] must be a dashpot.schedules.Schedule"),
        (lambda: Scheduler(adamw(), zero=sch.Constant()), "has no hyperparameter 'zero'; it has lr, betas"),
        (lambda: Scheduler(adamw(), also={"betas[2]": sch.Constant()}), "has no hyperparameter"),
        (lambda: Scheduler(adamw(), betas=sch.Constant()), "betas of parameter group 0 must be a number in"),
        (lambda: Scheduler(adamw(), momentum=sch.Constant(), pole=sch.Constant()), "momentum and pole are the same"),
        (lambda: Scheduler(adamw(), lr=sch.Constant(), also={"lr": sch.Constant()}), "lr is given twice"),
        (lambda: Scheduler(adamw(), lr=sch.Constant(), last_epoch=-2), r"last_epoch must be an integer in \[-1, inf\)"),
        (lambda: Scheduler(adamw(), lr=sch.Constant(), last_epoch=3), "parameter group 0 has no 'initial_lr'"),
    ],
)
def test_invalid_arguments_raise(build, message):
    with pytest.raises(ArgumentError, match=message):
        build()


def test_errors_leave_the_optimizer_unchanged():
    optimizer = adamw(groups=2)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ArgumentError, match="zero"):
        Scheduler(optimizer, lr=sch.Constant(0.5), zero=sch.Constant())
    assert optimizer.state_dict() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"schedules": {"lr": sch.Exponential(0.9).to_dict()}},
            "lr has schedule .*0.9.* in state_dict, but .*0.5.* in this scheduler",
        ),
        ({"schedules": {}}, "lr has schedule None in state_dict"),
        ({"bases": [{"lr": 0.1}] * 2}, "state_dict has 2 parameter groups, the optimizer has 1"),
    ],
)
def test_state_of_a_different_scheduler_raises_before_any_change(change, message):
    scheduler = Scheduler(adamw(), lr=sch.Exponential(0.5))
    state = scheduler.state_dict()
    with pytest.raises(ArgumentError, match=message):
        scheduler.load_state_dict({**state, "last_epoch": 7, **change})
    assert scheduler.state_dict() == state
    assert scheduler.get_last_lr() == [0.1]


def test_incomplete_state_raises():
    scheduler = Scheduler(adamw(), lr=sch.Exponential(0.5))
    with pytest.raises(ArgumentError, match="state_dict lacks bases, schedules;"):
        scheduler.load_state_dict({"last_epoch": 3})
