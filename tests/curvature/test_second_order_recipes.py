"""State, recipes and compiled kernels of the second-order methods."""

import copy
import json
import math

import pytest
import torch
from curvature.second_order_support import (
    batch,
    error,
    leaves,
    quartic,
    residual,
    same,
    take_step,
    weights,
)
from curvature_methods_support import CASES, DOUBLE, EVERY_METHOD, ORACLES, Timetable, identity
from engine.engine_support import eager_and_compiled, is_compiled

import dashpot as dp

KEYS = {
    "ESGD-0": {"step", "exp_avg", "hess_sq", "products"},
    "ESGD-1": {"step", "exp_avg", "hess_sq", "hess_weight", "products"},
    "ESGD-2": {"step", "exp_avg", "hess_sq", "products", "warmup"},
    "AdaHessian": {"step", "exp_avg", "hess_sq", "hess_weight", "products"},
    "Sophia": {"step", "exp_avg", "hess", "products"},
}


@EVERY_METHOD
def test_state_has_the_documented_keys_and_each_parameter_its_own_counts(name):
    cls, _, fixed = ORACLES[name]
    a, b = leaves((3,), (2,))
    optimizer = cls([a, b], lr=0.01, update_d_every=10, d_warmup=4, **fixed)
    for k in range(8):
        take_step("backward", optimizer, [lambda k=k: quartic([a, b] if k % 2 else [a])])
    for p, steps, products in ((a, 8, 4), (b, 4, 2)):
        state = optimizer.state[p]
        assert set(state) == KEYS[name]
        assert (state["step"], state["products"]) == (steps, products)
        b2 = optimizer.param_groups[0]["betas"][1]
        if "hess_weight" in state:
            assert state["hess_weight"] == pytest.approx(1 - b2**products, rel=1e-12)
        if "warmup" in state:
            assert state["warmup"] == pytest.approx(1 - 0.99**products, rel=1e-12)
        assert all(state[key].shape == p.shape for key in ("exp_avg", *KEYS[name] & {"hess", "hess_sq"}))
    saved = optimizer.state_dict()["param_groups"][0]
    assert (saved["steps_done"], saved["product_at"], saved["products"], saved["products_skipped"]) == (8, 3, 4, 0)


@pytest.mark.parametrize(
    ("every", "warmup"),
    [(1, 1), (3, 2), (10, 20), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, 1), (4, 9), (7, 1)))],
)
def test_should_create_graph_follows_the_schedule(every, warmup):
    (w,) = leaves((3,))
    optimizer = dp.ESGD([w], lr=0.1, update_d_every=every, d_warmup=warmup)
    timetable = Timetable(every, warmup)
    for k in range(40):
        saved, random = copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
        due = timetable.due(k)
        assert [optimizer.should_create_graph() for _ in range(5)] == [due] * 5
        assert same(optimizer.state_dict(), saved)
        assert torch.equal(torch.get_rng_state(), random)
        take_step("backward", optimizer, [lambda: quartic([w])])


def test_should_create_graph_has_no_side_effects():
    runs = []
    for asking in (0, 3):
        (w,) = leaves((3,))
        optimizer = dp.Sophia([w], lr=0.1, update_d_every=3)
        for _ in range(10):
            for _ in range(asking):
                optimizer.should_create_graph()
            take_step("backward", optimizer, [lambda w=w: quartic([w])])
        runs.append(w)
    assert torch.equal(*runs)


RECIPES = [(*ORACLES[name][::2], settings) for name, settings, _, _ in CASES]


RECIPE_IDS = [identity(case) for case in CASES]


@pytest.mark.parametrize(("cls", "fixed", "settings"), RECIPES, ids=RECIPE_IDS)
def test_recipe_repr_evaluates_to_the_method(cls, fixed, settings):
    first, second = leaves((3, 2, 2), (4,)), leaves((3, 2, 2), (4,))
    named = cls(first, **settings, **fixed, update_d_every=3)
    recipe = named.recipe
    names = {**vars(dp), **vars(dp.stages), **vars(dp.schedules)}
    assert eval(repr(recipe), names) == recipe
    assert dp.Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert cls.recipe_for(**settings, **fixed) == recipe
    assert repr(recipe) in repr(named)
    probing = named.probing._asdict()
    general = dp.SGM.from_recipe(second, recipe, **probing)
    assert repr(dp.diff(named, general)) == "no difference"
    for _ in range(5):
        take_step("backward", named, [lambda: quartic(first)])
        take_step("backward", general, [lambda: quartic(second)])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_diff_of_second_order_methods():
    w = leaves((2,))
    rows = dp.diff(dp.ESGD(w), dp.ESGD(w, version=2)).rows
    assert any("maximum" in str(row) for row in rows)
    assert any("products" in str(row) for row in rows)
    assert repr(dp.diff(dp.ESGD(w), dp.ESGD(w, v=0.9))) == "no difference"
    assert dp.diff(dp.ESGD(w), dp.ESGD(w, eps=1e-3)).rows


def composed(name):
    """Return (settings of the class, equivalent stages).

    With the zero (b - nu b)/(1 - nu b), the previous memory of the filter has the weight nu b in the direction.
    """
    nu, b = 0.7, 0.9
    decay, average = dp.DecoupledDecay(0.1), dp.Filter(b, slot="exp_avg")
    zero = (b - nu * b) / (1 - nu * b)
    return {
        "ESGD-0": (
            {"lr": 0.3, "v": nu, "eps": 1e-3},
            {
                "filter": dp.Filter(b, zero=zero),
                "rate": (dp.Curvature(1.0, 1e-3, accumulator="running"), dp.Warmup(0.99)),
                "decay": decay,
            },
        ),
        "ESGD-1": (
            {"lr": 0.3, "betas": (b, 0.99), "v": nu, "eps": 1e-3},
            {"filter": dp.Filter(b, zero=zero), "rate": (dp.Curvature(0.99, 1e-3), dp.Warmup(0.99)), "decay": decay},
        ),
        "ESGD-2": (
            {"lr": 0.3, "betas": (b, 0.99), "lr_warmup": 0.8},
            {
                "filter": dp.Filter(b, zero=(b - b * b) / (1 - b * b)),
                "rate": (dp.Curvature(0.99, accumulator="maximum"), dp.Warmup(0.8, "products")),
                "decay": decay,
            },
        ),
        "AdaHessian": (
            {"lr": 0.02, "hessian_power": 0.5},
            {"filter": average, "rate": dp.Curvature(0.999, 1e-4, "diagonal", power=0.5, spatial=True), "decay": decay},
        ),
        "Sophia": (
            {"lr": 0.02, "gamma": 0.3},
            {
                "filter": dp.Filter(0.96, normalise="none"),
                "rate": dp.Curvature(0.99, 1e-12, "diagonal", "mean", gamma=0.3),
                "robust": dp.ClipElements(1.0),
                "decay": decay,
            },
        ),
    }[name]


@EVERY_METHOD
def test_stages_compose_to_the_named_method(name):
    cls, _, fixed = ORACLES[name]
    settings, stages = composed(name)
    first, second = weights(), weights()
    probing = {"update_d_every": 4, "d_warmup": 3, "distribution": "gaussian", "seed": 3}
    named = cls(first, **settings, **fixed, weight_decay=0.1, **probing)
    general = dp.SGM(second, settings["lr"], **stages, **probing)
    for k in range(16):
        for optimizer, params in ((named, first), (general, second)):
            take_step("backward", optimizer, [lambda k=k, params=params: residual(params, batch(k))])
    # Both runs depend on their own weights, and their zeros differ by a rounding error: ten times the usual tolerance.
    assert error(first, [p.detach() for p in second]) < 10 * DOUBLE


@pytest.mark.needs_compiler
@pytest.mark.parametrize("case", [CASES[i] for i in (2, 4, 7, 9)], ids=identity)
def test_compiled_kernels_step_as_the_eager_engine(case):
    name, settings, other, probing = case
    cls, _, fixed = ORACLES[name]
    step = 0

    def products(params, probes):
        """Return the products of a fixed Hessian with the probes."""
        found = leaves(*[p.shape for p in params], seed=1000 + step)
        return [h.detach() * v for h, v in zip(found, probes, strict=True)]

    def make(params, engine):
        groups = [{"params": params[:2]}, {"params": params[2:], **other}]
        return cls(groups, **{**settings, **fixed, **probing, "probe": products}, engine=engine)

    first, second = eager_and_compiled(make, weights())
    for step in range(20):
        for params, optimizer in (first, second):
            for p, g in zip(params, leaves(*[p.shape for p in params], seed=step), strict=True):
                p.grad = g.detach()
            optimizer.step()
    assert is_compiled(second[1])
    assert error(second[0], [p.detach() for p in first[0]]) < DOUBLE
    for p, q in zip(first[0], second[0], strict=True):
        mine, theirs = first[1].state[p], second[1].state[q]
        assert mine.keys() == theirs.keys()
        assert error(theirs.values(), [value.detach() for value in mine.values()]) < DOUBLE


def test_complex_parameters_step_as_pairs_of_reals():
    z = torch.randn(3, 2, dtype=torch.complex128).requires_grad_()
    pairs = torch.view_as_real(z.detach()).clone().requires_grad_()
    optimizers = [dp.ESGD([w], lr=0.1, update_d_every=2, d_warmup=3) for w in (z, pairs)]
    for _ in range(12):
        take_step("backward", optimizers[0], [lambda: quartic([torch.view_as_real(z)])])
        take_step("backward", optimizers[1], [lambda: quartic([pairs])])
    assert error([torch.view_as_real(z)], [pairs.detach()]) < DOUBLE
    assert not math.isnan(pairs.sum().item())


@pytest.mark.parametrize("probe", ["closure", "forward", "differences"])
def test_lazily_conjugated_product(probe):
    w = torch.tensor([1.0 + 2.0j, 0.5j], dtype=torch.complex128, requires_grad=True)
    opt = dp.ESGD([w], lr=0.1, probe=probe)
    opt.curvature_step(lambda: (w.conj() ** 2).abs().pow(2).sum())
    w.grad = torch.ones_like(w)
    opt.step()
    assert opt.state[w]["products"] == 1
    assert torch.isfinite(torch.view_as_real(w.detach())).all()
