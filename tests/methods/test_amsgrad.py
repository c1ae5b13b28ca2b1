"""AMSGrad: the maximum of the second moment in any recipe, which can be enabled at any time."""

import math

import pytest
import torch
from contracts.trajectories import distance, identical, parameters, run, values

import dashpot as dp

ENGINES = pytest.mark.parametrize("engine", ["eager", "compiled"])
BETA, EPS = 0.5, 1e-3
GRADIENTS = [3.0, 0.1, -0.2, 5.0, 0.0, 0.3]


def denominators(kind, eps_mode):
    """Yield the denominators from the formulas in Python floats."""
    square = largest = 0.0
    for t, g in enumerate(GRADIENTS, start=1):
        x = g + EPS if eps_mode == "gradient" else g
        keep = {"first": BETA if t > 1 else 0.0, "running": 1 - 1 / min(t, 1 / (1 - BETA))}.get(kind, BETA)
        square = keep * square + (1 - keep) * x * x
        largest = max(largest, square)
        read = largest / (1 - BETA**t) if kind == "debiased" else largest
        yield math.sqrt(read + EPS) if eps_mode == "inside" else math.sqrt(read) + EPS


@pytest.mark.parametrize("kind", ["debiased", "plain", "first", "running"])
@pytest.mark.parametrize("eps_mode", ["outside", "inside", "gradient"])
def test_maximum_denominator_equals_the_formula(kind, eps_mode):
    recipe = dp.Recipe(dp.SecondMoment(BETA, EPS, eps_mode, kind, maximum=True), lr=1.0)
    w = torch.zeros((), dtype=torch.float64)
    state = dp.functional.init(recipe, w)
    assert sorted(state) == ["exp_avg_sq", "max_exp_avg_sq"]
    for step, (g, d) in enumerate(zip(GRADIENTS, denominators(kind, eps_mode), strict=True)):
        new, state = dp.functional.update(recipe, w, torch.tensor(g, dtype=torch.float64), state, step)
        assert -new.item() == pytest.approx(g / d, rel=1e-13)


def test_maximum_slot_is_named_after_the_average_slot():
    stage = dp.SecondMoment(0.9, average="plain", slot="square_avg", maximum=True)
    assert [slot.key for slot in stage.slots] == ["square_avg", "max_square_avg"]


@ENGINES
@pytest.mark.parametrize("nu", [1.0, 0.5])
def test_maximum_with_nu_and_with_overflow(nu, engine):
    """QHAdam's denominator with a maximum. float32 squares overflow above 1.9e19; the step is then 0, as in torch."""
    w = torch.zeros(3, requires_grad=True)
    opt = dp.SGM.from_recipe([w], dp.Recipe(dp.SecondMoment(BETA, 0.0, nu=nu, maximum=True), lr=1.0), engine=engine)
    for g in (2.0, 1.0):
        w.grad = torch.tensor([g, g, 1e25])
        opt.step()
    mean = (1 - nu) * 1 + nu * max(0.5 * 4, 0.25 * 4 + 0.5) / 0.75
    torch.testing.assert_close(w.detach(), -torch.tensor([1 + 1 / math.sqrt(mean)] * 2 + [0.0]))


@pytest.mark.parametrize("bad", [None, 1, "yes", torch.tensor(True)], ids=str)
@pytest.mark.parametrize("cls", [dp.Adam, dp.AdamW])
def test_amsgrad_rejects_values_other_than_bools(cls, bad):
    with pytest.raises(dp.ArgumentError, match=rf"{cls.__name__}: amsgrad must be one of False, True, got"):
        cls(parameters(), amsgrad=bad)


def test_amsgrad_shows_in_recipe_and_diff():
    plain, largest = dp.AdamW(parameters()), dp.AdamW(parameters(), amsgrad=True)
    assert "SecondMoment(beta=0.999, maximum=True)" in repr(largest.recipe)
    assert repr(dp.diff(plain, largest)) == "SecondMoment.maximum: False | True"
    assert dp.Recipe.from_dict(largest.recipe.to_dict()) == largest.recipe


@ENGINES
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_amsgrad_of_one_group_equals_torch(name, dtype, engine):
    """Only the second group uses amsgrad. Like dashpot, torch treats real and imaginary parts separately."""

    def trained(cls, **options):
        first, second = parameters(dtype), parameters(dtype, seed=1)
        groups = [{"params": first}, {"params": second, "amsgrad": True, "betas": (0.8, 0.7)}]
        return run(cls(groups, lr=0.1, weight_decay=0.1, **options), [*first, *second], 30)

    ours = trained(getattr(dp, name), engine=engine)
    theirs = trained(getattr(torch.optim, name), foreach=False)
    assert distance(*([torch.view_as_real(p) if p.is_complex() else p for p in x] for x in (ours, theirs))) < 1e-11


@ENGINES
def test_amsgrad_enabled_later_starts_the_maximum_there(engine):
    """torch raises KeyError here. The result equals that of torch with an initial maximum of zero."""
    params, others = parameters(), parameters()
    ours, theirs = dp.Adam(params, lr=0.1, engine=engine), torch.optim.Adam(others, lr=0.1)
    for optimizer, ps in ((ours, params), (theirs, others)):
        run(optimizer, ps, 5)
        optimizer.param_groups[0]["amsgrad"] = True
    for p in others:
        theirs.state[p]["max_exp_avg_sq"] = torch.zeros_like(p)
    run(ours, params, range(5, 10))
    run(theirs, others, range(5, 10))
    assert distance(params, others) < 1e-11
    kept = [ours.state[p]["max_exp_avg_sq"].clone() for p in params]
    for optimizer, ps in ((ours, params), (theirs, others)):
        optimizer.param_groups[0]["amsgrad"] = False
        run(optimizer, ps, range(10, 12))
    assert distance(params, others) < 1e-11
    assert identical([ours.state[p]["max_exp_avg_sq"] for p in params], kept)


def test_amsgrad_is_loaded_from_a_checkpoint():
    first, params = dp.AdamW(start := parameters(), amsgrad=True), parameters()
    run(first, start, 4)
    second = dp.AdamW(params)
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["amsgrad"] is True
    assert identical(
        [second.state[p]["max_exp_avg_sq"] for p in params], [first.state[p]["max_exp_avg_sq"] for p in start]
    )
    first.load_state_dict(torch.optim.AdamW(parameters()).state_dict())
    assert first.param_groups[0]["amsgrad"] is False


@pytest.mark.diagonal
@ENGINES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_amsgrad_bfloat16_state_follows_float32_state(dtype, engine):
    """With 8 bits, the averages fluctuate by a percent, and the maximum is the upper end of this range."""
    wide, narrow = parameters(dtype, [(4096,)]), parameters(dtype, [(4096,)])
    start = values(wide)
    run(dp.AdamW(wide, lr=0.01, amsgrad=True, engine=engine), wide, 20)
    optimizer = dp.AdamW(narrow, lr=0.01, amsgrad=True, engine=engine, state_dtype=torch.bfloat16)
    run(optimizer, narrow, 20)
    assert optimizer.state[narrow[0]]["max_exp_avg_sq"].dtype == torch.bfloat16
    moved = [(p - q).float().norm() for p, q in zip(narrow, start, strict=True)]
    apart = [(p - q).float().norm() for p, q in zip(narrow, wide, strict=True)]
    assert apart[0] < 0.03 * moved[0]


def test_amsgrad_vmap_over_learning_rates():
    recipe, w = dp.Adam.recipe_for(amsgrad=True), torch.ones(3, dtype=torch.float64)

    def after(lr):
        p, state = w, dp.functional.init(recipe, w)
        for step in range(3):
            p, state = dp.functional.update(recipe.with_settings(lr=lr), p, 2 * p, state, step)
        return p

    rates = torch.tensor([0.1, 0.2], dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(after)(rates), torch.stack([after(lr) for lr in rates.tolist()]))
