"""Contract: lr can be a number or a 0-d tensor, can change at any step, and can be zero."""

import pytest
import torch
from contracts.trajectories import distance, identical, parameters, run, values
from registry import each

# Arithmetic with a tensor may be in a different order, which causes a few roundings of float64 in a run.
ROUNDINGS = 1e-14


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


@each()
def test_tensor_lr_equals_float_lr(subject):
    params, others = parameters(), parameters()
    run(subject.make(params), params, 6)
    run(subject.make(others, lr=tensor(subject.lr)), others, 6)
    assert distance(others, params) < ROUNDINGS


@each()
def test_changed_lr_takes_effect_at_the_next_step(subject):
    params, others = parameters(), parameters()
    lr = tensor(subject.lr)
    first, second = subject.make(params), subject.make(others, lr=lr)
    run(first, params, 3)
    run(second, others, 3)
    unchanged = values(params)
    first.param_groups[0]["lr"] = subject.lr / 4
    lr.div_(4)
    run(first, params, range(3, 6))
    run(second, others, range(3, 6))
    assert distance(others, params) < ROUNDINGS
    straight = parameters()
    run(subject.make(straight), straight, 6)
    assert not identical(params, straight)
    assert not identical(params, unchanged)


@pytest.mark.diagonal
@each()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_float64_lr_keeps_dtypes(subject, dtype):
    params = parameters(getattr(torch, dtype))
    optimizer = subject.make(params, lr=tensor(subject.lr))
    run(optimizer, params, 2)
    assert all(p.dtype == getattr(torch, dtype) for p in params)
    assert all(optimizer.state[p][key].dtype == torch.float32 for p in params for key in subject.keys)


@each()
def test_tensor_lr_is_not_modified(subject):
    params = parameters()
    lr = tensor(subject.lr)
    optimizer = subject.make(params, lr=lr)
    run(optimizer, params, 3)
    assert lr.item() == subject.lr
    assert optimizer.param_groups[0]["lr"] is lr


@each(lambda subject: subject.lr_moves_all)
def test_group_with_zero_lr_is_unchanged(subject):
    moving, still, alone = parameters(seed=1), parameters(seed=2), parameters(seed=1)
    start = values(still)
    optimizer = subject.make([{"params": moving}, {"params": still, "lr": 0.0}])
    run(optimizer, [*moving, *still], 3)
    run(subject.make(alone), alone, 3)
    assert identical(still, start)
    assert identical(moving, alone)


@each(lambda subject: not subject.lr_moves_all)
def test_decay_independent_of_lr_applies_at_zero_lr(subject):
    """These subjects are the exception to the contract above: their `lr_moves_all` is False."""
    params = parameters()
    start = values(params)
    run(subject.make(params, lr=0.0), params, 1)
    assert not identical(params, start)
    assert all(bool((p.abs() < q.abs()).all()) for p, q in zip(params, start, strict=True))


@each()
def test_current_lr_is_the_rate_of_the_next_step(subject):
    optimizer = subject.make(parameters())
    assert optimizer.current_lr() == pytest.approx(subject.lr, rel=1e-15)
    optimizer.param_groups[0]["lr"] = tensor(0.25)
    assert optimizer.current_lr() == 0.25
