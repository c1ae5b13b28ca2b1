"""Contract: derivatives through training are finite even if gradients are exactly zero."""

import pytest
import torch
from contracts.trajectories import parameters
from registry import each
from subjects import known_products

import dashpot as dp
from dashpot.functional import init, observe, update
from dashpot.stages.at_zero import nonzero, over, power, root

WEIGHTS = torch.tensor([0.7, -0.4, 1.3, -1.1, 0.2], dtype=torch.float64)
DIRECTION = torch.tensor([0.3, -1.0, 0.8, 0.5, -0.6], dtype=torch.float64)
MASKS = {"some": [1.0, 0.0, 1.0, 1.0, 0.0], "none": [0.0] * 5}


def smooth(subject):
    """Exclude subjects that take a sign, or the root of a variance that is only a rounding error."""
    return subject.name not in ("own-stage", "centered-adam-at-once")


def training(subject, mask):
    """Return the loss after three steps as a function of lr and weights; gradients are zero where `mask` is 0."""
    recipe = subject.make(parameters()).recipe
    mask = torch.tensor(mask, dtype=torch.float64)

    def outcome(lr, w):
        state = init(recipe, w)
        for step in range(3):
            if recipe.observes() and subject.product_at(step):
                (product,) = known_products([w], [ones := torch.ones_like(w)])
                state = observe(recipe, state, ones, product * mask, step)
            gradient = mask * (2 * (w - 0.3) + torch.cos(w))
            w, state = update(recipe.with_settings(lr=lr), w, gradient, state, step)
        return (w**2).sum() + torch.sin(w).sum()

    return outcome


@pytest.mark.diagonal
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@each(smooth)
def test_derivatives_through_zero_gradients_equal_finite_differences(subject, mask):
    outcome, lr, h = training(subject, mask), torch.tensor(subject.lr, dtype=torch.float64), 1e-6
    ahead = (lr * 0.5, DIRECTION)
    by_lr, by_weight = torch.func.grad(outcome, (0, 1))(lr, WEIGHTS)
    slope = by_lr * ahead[0] + (by_weight * ahead[1]).sum()
    expected = outcome(lr + h * ahead[0], WEIGHTS + h * ahead[1]) - outcome(lr - h * ahead[0], WEIGHTS - h * ahead[1])
    # Central differences have a truncation error of h^2 and a cancellation error of 1e-16/h for a loss of order 1.
    torch.testing.assert_close(slope, expected / (2 * h), rtol=1e-5, atol=1e-7)


@pytest.mark.slow  # importing forward mode takes several seconds
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # raised by torch in forward mode
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@each(smooth)
def test_forward_mode_equals_reverse_mode(subject, mask):
    outcome, lr = training(subject, mask), torch.tensor(subject.lr, dtype=torch.float64)
    by_lr, by_weight = torch.func.grad(outcome, (0, 1))(lr, WEIGHTS)
    with torch.no_grad():
        value, forward = torch.func.jvp(outcome, (lr, WEIGHTS), (torch.ones_like(lr), DIRECTION))
    torch.testing.assert_close(forward, by_lr + (by_weight * DIRECTION).sum(), rtol=1e-11, atol=1e-11)
    assert torch.equal(value, outcome(lr, WEIGHTS))


@each(lambda subject: subject.recipe is None)
def test_derivatives_through_differentiable_steps_are_finite(subject):
    """The parameters are non-leaf tensors, and some elements have zero gradients."""
    lr = torch.tensor(subject.lr, dtype=torch.float64, requires_grad=True)
    start = WEIGHTS.clone().requires_grad_()
    w = start * 1.0
    optimizer = subject.make([w], lr=lr, differentiable=True)
    for _ in range(3):
        w.grad = w.clone() * torch.tensor(MASKS["some"], dtype=torch.float64)
        optimizer.step()
    for slope in torch.autograd.grad(w.square().sum(), (lr, start)):
        assert torch.isfinite(slope).all()


def test_adam_derivatives_with_a_zero_gradient():
    """The run takes three steps from [1, 2] with lr 0.1 and the gradient p * [1, 0]."""

    def outcome(lr, w):
        recipe, state = dp.Adam.recipe_for(), init(dp.Adam.recipe_for(), w)
        for step in range(3):
            w, state = update(recipe.with_settings(lr=lr), w, w * WEIGHTS.new_tensor([1.0, 0.0]), state, step)
        return w.square().sum()

    lr, w = torch.tensor(0.1, dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64)
    by_lr, by_weight = torch.func.grad(outcome, (0, 1))(lr, w)
    assert by_lr.item() == pytest.approx(-4.15474, abs=1e-5)
    assert by_weight[1].item() == 4.0


# ---- the operations --------------------------------------------------------------------------------------------------

VALUES = torch.tensor([0.0, -0.0, 1e-320, 1e-300, 0.25, 3.0, float("inf"), float("nan")], dtype=torch.float64)


def test_guarded_operations_keep_values():
    v = VALUES[:, None].expand(8, 8)
    d = VALUES[None, :].expand(8, 8)
    for operation in (root, lambda x: power(x, 0.5), lambda x: power(x, 0.0), lambda x: over(v, x + 0 * v)):
        with torch.no_grad():
            plain = operation(d)
        torch.testing.assert_close(operation(d), plain, rtol=0, atol=0, equal_nan=True)
    assert torch.signbit(over(torch.tensor(-0.0), 0.0))


def slope_of(operation, x):
    return torch.func.grad(operation)(torch.tensor(x, dtype=torch.float64)).item()


def test_guarded_operations_have_finite_derivatives_at_zero():
    assert slope_of(root, 0.0) == 0.0
    assert slope_of(root, 4.0) == 0.25
    assert slope_of(lambda x: power(x, 0.5), 0.0) == 0.0
    assert slope_of(lambda x: power(x, 0.5), 4.0) == 0.25
    assert slope_of(lambda v: over(v, 1e-8), 0.0) == 1e8
    assert slope_of(lambda d: over(torch.zeros_like(d), d), 0.0) == 0.0
    assert slope_of(lambda x: torch.where(x > 0, 1 / nonzero(x), 2.0), 0.0) == 0.0
