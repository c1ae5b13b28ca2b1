"""Contract: the functional form equals the class, and supports vmap and gradients through steps."""

import pytest
import torch
from contracts.trajectories import distance, gradient, parameters, run, values
from registry import each, each_second
from subjects import known_products

import dashpot as dp
from dashpot.functional import init, observe, update

SAME = 1e-12  # bound for a few steps in float64
all_or_each = pytest.mark.parametrize("alone", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["all", "each"])
"""Change all settings at once, or each of them in a separate run."""


def runs_of(settings, alone):
    """Return the mappings of settings that change together."""
    together = [dict(settings)] if settings else []
    return [{name: value} for name, value in settings.items()] if alone else together


def smooth(subject):
    """Exclude the custom stage, because the derivative of its sign function is not useful."""
    return "own-stage" not in subject.name


def observed(recipe, params, state, step, subject):
    """Return the state updated by the product of this step, or `state` if the step requires no product."""
    if not recipe.observes() or not subject.product_at(step):
        return state
    ones = [torch.ones_like(p) for p in params]  # with a diagonal Hessian, all sign probes are equivalent
    return observe(recipe, state, ones, known_products(params, ones), step)


def functional_run(recipe, params, steps, subject):
    state = init(recipe, params)
    for step in range(steps):
        grads = [gradient(p, step, index) for index, p in enumerate(params)]
        state = observed(recipe, params, state, step, subject)
        params, state = update(recipe, params, grads, state, step)
    return params, state


@each()
def test_functional_update_equals_the_class(subject):
    params = parameters()
    optimizer = subject.make(params)
    recipe = optimizer.recipe
    run(optimizer, params, 11)
    others, state = functional_run(recipe, values(parameters()), 11, subject)
    assert distance(others, values(params)) < SAME
    for p, slots in zip(params, state, strict=True):
        assert set(slots) == set(subject.keys)
        assert distance(list(slots.values()), [optimizer.state[p][key] for key in slots]) < SAME


@each()
def test_functional_update_with_a_schedule_equals_the_class(subject):
    params = parameters()
    optimizer = subject.make(params, schedule=dp.schedules.Cosine(20, floor=0.1))
    recipe = optimizer.recipe
    run(optimizer, params, 6)
    others, _ = functional_run(recipe, values(parameters()), 6, subject)
    assert distance(others, values(params)) < SAME


@each()
def test_functional_update_rounds_half_precision_like_the_class(subject):
    params = parameters(torch.bfloat16)
    optimizer = subject.make(params)
    recipe = optimizer.recipe
    run(optimizer, params, 4)
    others, _ = functional_run(recipe, values(parameters(torch.bfloat16)), 4, subject)
    assert all(p.dtype == torch.bfloat16 for p in others)
    assert distance([p.float() for p in others], [p.detach().float() for p in params]) == 0


@each()
def test_functional_update_changes_nothing_in_place(subject):
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
def test_functional_params_can_be_a_tensor_a_sequence_or_a_mapping(subject):
    recipe = subject.make(parameters()).recipe
    (w, _, _) = values(parameters())
    alone, _ = update(recipe, w, gradient(w, 0), init(recipe, w), 0)
    listed, _ = update(recipe, (w,), (gradient(w, 0),), init(recipe, (w,)), 0)
    named, _ = update(recipe, {"w": w}, {"w": gradient(w, 0)}, init(recipe, {"w": w}), 0)
    assert torch.equal(alone, listed[0])
    assert torch.equal(alone, named["w"])


@each()
def test_vmap_over_learning_rates_equals_separate_runs(subject):
    recipe, w = subject.make(parameters()).recipe, values(parameters())[0]

    def train(lr):
        (new,), _ = functional_run(recipe.with_settings(lr=lr), [w], 3, subject)
        return new

    rates = subject.lr * torch.linspace(0.1, 2, 5, dtype=torch.float64)
    together = torch.func.vmap(train)(rates)
    alone = torch.stack([train(rate.item()) for rate in rates])
    assert distance([together], [alone]) < SAME


@all_or_each
@each()
def test_vmap_over_every_setting_equals_separate_runs(subject, alone):
    recipe, w = subject.make(parameters()).recipe, values(parameters())[0]

    def train(settings):
        (new,), _ = functional_run(recipe.with_settings(**settings), [w], 3, subject)
        return new

    factors = torch.tensor([1.0, 0.9, 0.5], dtype=torch.float64)
    for settings in runs_of(recipe.settings(), alone):
        several = {name: value * factors for name, value in settings.items()}
        together = torch.func.vmap(train)(several)
        separate = [train({name: value[k].item() for name, value in several.items()}) for k in range(3)]
        assert distance([together], [torch.stack(separate)]) < SAME, settings


def loss_after_steps(recipe, w0, subject, steps=3):
    """Return a smooth loss after a few steps along its gradients."""

    def loss(w):
        return ((w - 0.3) ** 2).sum() + torch.sin(w).sum()

    w, state = w0, init(recipe, w0)
    for step in range(steps):
        (state,) = observed(recipe, [w], [state], step, subject)
        w, state = update(recipe, w, torch.func.grad(loss)(w), state, step)
    return loss(w)


@each(smooth)
def test_lr_gradient_through_a_run_equals_finite_differences(subject):
    """Gradient-based tuning uses the derivative with respect to lr."""
    recipe = subject.make(parameters()).recipe
    w0 = torch.tensor([0.7, -0.4, 1.3, -1.1], dtype=torch.float64)

    def outcome(lr):
        return loss_after_steps(recipe.with_settings(lr=lr), w0, subject)

    lr = torch.tensor(subject.lr, dtype=torch.float64)
    h = 1e-6 * subject.lr
    slope = torch.func.grad(outcome)(lr)
    expected = (outcome(lr + h) - outcome(lr - h)) / (2 * h)
    # Central differences have a truncation error of h^2 and a cancellation error of 1e-16/h for a loss of order 1.
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-7)
    assert slope != 0


@all_or_each
@each()
def test_gradient_through_a_run_is_finite_for_every_setting(subject, alone):
    recipe = subject.make(parameters()).recipe
    w0 = torch.tensor([0.7, -0.4, 1.3, -1.1], dtype=torch.float64)

    def outcome(settings):
        return loss_after_steps(recipe.with_settings(**settings), w0, subject)

    for settings in runs_of(recipe.settings(), alone):
        point = {name: torch.tensor(float(value), dtype=torch.float64) for name, value in settings.items()}
        slopes = torch.func.grad(outcome)(point)
        assert [name for name, slope in slopes.items() if not torch.isfinite(slope)] == []


def step_of_class(subject, keys):
    """Return a differentiable step of the class as a function of lr, weight, gradient and state."""

    def step(lr, w, grad, *slots):
        p = w.clone()
        p.grad = grad
        optimizer = subject.make([p], lr=lr, differentiable=True)
        optimizer.state[p] = {"step": torch.tensor(3.0), **dict(zip(keys, map(torch.clone, slots), strict=True))}
        optimizer.step()
        return p, *(optimizer.state[p][key] for key in keys)

    return step


@each_second(smooth)
def test_differentiable_step_passes_gradcheck(subject):
    warm = parameters(shapes=((2,),))
    optimizer = subject.make(warm)
    run(optimizer, warm, 3)
    slots = [optimizer.state[warm[0]][key].clone().requires_grad_() for key in subject.keys]
    w, grad = values(warm)[0].requires_grad_(), gradient(warm[0], 3).requires_grad_()
    lr = torch.tensor(subject.lr, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(step_of_class(subject, subject.keys), (lr, w, grad, *slots))


@each()
def test_functional_init_rejects_complex_parameters(subject):
    recipe = subject.make(parameters()).recipe
    with pytest.raises(dp.ArgumentError, match="init: params must be real"):
        init(recipe, torch.zeros(2, dtype=torch.complex64))


@each(smooth)
def test_lr_gradient_through_two_differentiable_steps(subject):
    """The second step, which is in place, must not corrupt the recorded first step."""

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
def test_functional_update_of_an_empty_tensor(subject):
    recipe, empty = subject.make(parameters()).recipe, torch.empty(0, 3)
    new, state = update(recipe, empty, empty, init(recipe, empty), 0)
    assert new.shape == (0, 3)
    assert all(torch.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize("step", [-1, "0", 1.5])
def test_functional_update_rejects_an_invalid_step(step):
    recipe, w = dp.AdamW.recipe_for(), torch.ones(2)
    with pytest.raises(dp.ArgumentError, match="step must be"):
        update(recipe, w, w, init(recipe, w), step)


def test_functional_update_rejects_gradients_of_other_shapes_or_keys():
    recipe, w = dp.AdamW.recipe_for(), torch.ones(2)
    state = init(recipe, w)
    with pytest.raises(dp.ArgumentError, match="its parameter's shape"):
        update(recipe, w, torch.ones(3, 2), state, 0)
    with pytest.raises(dp.ArgumentError, match="keys of params"):
        update(recipe, {"w": w}, {"w": w, "v": w}, {"w": state}, 0)
