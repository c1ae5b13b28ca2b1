"""ESGD, AdaHessian and Sophia against the textbook, with products of real losses by other means and the same draws.

Each test steps both at the same gradients and products, those at the optimizer's weights, so errors cannot compound:
1e-12 of max(1, |w|) in float64 is what some 40 steps of a few roundings amount to, in another order of operations.
"""

import copy
import json
import math
from typing import Any

import pytest
import torch
from curvature import textbook
from curvature.second_order_support import (
    batch,
    error,
    exact,
    exact_forward,
    leaves,
    probes_of,
    quartic,
    residual,
    same,
    take_step,
    weights,
)
from engine.engine_support import is_compiled, shared_cache, twins  # noqa: F401

import dashpot as dp
from dashpot.schedules import Cosine

DOUBLE = 1e-12
STEPS = 42
ORACLES = {
    "ESGD-1": (dp.ESGD, textbook.ESGDVersion1, {"version": 1}),
    "ESGD-2": (dp.ESGD, textbook.ESGDVersion2, {"version": 2}),
    "AdaHessian": (dp.AdaHessian, textbook.AdaHessian, {}),
    "Sophia": (dp.Sophia, textbook.SophiaH, {}),
}
EVERY_METHOD = pytest.mark.parametrize("name", ORACLES)

# (method, settings of the method, settings of the second group, when products are taken)
CASES = [
    ("ESGD-1", {"lr": 0.3}, {}, {}),
    ("ESGD-1", {"lr": 0.5, "betas": (0.8, 0.9), "v": 1.0, "lr_warmup": 0.9}, {"v": 0.0}, {"update_d_every": 3}),
    (
        "ESGD-1",
        {"lr": 0.2, "betas": (0.99, 0.9), "v": 0.7, "weight_decay": 0.1, "lr_warmup": 0.0},
        {"lr": 0.1, "betas": (0.5, 0.99), "v": None, "lr_warmup": 0.95, "eps": 1e-2, "weight_decay": 0.0},
        {"update_d_every": 7, "d_warmup": 1, "distribution": "gaussian", "seed": 5},
    ),
    ("ESGD-2", {"lr": 0.5}, {}, {"update_d_every": 4, "d_warmup": 2}),
    (
        "ESGD-2",
        {"lr": 0.3, "betas": (0.8, 1.0), "weight_decay": 0.2, "lr_warmup": 0.8},
        {"betas": (0.9, 0.5), "eps": 1e-2, "lr_warmup": 0.5},
        {"update_d_every": 2, "d_warmup": 5, "distribution": "gaussian"},
    ),
    ("AdaHessian", {"lr": 0.02}, {}, {}),
    ("AdaHessian", {"lr": 0.02, "hessian_power": 0.5, "weight_decay": 0.2}, {"lr": 0.01}, {"update_d_every": 5}),
    (
        "AdaHessian",
        {"lr": 0.02, "spatial_averaging": False, "betas": (0.8, 0.9), "eps": 1e-2},
        {"spatial_averaging": True, "hessian_power": 0.25, "betas": (0.7, 0.99), "weight_decay": 0.1},
        {"update_d_every": 3, "d_warmup": 6, "distribution": "gaussian", "seed": 2**62},
    ),
    ("Sophia", {"lr": 0.01}, {}, {}),
    (
        "Sophia",
        {"lr": 0.02, "gamma": 0.5, "betas": (0.9, 0.9), "weight_decay": 0.0},
        {"gamma": 2.0, "eps": 1e-2, "weight_decay": 0.3, "lr": 0.01, "betas": (0.5, 0.99)},
        {"update_d_every": 3, "d_warmup": 4, "distribution": "rademacher"},
    ),
]


class Timetable:
    """The documented rule for when a product is taken: in the first steps, then every so often."""

    def __init__(self, every, warmup):
        self.every, self.warmup, self.last = every, warmup, 0

    def due(self, k, forced=False):
        due = k < self.warmup or k - self.last >= self.every or forced
        self.last = k if due else self.last
        return due


class Twin:
    """A dashpot optimizer of two groups and one textbook method for each; settings hold dashpot's names."""

    def __init__(self, name, first, second, probing, start=weights, **changes):
        cls, oracle, fixed = ORACLES[name]
        self.params = start()
        halves = self.params[:2], self.params[2:]
        groups = [{"params": halves[0]}, {"params": halves[1], **second}]
        self.optimizer = cls(groups, **first, **fixed, **probing, **changes)
        self.oracles = [
            oracle(half, **_textbook_names({**_shared_defaults(name), **first, **more}))
            for half, more in zip(halves, ({}, second), strict=True)
        ]
        self.distribution = probing.get("distribution", "gaussian" if name == "Sophia" else "rademacher")
        self.seed = probing.get("seed", 0)
        group = self.optimizer.probing
        self.timetable = Timetable(group.update_d_every, group.d_warmup)
        self.products = 0

    def probes(self):
        return probes_of(self.optimizer, self.products, self.distribution, self.seed)

    def oracle_step(self, loss, has_product, present=(True,) * 4, signs=(1, 1), exact=exact):
        """The textbook's weights after a step at the present gradients and products of the optimizer's weights."""
        probes, points = self.probes(), [p for p, here in zip(self.params, present, strict=True) if here]
        chosen = [v for v, here in zip(probes, present, strict=True) if here]

        def of_present(values):
            values = iter(values)
            return loss([next(values) if here else p.detach() for p, here in zip(self.params, present, strict=True)])

        found = [iter(values) for values in exact(of_present, points, chosen)]
        grads, products = ([next(values) if here else None for here in present] for values in found)
        self.products += has_product
        after = []
        for oracle, part, sign in zip(self.oracles, (slice(0, 2), slice(2, 4)), signs, strict=True):
            mine, hv = ([None if x is None else sign * x for x in values[part]] for values in (grads, products))
            after += oracle.step(mine, (probes[part], hv) if has_product else None)
        return after

    def counts(self):
        """(steps, products) of each tensor by the textbook."""
        steps = [n for oracle in self.oracles for n in oracle.steps]
        return steps, [n for oracle in self.oracles for n in oracle.products]


def _shared_defaults(name):
    return {"weight_decay": 0.1, "lr": 1e-3} if name == "Sophia" else {}


def _textbook_names(settings):
    """Of AdaHessian, the textbook says which average where dashpot says whether."""
    settings = {key: value for key, value in settings.items() if key != "maximize"}  # it is given negatives
    if "spatial_averaging" in settings:
        settings["average"] = "signed" if settings.pop("spatial_averaging") else "none"
    return settings


def residual_at(k):
    return lambda values: residual(values, batch(k))


def identity(case):
    return f"{case[0]}-{CASES.index(case)}"


@pytest.mark.parametrize("case", CASES, ids=identity)
def test_a_method_is_the_textbook_on_its_own_products(case):
    twin = Twin(*case)
    for k in range(STEPS):
        due = twin.timetable.due(k)
        assert twin.optimizer.should_create_graph() == due, f"step {k}"
        expected = twin.oracle_step(residual_at(k), due, exact=exact_forward if k % 7 == 0 else exact)
        take_step("backward", twin.optimizer, [lambda k=k: residual(twin.params, batch(k))])
        assert error(twin.params, expected) < DOUBLE, f"step {k}"
    assert twin.optimizer.curvature_stats.products == twin.products
    assert twin.products < STEPS or twin.timetable.every == 1
    start = weights()
    assert all(not torch.equal(p, w) for p, w in zip(twin.params, start, strict=True))


@EVERY_METHOD
def test_maximize_negates_gradient_and_product_but_not_the_decay(name):
    twin = Twin(name, {"lr": 0.02, "weight_decay": 0.1}, {"weight_decay": 0.5}, {"d_warmup": 3}, maximize=True)
    for k in range(STEPS):
        expected = twin.oracle_step(residual_at(k), twin.timetable.due(k), signs=(-1, -1))
        take_step("backward", twin.optimizer, [lambda k=k: residual(twin.params, batch(k))])
        assert error(twin.params, expected) < DOUBLE, f"step {k}"


def test_one_group_may_ascend_while_the_other_descends():
    twin = Twin("Sophia", {"lr": 0.02}, {"maximize": True}, {"update_d_every": 3})
    for k in range(20):
        expected = twin.oracle_step(residual_at(k), twin.timetable.due(k), signs=(1, -1))
        take_step("backward", twin.optimizer, [lambda k=k: residual(twin.params, batch(k))])
        assert error(twin.params, expected) < DOUBLE


@EVERY_METHOD
def test_a_schedule_moves_the_learning_rate(name):
    twin = Twin(name, {"lr": 0.05}, {"lr": 0.02}, {}, schedule=Cosine(STEPS, floor=0.1))
    for k in range(STEPS):
        for group, oracle in enumerate(twin.oracles):
            oracle.lr = twin.optimizer.current_lr(group)
        expected = twin.oracle_step(residual_at(k), twin.timetable.due(k))
        take_step("backward", twin.optimizer, [lambda k=k: residual(twin.params, batch(k))])
        assert error(twin.params, expected) < DOUBLE
    assert twin.optimizer.current_lr(0) < 0.5 * 0.05


@EVERY_METHOD
def test_settings_may_change_between_steps(name):
    """lr, eps, decay and betas are read at each step; an average of squares keeps the weights its entries had."""
    twin = Twin(name, {"lr": 0.02, "betas": (0.8, 0.9)}, {}, {"d_warmup": 2, "update_d_every": 3})
    squares = name in ("ESGD-1", "AdaHessian")
    share = 0.0  # sum of the weights of all products in the average
    for k in range(STEPS):
        if k in (10, 25):
            for group, oracle in zip(twin.optimizer.param_groups, twin.oracles, strict=True):
                b1, b2 = 0.8, 0.95 if k == 10 else 0.6
                if name == "Sophia":  # no bias correction: the first beta may change as well
                    b1 = 0.6
                group.update(lr=0.3 / k, eps=0.1 / k, weight_decay=1.0 / k, betas=(b1, b2))
                oracle.lr, oracle.eps, oracle.wd, oracle.b1, oracle.b2 = 0.3 / k, 0.1 / k, 1.0 / k, b1, b2
        due = twin.timetable.due(k)
        if squares and due:
            share = twin.oracles[0].b2 * share + 1 - twin.oracles[0].b2
        if squares:  # the textbook divides by 1 - b2^h, which holds for a constant b2
            for oracle in twin.oracles:
                _correct_by(oracle, share)
        expected = twin.oracle_step(residual_at(k), due)
        take_step("backward", twin.optimizer, [lambda k=k: residual(twin.params, batch(k))])
        assert error(twin.params, expected) < DOUBLE, f"step {k}"


class _Correction(float):
    """A beta2 whose powers are what makes 1 - b2^h the given share."""

    share = 0.0

    def __pow__(self, *_: Any) -> Any:
        return 1 - self.share


def _correct_by(oracle, share):
    beta = _Correction(oracle.b2)
    beta.share = share
    oracle.b2 = beta


# ---- parameters that come late --------------------------------------------------------------------------------------


def late_loss(twin, present):
    """The loss at the optimizer's parameters, in which the absent ones are constants."""
    return lambda values: quartic([p if here else p.detach() for p, here in zip(values, present, strict=True)])


@pytest.mark.parametrize("way", ["backward", "graph", "closure", "curvature_step"])
@EVERY_METHOD
def test_a_late_parameter_waits_for_its_first_product(name, way):
    """Its first gradient comes at step 7, not a step with a product: one is forced, at once where there is a closure
    to evaluate, else at the next step. Until then it decays, but the gradient has no say."""
    settings = {"lr": 0.02, "weight_decay": 0.1}
    twin = Twin(name, settings, {}, {"d_warmup": 2, "update_d_every": 10}, lambda: leaves((3, 2), (4,), (2,), ()))
    first, forced = 7, 7 if way == "closure" else 8
    start, taken = twin.params[2].detach().clone(), []
    for k in range(22):
        present = (True, True, k >= first, k >= first)
        due = twin.timetable.due(k, forced=k == forced)
        expected = twin.oracle_step(quartic, due, present)
        before = twin.optimizer.curvature_stats.products
        take_step(way, twin.optimizer, [lambda present=present: late_loss(twin, present)(twin.params)])
        taken += [k] * (twin.optimizer.curvature_stats.products - before)
        assert error(twin.params, expected) < DOUBLE, f"step {k}"
        if k < first:
            assert torch.equal(twin.params[2], start)
            assert not twin.optimizer.state.get(twin.params[2])
        if k == first < forced:
            rate = 0.0 if name == "ESGD-2" else twin.oracles[1].lr
            rate *= 1 - 0.99 if name == "ESGD-1" else 1.0  # its first step's warm-up
            assert error([twin.params[2]], [start * (1 - 0.1 * rate)]) < DOUBLE
    assert taken == [0, 1, *range(forced, 22, 10)]
    counted = twin.counts()
    for i, p in enumerate(twin.params):
        state = twin.optimizer.state[p]
        assert (state["step"], state["products"]) == (counted[0][i], counted[1][i])


@pytest.mark.parametrize("way", ["backward", "graph", "closure", "curvature_step"])
def test_a_late_parameter_gets_the_whole_product_from_micro_batches(way):
    """The first gradient of a parameter must not make a product of what is left of the step's micro-batches."""
    a, b = leaves((3,), (2,))
    optimizer = dp.AdaHessian([a, b], lr=0.1, betas=(0.0, 0.0), d_warmup=1, update_d_every=10)
    taken = {a: 0, b: 0}
    for k in range(3):
        # Diagonal: with Rademacher probes v H v is the second derivative itself.
        curvature = {p: 12 * p.detach() ** 2 for p in (a, b)}
        take_step(way, optimizer, [lambda k=k: ((a**4).sum() + ((b**4).sum() if k else 0.0)) / 4] * 4)
        for p, count in taken.items():
            taken[p] = int(optimizer.state[p]["products"]) if p in optimizer.state else 0
            if taken[p] > count:
                assert error([optimizer.state[p]["hess_sq"].sqrt()], [curvature[p]]) < DOUBLE, f"step {k}"
    assert list(taken.values()) == [2, 1]


def test_a_parameter_with_a_gradient_now_and_then_gets_a_product():
    """It has none on the steps that are forced for it; a product must come all the same."""
    a, b = leaves((3,), (2,))
    start = b.detach().clone()
    optimizer = dp.ESGD([a, b], lr=0.1, d_warmup=1, update_d_every=10)
    for k in range(40):
        take_step("backward", optimizer, [lambda k=k: quartic([a, b] if k % 2 else [a])])
    assert not torch.equal(b, start)
    assert optimizer.state[b]["products"] > 0


def test_a_frozen_parameter_costs_no_products():
    a, b = leaves((3,), (2,))
    optimizer = dp.ESGD([a, b], lr=0.1, d_warmup=1, update_d_every=10)
    for k in range(31):
        if k == 3:  # its only gradient, on a step without a product
            take_step("backward", optimizer, [lambda: quartic([a, b])])
            b.requires_grad_(False)
        else:
            take_step("backward", optimizer, [lambda: quartic([a])])
    assert optimizer.curvature_stats.products == 4


# ---- precision ------------------------------------------------------------------------------------------------------

RECORDED = [x.detach() for x in leaves(*[(30,)] * 82, seed=3)]  # gradients and products in turn


@pytest.mark.parametrize(
    ("dtype", "rounding", "bound"),
    [
        # float32: 40 steps of some ten roundings of 6e-8, in weights of up to 4; state is as wide as the weights.
        (torch.float32, "nearest", 40 * 10 * 2.0**-24 * 4),
        # bfloat16: the step is computed in float32, then each step rounds a weight of up to 4 by half a unit of 2^-7.
        (torch.bfloat16, "nearest", 40 * 2.0**-9 * 4),
        (torch.bfloat16, "stochastic", 40 * 2.0**-8 * 4),
        # With what was cut off kept: one rounding to read the weight, and 40 of the 16 bits kept together.
        (torch.bfloat16, "kahan", 2.0**-8 * 4),
    ],
    ids=str,
)
@EVERY_METHOD
def test_narrow_weights_stay_near_the_wide_run(name, dtype, rounding, bound):
    cls, _, fixed = ORACLES[name]
    # Numbers that are exact in every dtype, so that both runs are given the same.
    given = [x.to(torch.bfloat16) for x in RECORDED]
    start, step = given[0], 0

    def products(params, probes):
        del params
        # A Hessian of size 1 to 3, so that no denominator is small and errors are not magnified.
        hessian = 1 + given[2 * step + 1].abs().clamp_max(2)
        return [hessian.to(v.dtype) * v for v in probes]

    runs = []
    for kind, how in ((torch.float64, "nearest"), (dtype, rounding)):
        w = start.to(kind, copy=True).requires_grad_()
        options = {"probe": products, "distribution": "rademacher", "rounding": how, "d_warmup": 1}
        optimizer = cls([w], lr=0.05, weight_decay=0.01, update_d_every=3, **fixed, **options)
        for step in range(40):
            w.grad = given[2 * step + 2].to(kind).clone()
            optimizer.step()
        runs.append(w.detach().double())
    difference = (runs[0] - runs[1]).abs().max().item()
    assert difference <= bound
    assert difference > 0  # another precision was at work
    assert runs[0].abs().max() < 4


# ---- state, rule, recipe --------------------------------------------------------------------------------------------

KEYS = {
    "ESGD-1": {"step", "exp_avg", "hess_sq", "hess_weight", "products"},
    "ESGD-2": {"step", "exp_avg", "hess_sq", "products", "warmup"},
    "AdaHessian": {"step", "exp_avg", "hess_sq", "hess_weight", "products"},
    "Sophia": {"step", "exp_avg", "hess", "products"},
}


@EVERY_METHOD
def test_the_state_has_the_documented_keys_and_each_parameter_its_own_counts(name):
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


@pytest.mark.parametrize(("every", "warmup"), [(1, 1), (2, 1), (3, 2), (10, 20), (4, 9), (7, 1)])
def test_asking_for_a_graph_follows_the_rule_and_changes_nothing(every, warmup):
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


def test_asking_does_not_change_the_run():
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
def test_the_recipe_pastes_back_and_is_the_method(cls, fixed, settings):
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
    for _ in range(12):
        take_step("backward", named, [lambda: quartic(first)])
        take_step("backward", general, [lambda: quartic(second)])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_diff_names_what_tells_two_second_order_methods_apart():
    w = leaves((2,))
    rows = dp.diff(dp.ESGD(w), dp.ESGD(w, version=2)).rows
    assert any("maximum" in str(row) for row in rows)
    assert any("products" in str(row) for row in rows)
    assert repr(dp.diff(dp.ESGD(w), dp.ESGD(w, v=0.9))) == "no difference"
    assert dp.diff(dp.ESGD(w), dp.ESGD(w, eps=1e-3)).rows


def composed(name):
    """(named class and settings, the same by stages): zero (b - nu b)/(1 - nu b) leaves nu b of the memory."""
    nu, b = 0.7, 0.9
    decay, average = dp.DecoupledDecay(0.1), dp.Filter(b, slot="exp_avg")
    zero = (b - nu * b) / (1 - nu * b)
    return {
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
def test_the_stages_compose_to_the_named_method(name):
    cls, _, fixed = ORACLES[name]
    settings, stages = composed(name)
    first, second = weights(), weights()
    probing = {"update_d_every": 4, "d_warmup": 3, "distribution": "gaussian", "seed": 3}
    named = cls(first, **settings, **fixed, weight_decay=0.1, **probing)
    general = dp.SGM(second, settings["lr"], **stages, **probing)
    for k in range(STEPS):
        for optimizer, params in ((named, first), (general, second)):
            take_step("backward", optimizer, [lambda k=k, params=params: residual(params, batch(k))])
    # Both feed back their own weights; the zero is the same number but for a rounding. Ten times as much as without.
    assert error(first, [p.detach() for p in second]) < 10 * DOUBLE


@pytest.mark.needs_compiler
@pytest.mark.parametrize("case", [CASES[i] for i in (2, 4, 7, 9)], ids=identity)
def test_compiled_kernels_step_as_the_eager_engine(case):
    name, settings, other, probing = case
    cls, _, fixed = ORACLES[name]
    step = 0

    def products(params, probes):
        """Those of a recorded Hessian, so that nothing feeds back."""
        found = leaves(*[p.shape for p in params], seed=1000 + step)
        return [h.detach() * v for h, v in zip(found, probes, strict=True)]

    def make(params, engine):
        groups = [{"params": params[:2]}, {"params": params[2:], **other}]
        return cls(groups, **{**settings, **fixed, **probing, "probe": products}, engine=engine)

    first, second = twins(make, weights())
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
