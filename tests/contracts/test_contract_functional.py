"""The functional form: the numbers of the class, many settings at once, and gradients through a step."""

import pytest
import torch
from contracts.trajectories import distance, gradient, parameters, run, values
from registry import each
from subjects import known_products

import dashpot as dp
from dashpot.functional import init, observe, update

SAME = 1e-12  # float64 over ten steps: the stated bound


def smooth(subject):
    """The sign of the user's own stage has no derivative worth comparing."""
    return "own-stage" not in subject.name


def observed(recipe, params, state, step, subject):
    """The state after the product that the class takes at this step, if any."""
    if not recipe.observes() or not subject.product_at(step):
        return state
    ones = [torch.ones_like(p) for p in params]  # the known Hessian is diagonal: every probe of signs teaches the same
    return observe(recipe, state, ones, known_products(params, ones), step)


def functional_run(recipe, params, steps, subject):
    state = init(recipe, params)
    for step in range(steps):
        grads = [gradient(p, step, index) for index, p in enumerate(params)]
        state = observed(recipe, params, state, step, subject)
        params, state = update(recipe, params, grads, state, step)
    return params, state


@each()
def test_it_gives_the_numbers_of_the_class(subject):
    params = parameters()
    optimizer = subject.make(params)
    recipe = optimizer.recipe
    run(optimizer, params)
    others, state = functional_run(recipe, values(parameters()), 10, subject)
    assert distance(others, values(params)) < SAME
    for p, slots in zip(params, state, strict=True):
        assert set(slots) == set(subject.keys)
        assert distance(list(slots.values()), [optimizer.state[p][key] for key in slots]) < SAME


@each()
def test_it_gives_the_numbers_of_the_class_under_a_schedule(subject):
    params = parameters()
    optimizer = subject.make(params, schedule=dp.schedules.Cosine(20, floor=0.1))
    recipe = optimizer.recipe
    run(optimizer, params)
    others, _ = functional_run(recipe, values(parameters()), 10, subject)
    assert distance(others, values(params)) < SAME


@each()
def test_half_precision_is_rounded_as_in_the_class(subject):
    params = parameters(torch.bfloat16)
    optimizer = subject.make(params)
    recipe = optimizer.recipe
    run(optimizer, params, 4)
    others, _ = functional_run(recipe, values(parameters(torch.bfloat16)), 4, subject)
    assert all(p.dtype == torch.bfloat16 for p in others)
    assert distance([p.float() for p in others], [p.detach().float() for p in params]) == 0


@each()
def test_nothing_is_changed_in_place(subject):
    params = values(parameters())
    recipe = subject.make(parameters()).recipe
    state = init(recipe, params)
    grads = [gradient(p, 0, index) for index, p in enumerate(params)]
    kept = [values(params), values(grads), [values(slots.values()) for slots in state]]
    update(recipe, params, grads, state, 0)
    now = [values(params), values(grads), [values(slots.values()) for slots in state]]
    assert all(torch.equal(a, b) for a, b in zip(flat(kept), flat(now), strict=True))


def flat(nested):
    return [leaf for item in nested for leaf in flat(item)] if isinstance(nested, list) else [nested]


@each()
def test_params_may_be_one_tensor_a_sequence_or_a_mapping(subject):
    recipe = subject.make(parameters()).recipe
    (w, _, _) = values(parameters())
    alone, _ = update(recipe, w, gradient(w, 0), init(recipe, w), 0)
    listed, _ = update(recipe, (w,), (gradient(w, 0),), init(recipe, (w,)), 0)
    named, _ = update(recipe, {"w": w}, {"w": gradient(w, 0)}, init(recipe, {"w": w}), 0)
    assert torch.equal(alone, listed[0])
    assert torch.equal(alone, named["w"])


@each()
def test_sixteen_learning_rates_at_once_equal_sixteen_runs(subject):
    recipe, w = subject.make(parameters()).recipe, values(parameters())[0]

    def train(lr):
        (new,), _ = functional_run(recipe.with_settings(lr=lr), [w], 5, subject)
        return new

    rates = subject.lr * torch.linspace(0.1, 2, 16, dtype=torch.float64)
    together = torch.func.vmap(train)(rates)
    alone = torch.stack([train(rate.item()) for rate in rates])
    assert distance([together], [alone]) < SAME


@each()
def test_every_setting_can_be_mapped_over(subject):
    recipe, w = subject.make(parameters()).recipe, values(parameters())[0]
    for name, value in recipe.settings().items():

        def train(setting, name=name):
            (new,), _ = functional_run(recipe.with_settings(**{name: setting}), [w], 3, subject)
            return new

        several = value * torch.tensor([1.0, 0.9, 0.5], dtype=torch.float64)
        together = torch.func.vmap(train)(several)
        alone = torch.stack([train(one.item()) for one in several])
        assert distance([together], [alone]) < SAME, name


def loss_after_steps(recipe, w0, subject, steps=3):
    """The loss of a smooth function after a few steps that use its own gradients."""

    def loss(w):
        return ((w - 0.3) ** 2).sum() + torch.sin(w).sum()

    w, state = w0, init(recipe, w0)
    for step in range(steps):
        (state,) = observed(recipe, [w], [state], step, subject)
        w, state = update(recipe, w, torch.func.grad(loss)(w), state, step)
    return loss(w)


@each(smooth)
def test_the_gradient_through_a_run_equals_finite_differences(subject):
    """With respect to lr: the derivative that tuning by gradient descent uses."""
    recipe = subject.make(parameters()).recipe
    w0 = torch.tensor([0.7, -0.4, 1.3, -1.1], dtype=torch.float64)

    def outcome(lr):
        return loss_after_steps(recipe.with_settings(lr=lr), w0, subject)

    lr = torch.tensor(subject.lr, dtype=torch.float64)
    h = 1e-6 * subject.lr
    slope = torch.func.grad(outcome)(lr)
    expected = (outcome(lr + h) - outcome(lr - h)) / (2 * h)
    # Central differences: truncation h^2, cancellation 1e-16/h on a loss of order 1.
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-7)
    assert slope != 0


@each()
def test_the_gradient_through_a_run_is_finite_for_every_setting(subject):
    recipe = subject.make(parameters()).recipe
    w0 = torch.tensor([0.7, -0.4, 1.3, -1.1], dtype=torch.float64)
    for name, value in recipe.settings().items():
        setting = torch.tensor(float(value), dtype=torch.float64)

        def outcome(x, name=name):
            return loss_after_steps(recipe.with_settings(**{name: x}), w0, subject)

        slope = torch.func.grad(outcome)(setting)
        assert torch.isfinite(slope), name


def step_of_class(subject, keys):
    """A differentiable step of the class as a function of lr, weight, gradient and state."""

    def step(lr, w, grad, *slots):
        p = w.clone()
        p.grad = grad
        optimizer = subject.make([p], lr=lr, differentiable=True)
        optimizer.state[p] = {"step": torch.tensor(3.0), **dict(zip(keys, map(torch.clone, slots), strict=True))}
        optimizer.step()
        return p, *(optimizer.state[p][key] for key in keys)

    return step


@each(smooth)
def test_a_differentiable_step_passes_gradcheck(subject):
    warm = parameters(shapes=((4,),))
    optimizer = subject.make(warm)
    run(optimizer, warm, 3)
    slots = [optimizer.state[warm[0]][key].clone().requires_grad_() for key in subject.keys]
    w, grad = values(warm)[0].requires_grad_(), gradient(warm[0], 3).requires_grad_()
    lr = torch.tensor(subject.lr, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(step_of_class(subject, subject.keys), (lr, w, grad, *slots))


@each()
def test_complex_parameters_are_refused_by_the_functional_form(subject):
    recipe = subject.make(parameters()).recipe
    with pytest.raises(dp.ArgumentError, match="init: params must be real"):
        init(recipe, torch.zeros(2, dtype=torch.complex64))


@each(smooth)
def test_gradients_pass_through_two_steps_of_the_class(subject):
    """The second step overwrites what the first one wrote: the recording must not be spoilt."""

    def outcome(lr):
        p = torch.tensor([0.7, -0.4, 1.3], dtype=torch.float64).requires_grad_() * 1.0
        optimizer = subject.make([p], lr=lr, differentiable=True)
        for step in range(2):
            p.grad = gradient(p.detach(), step)
            optimizer.step()
        return (p**2).sum()

    lr = torch.tensor(subject.lr, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(outcome(lr), lr)
    h = 1e-6 * subject.lr
    with torch.no_grad():
        expected = (outcome(lr + h) - outcome(lr - h)) / (2 * h)
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-7)  # central differences, as above


@each()
def test_an_empty_tensor_comes_back_as_it_was(subject):
    recipe, empty = subject.make(parameters()).recipe, torch.empty(0, 3)
    new, state = update(recipe, empty, empty, init(recipe, empty), 0)
    assert new.shape == (0, 3)
    assert all(torch.isfinite(value).all() for value in state.values())
