"""Settings that are one-element tensors of any shape and dtype, which are read in double precision."""

from typing import Any

import pytest
import torch
from contracts.trajectories import SMALL, distance, identical, parameters, run, values
from registry import SUBJECTS, each

import dashpot as dp
from dashpot.utils.scalars import read

COMPILED = ("adamw-decay", "sgd-nesterov", "autosgm-1-zero", "nadam-decay", "qhadam-both", "esgd")
ENGINES = ("eager", "compiled")


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def numbers_of(optimizer):
    """Return the numeric settings of the first group, including pairs but without structural choices."""
    group = optimizer.param_groups[0]
    kept = {name: group[name] for name in optimizer._settings(group)}
    choices = {"numerator", "version"}
    return {
        name: value
        for name, value in kept.items()
        if name not in choices and (is_number(value) or (isinstance(value, tuple) and value and is_number(value[0])))
    }


def as_tensors(value, shape, dtype):
    if isinstance(value, tuple):
        return tuple(as_tensors(item, shape, dtype) for item in value)
    return torch.full(shape, value, dtype=torch.int64 if isinstance(value, int) else dtype)


def as_numbers(value):
    return tuple(map(as_numbers, value)) if isinstance(value, tuple) else value.item()


def trajectory(subject, engine, settings, steps=2):
    params = parameters(shapes=SMALL)
    optimizer = subject.make(params, engine=engine)
    optimizer.param_groups[0].update(settings)
    return values(run(optimizer, params, steps))


@each()
def test_tensor_settings_equal_number_settings(subject):
    settings = numbers_of(subject.make(parameters()))
    expected = trajectory(subject, "eager", settings)
    for shape in ((), (1,), (1, 1)):
        tensors = {name: as_tensors(value, shape, torch.float64) for name, value in settings.items()}
        assert identical(trajectory(subject, "eager", tensors), expected)


@each()
def test_float32_settings_are_read_in_double_precision(subject):
    settings = numbers_of(subject.make(parameters()))
    tensors = {name: as_tensors(value, (1, 1), torch.float32) for name, value in settings.items()}
    rounded = {name: as_numbers(value) for name, value in tensors.items()}
    expected = trajectory(subject, "eager", rounded)
    assert identical(trajectory(subject, "eager", tensors), expected)
    if subject.name in COMPILED:
        assert distance(trajectory(subject, "compiled", tensors), expected) < 1e-12


@pytest.mark.parametrize("engine", ENGINES)
def test_tensor_settings_update_every_parameter(engine):
    """Regression test: `lr=torch.full((1, 1), .1)` updated a matrix and then raised for a vector."""
    params = parameters()
    tensors: dict[str, Any] = {
        name: torch.full((1, 1), value) for name, value in (("lr", 0.1), ("weight_decay", 0.5), ("eps", 1e-3))
    }
    betas: Any = torch.full((1, 1), 0.5), torch.full((1,), 0.75)
    optimizer = dp.AdamW(params, betas=betas, engine=engine, **tensors)
    before = values(params)
    run(optimizer, params, 2)
    assert all((p != old).all() for p, old in zip(params, before, strict=True))
    assert [optimizer.state[p]["step"].item() for p in params] == [2, 2, 2]
    assert all(optimizer.param_groups[0][name] is tensor for name, tensor in tensors.items())
    assert optimizer.param_groups[0]["betas"] is betas


@pytest.mark.parametrize("engine", ENGINES)
def test_in_place_change_of_a_setting_takes_effect(engine):
    params, others = parameters(), parameters()
    lr = torch.full((1, 1), 0.5, dtype=torch.float64)
    optimizer, plain = dp.AdamW(params, lr=lr, engine=engine), dp.AdamW(others, lr=0.5, engine=engine)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for step in range(3):
        run(optimizer, params, range(step, step + 1))
        run(plain, others, range(step, step + 1))
        scheduler.step()
        plain.param_groups[0]["lr"] *= 0.5
    assert identical(params, others)
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.shape == (1, 1)


@each()
def test_recipe_of_tensor_settings_has_numbers(subject):
    optimizer = subject.make(parameters(), lr=torch.full((1,), 0.25))
    assert type(optimizer.recipe.lr) is float
    assert optimizer.current_lr() == 0.25 * dict(optimizer.recipe.schedule).get("lr", lambda _: 1.0)(0)


@pytest.mark.parametrize("shape", [(), (1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_flow_to_settings_of_any_shape(shape, dtype):
    """The derivative of p - lr g with respect to lr is -g."""
    lr = torch.full(shape, 0.5, dtype=dtype, requires_grad=True)
    p = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True).clone()
    p.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    dp.SGD([p], lr=lr, differentiable=True).step()
    p.sum().backward()
    assert lr.grad is not None
    assert lr.grad.shape == shape
    assert lr.grad.item() == -7


def test_functional_update_reads_settings_in_double_precision():
    """A float32 rate of 0.1 is 0.100000001490116; results of multiplications are rounded to double precision."""
    recipe, w = dp.AdamW.recipe_for(lr=0.1), torch.ones(3, dtype=torch.float64)
    single: dict[str, Any] = {"lr": torch.full((1, 1), 0.1), "pole": torch.tensor(0.9), "beta": torch.tensor([0.99])}
    both = []
    for settings in (single, {name: value.item() for name, value in single.items()}):
        changed, p, state = recipe.with_settings(**settings), w, dp.functional.init(recipe, w)
        for step in range(3):
            p, state = dp.functional.update(changed, p, 2 * p, state, step)
        both.append(p)
    assert distance(*([p] for p in both)) < 1e-15


def test_vmap_over_float32_settings_keeps_float32_weights():
    recipe, w = dp.NAG.recipe_for(lr=0.1), torch.ones(3)

    def stepped(lr, pole):
        changed = recipe.with_settings(lr=lr, pole=pole)
        return dp.functional.update(changed, w, 2 * w, dp.functional.init(recipe, w), 0)[0]

    rates, poles = torch.tensor([0.125, 0.25]), torch.tensor([0.5, 0.75])
    mapped = torch.func.vmap(stepped)(rates, poles)
    assert mapped.dtype == torch.float32
    assert torch.equal(mapped, torch.stack([stepped(*pair) for pair in zip(rates, poles, strict=True)]))


def test_options_can_be_tensors():
    params, others = parameters(), parameters()
    bounds: Any = {"max_norm": torch.full((1, 1), 0.5), "clip_value": torch.tensor(0.25)}
    run(dp.SGD(params, lr=0.1, **bounds), params, 2)
    run(dp.SGD(others, lr=0.1, max_norm=0.5, clip_value=0.25), others, 2)
    assert identical(params, others)


def test_meta_setting_is_rejected_for_other_devices():
    params = parameters()
    message = r"^AdamW: lr must have a value, got a tensor on the meta device\.$"
    with pytest.raises(dp.ArgumentError, match=message):
        dp.AdamW(params, lr=torch.tensor(0.1, device="meta"))
    optimizer = dp.AdamW(params)
    with pytest.raises(dp.ArgumentError, match="betas must have a value"):
        optimizer.add_param_group({"params": parameters(), "betas": (0.9, torch.tensor(0.1, device="meta"))})
    assert len(optimizer.param_groups) == 1
    before = values(params)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.1, device="meta")
    with pytest.raises(dp.ArgumentError, match=message):
        run(optimizer, params, 1)
    assert identical(params, before)


@pytest.mark.parametrize(
    "value",
    [torch.ones(2), torch.ones(0), torch.tensor(True), torch.tensor(1j), torch.tensor([0.5]).to_sparse()],
    ids=["two elements", "none", "bool", "complex", "sparse"],
)
def test_non_scalar_tensor_settings_are_rejected(value):
    for make in (lambda: dp.SGD(parameters(), lr=value), lambda: dp.AdamW(parameters(), betas=(0.9, value))):
        with pytest.raises(dp.ArgumentError, match="must be a"):
            make()


def test_read_returns_other_values_unchanged():
    text, mapping = "lr", {}
    assert read(text) is text
    assert read(mapping) is mapping
    assert read([0.5, torch.ones(2)])[1].shape == (2,)


def test_every_subject_has_numeric_settings():
    assert all(numbers_of(subject.make(parameters())) for subject in SUBJECTS)
