"""Contract: missing, zero and invalid gradients, and edited weights."""

import pytest
import torch
from contracts.trajectories import gradient, identical, parameters, run, values
from registry import each

import dashpot as dp
from dashpot.stages import ChangeDecay, CoupledDecay, DecoupledDecay, NudgeSmallWeights

DECAYS = (CoupledDecay, DecoupledDecay, ChangeDecay)


def stages(subject):
    return list(subject.make(parameters()).recipe.active())


def moves_by_gradient_alone(subject):
    return not any(isinstance(stage, (*DECAYS, NudgeSmallWeights)) for stage in stages(subject))


def unscheduled(subject):
    return not subject.make(parameters()).schedule


@each()
def test_step_without_any_gradient_does_nothing(subject):
    params = parameters()
    start = values(params)
    optimizer = subject.make(params)
    assert optimizer.step() is None
    assert identical(params, start)
    assert not optimizer.state
    assert optimizer.steps_done() == 0


@each(unscheduled)
def test_missing_gradient_skips_the_parameter(subject):
    """At every third step, parameter 1 has no gradient; it must behave as if these steps did not exist."""
    params = parameters()
    run(subject.make(params), params, 6, missing=lambda step, index: index == 1 and step % 3 == 0)
    (_, alone, _) = others = parameters()
    run(subject.make([alone]), others, [s for s in range(6) if s % 3], missing=lambda step, index: index != 1)
    assert identical([params[1]], [alone])


@pytest.mark.diagonal
@each()
@pytest.mark.parametrize("maximize", [False, True], ids=["down", "up"])
def test_step_leaves_gradients_unchanged(subject, maximize):
    params = parameters()
    optimizer = subject.make(params, maximize=maximize)
    for step in range(3):
        for index, p in enumerate(params):
            p.grad = gradient(p, step, index)
        grads = [p.grad for p in params]
        optimizer.step()
        for index, (p, grad) in enumerate(zip(params, grads, strict=True)):
            assert p.grad is grad
            assert torch.equal(grad, gradient(p, step, index))


@each()
def test_zero_grad_keeps_the_state(subject):
    params = parameters()
    optimizer = subject.make(params)
    run(optimizer, params, 2)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)
    assert optimizer.steps_done() == 2


@pytest.mark.diagonal
@each(moves_by_gradient_alone)
@pytest.mark.parametrize("eps", ["own eps", "eps 0"])
def test_zero_gradients_leave_weights_unchanged(subject, eps):
    params = parameters()
    start = values(params)
    optimizer = subject.make(params)
    if eps == "eps 0":
        without_eps(optimizer)
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert identical(params, start)
    assert all(torch.isfinite(value).all() for state in optimizer.state.values() for value in state.values())


def without_eps(optimizer):
    for name in [name for name in optimizer.param_groups[0] if name.startswith("eps")]:
        optimizer.param_groups[0][name] = 0.0


@each(lambda subject: moves_by_gradient_alone(subject) and "CenteredMoment" not in repr(stages(subject)))
def test_zero_gradient_element_with_eps_zero_is_unchanged(subject):
    """torch yields NaN (0/0). Centered moments, which can be 0 for a nonzero gradient, are excluded."""
    params = [torch.ones(6, dtype=torch.float64, requires_grad=True)]
    optimizer = subject.make(params)
    without_eps(optimizer)
    for step in range(5):  # an odd number of steps, so that equal steps of both signs do not cancel
        grad = gradient(params[0], step)
        grad[::2] = 0.0
        params[0].grad = grad
        optimizer.step()
    assert torch.equal(params[0][::2], torch.ones(3, dtype=torch.float64))
    assert bool((params[0][1::2] != 1).all())
    assert bool(torch.isfinite(params[0]).all())


def test_torch_zero_gradient_element_with_eps_zero_is_nan():
    p = torch.ones(2, dtype=torch.float64, requires_grad=True)
    p.grad = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.optim.Adam([p], eps=0.0).step()
    assert p.isnan().tolist() == [True, False]


@each()
def test_zero_weights_with_zero_gradients_stay_zero(subject):
    """Weight decay also keeps them zero; only AutoSGM's quirk of increasing small weights changes them."""
    params = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 2), ())]
    optimizer = subject.make(params)
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    nudged = any(isinstance(stage, NudgeSmallWeights) for stage in stages(subject))
    assert all(bool((p == 0).all()) is not nudged for p in params)


@each()
def test_step_starts_from_edited_weights(subject):
    """After an edit, steps equal those of a new optimizer with the edited weights and the same state."""
    params = parameters()
    optimizer = subject.make(params)
    run(optimizer, params, 3)
    with torch.no_grad():
        for p in params:
            p.mul_(-2).add_(1)
    others = [p.detach().clone().requires_grad_() for p in params]
    fresh = subject.make(others)
    fresh.load_state_dict(optimizer.state_dict())
    run(optimizer, params, range(3, 6))
    run(fresh, others, range(3, 6))
    assert identical(params, others)


@each()
def test_step_starts_from_weights_assigned_to_data(subject):
    """Assigning `p.data` is a common way to swap in averaged weights."""
    params, others = parameters(), parameters()
    first, second = subject.make(params), subject.make(others)
    run(first, params, 3)
    run(second, others, 3)
    for p, q in zip(params, others, strict=True):
        p.data = torch.full_like(p, 0.5)
        with torch.no_grad():
            q.fill_(0.5)
    run(first, params, range(3, 6))
    run(second, others, range(3, 6))
    assert identical(params, others)


@each()
def test_unfrozen_layer_starts_training(subject):
    """Unfreezing parameters does not require a new optimizer."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 1, dtype=torch.float64)
    frozen, optimizer = list(model[0].parameters()), subject.make(model.parameters())
    for p in frozen:
        p.requires_grad_(False)

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()

    start = values(frozen)
    train(3)
    assert identical(frozen, start)
    assert not any(p in optimizer.state for p in frozen)
    for p in frozen:
        p.requires_grad_(True)
    train(2)
    assert not any(torch.equal(p, q) for p, q in zip(frozen, start, strict=True))
    assert [int(optimizer.state[p]["step"]) for p in model.parameters()] == [2, 2, 5, 5]


def test_invalid_gradient_is_rejected_before_any_write():
    """Only the second gradient is invalid, but the first parameter is unchanged too."""
    params = parameters()
    start = values(params)
    optimizer = dp.Adam(params)
    run(optimizer, params, 1)
    after = values(params)
    for index, p in enumerate(params):
        p.grad = gradient(p, 1, index)
    params[0].grad = params[0].grad.to_sparse()
    params[0].grad, params[1].grad = gradient(params[0], 1), gradient(params[1], 1).to_sparse()
    with pytest.raises(dp.ArgumentError, match="Adam: gradients must be dense"):
        optimizer.step()
    assert identical(params, after)
    assert not identical(params, start)
    assert optimizer.steps_done() == 1
