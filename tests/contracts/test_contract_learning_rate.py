"""lr is a number or a 0-d tensor, may change at any step, and zero means no movement."""

import pytest
import torch
from contracts.trajectories import distance, identical, parameters, run, values
from registry import each

# A tensor's arithmetic may be ordered differently from a number's: a few roundings of float64 over ten steps.
ROUNDINGS = 1e-14


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


@each()
def test_a_tensor_gives_what_the_number_gives(subject):
    params, others = parameters(), parameters()
    run(subject.make(params), params)
    run(subject.make(others, lr=tensor(subject.lr)), others)
    assert distance(others, params) < ROUNDINGS


@each()
def test_a_tensor_changed_in_place_and_a_number_replaced_are_seen(subject):
    params, others = parameters(), parameters()
    lr = tensor(subject.lr)
    first, second = subject.make(params), subject.make(others, lr=lr)
    run(first, params, 5)
    run(second, others, 5)
    unchanged = values(params)
    first.param_groups[0]["lr"] = subject.lr / 4
    lr.div_(4)
    run(first, params, range(5, 10))
    run(second, others, range(5, 10))
    assert distance(others, params) < ROUNDINGS
    straight = parameters()
    run(subject.make(straight), straight)
    assert not identical(params, straight)
    assert not identical(params, unchanged)


@each()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tensor_of_another_precision_leaves_the_dtypes(subject, dtype):
    params = parameters(getattr(torch, dtype))
    optimizer = subject.make(params, lr=tensor(subject.lr))
    run(optimizer, params, 2)
    assert all(p.dtype == getattr(torch, dtype) for p in params)
    assert all(optimizer.state[p][key].dtype == torch.float32 for p in params for key in subject.keys)


@each()
def test_the_tensor_itself_is_never_written(subject):
    params = parameters()
    lr = tensor(subject.lr)
    optimizer = subject.make(params, lr=lr)
    run(optimizer, params, 3)
    assert lr.item() == subject.lr
    assert optimizer.param_groups[0]["lr"] is lr


@each(lambda subject: subject.lr_moves_all)
def test_a_group_with_lr_zero_does_not_move(subject):
    moving, still, alone = parameters(seed=1), parameters(seed=2), parameters(seed=1)
    start = values(still)
    optimizer = subject.make([{"params": moving}, {"params": still, "lr": 0.0}])
    run(optimizer, [*moving, *still], 5)
    run(subject.make(alone), alone, 5)
    assert identical(still, start)
    assert identical(moving, alone)


@each(lambda subject: not subject.lr_moves_all)
def test_a_decay_independent_of_lr_goes_on_at_lr_zero(subject):
    """The exception to the contract above, and its reason: the flag in the table is true."""
    params = parameters()
    start = values(params)
    run(subject.make(params, lr=0.0), params, 1)
    assert not identical(params, start)
    assert all(bool((p.abs() < q.abs()).all()) for p, q in zip(params, start, strict=True))


@each()
def test_lr_at_tells_the_rate_of_the_next_step(subject):
    optimizer = subject.make(parameters())
    assert optimizer.current_lr() == pytest.approx(subject.lr, rel=1e-15)
    optimizer.param_groups[0]["lr"] = tensor(0.25)
    assert optimizer.current_lr() == 0.25
