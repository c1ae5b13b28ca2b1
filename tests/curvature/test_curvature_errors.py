"""What cannot be: one sentence that says what, what is allowed and what was got, before weights or state change."""

import copy
import inspect
import re
from typing import Any

import pytest
import torch
from curvature.second_order_support import (
    WAYS,
    backward_with_graph,
    error,
    leaves,
    probe_of,
    quartic,
    same,
    snapshot,
    take_step,
)
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

import dashpot as dp
from dashpot.constraints import ARGUMENTS, FLAG, POLE, POSITIVE, Interval, OneOf, Optional, Pair

CLASSES = (dp.ESGD, dp.AdaHessian, dp.Sophia)
each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
PROBES = ("auto", "forward", "differences")


def is_one_sentence(text):
    """It starts with the method or the operation, ends with a full stop, and has no line break."""
    return text.endswith(".") and "\n" not in text and not re.search(r"\. [A-Z]", text)


def refused(optimizer, act, match, kind: Any = dp.CurvatureError):
    """`act` is refused, and weights, state and groups stay bit for bit. Returns the message."""
    before = snapshot(optimizer)
    with pytest.raises(kind, match=match) as caught:
        act()
    assert same(snapshot(optimizer), before)
    assert is_one_sentence(str(caught.value)), str(caught.value)
    return str(caught.value)


def started(params, steps=1, **settings):
    """An optimizer that has taken a step, with a product due at the next one."""
    settings = {"lr": 0.1, **settings}
    probe = settings.pop("probe", "auto")
    optimizer = dp.AdaHessian(params, probe=probe, **settings)
    for _ in range(steps):
        take_step("curvature_step", optimizer, [lambda: quartic(params)])
    return optimizer


# ---- gradients without a graph, closures without a loss -------------------------------------------------------------


@each_class
def test_a_plain_gradient_on_a_step_with_a_product(cls):
    params = leaves((3, 2), (2,))
    optimizer = cls(params, lr=0.1, d_warmup=2)
    for _ in range(2):
        quartic(params).backward()
        text = refused(optimizer, optimizer.step, r"shape \(3, 2\)")
        assert text.startswith(f"{cls.__name__}: ")
        assert "opt.backward(loss)" in text
        assert "create_graph=opt.should_create_graph()" in text
        # What it names works, and the step that was refused has not been counted.
        optimizer.zero_grad()
        optimizer.backward(quartic(params))
        optimizer.step()
        optimizer.zero_grad()
    assert optimizer.curvature_stats.products == optimizer.steps_done() == 2


@pytest.mark.parametrize("probe", ["forward", "differences", "closure"])
def test_a_route_that_needs_a_closure(probe):
    params = leaves((3,), (2,))
    optimizer = started(params, probe=probe)
    quartic(params).backward()
    text = refused(optimizer, optimizer.step, "requires a closure")
    assert repr(probe) in text
    assert "curvature_step" in text
    if probe != "closure":
        optimizer.zero_grad()
        refused(optimizer, lambda: optimizer.backward(quartic(params)), "closure")
        assert all(p.grad is None for p in params)


@pytest.mark.parametrize(
    "value", [None, "loss", True, torch.ones(2), torch.ones(0), torch.ones((), dtype=torch.cfloat)]
)
@pytest.mark.parametrize("way", ["step", "curvature_step"])
@pytest.mark.parametrize("probe", PROBES)
def test_a_closure_that_returns_no_loss(probe, way, value):
    params = leaves((3,), (2,))
    optimizer = started(params, probe=probe)

    def closure():
        optimizer.zero_grad()
        quartic(params).backward()
        return value

    act = getattr(optimizer, way)
    expected = "AdaHessian: the closure must return the loss, a single number, got "
    text = refused(optimizer, lambda: act(closure), expected)
    assert (f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)) in text


@pytest.mark.parametrize("probe", PROBES)
def test_a_closure_given_to_step_that_does_not_go_backward(probe):
    params = leaves((3,), (2,))
    optimizer = started(params, probe=probe)
    optimizer.zero_grad()
    refused(optimizer, lambda: optimizer.step(lambda: quartic(params)), "must call loss.backward")


@pytest.mark.parametrize("value", [1.5, 2, torch.tensor(3.0)])
@pytest.mark.parametrize("probe", PROBES)
def test_a_closure_of_curvature_step_whose_loss_depends_on_nothing(probe, value):
    params = leaves((3,), (2,))
    optimizer = started(params, probe=probe)
    text = refused(optimizer, lambda: optimizer.curvature_step(lambda: value), "depends on the parameters, got ")
    assert repr(value) in text


# ---- models without the derivative ----------------------------------------------------------------------------------


class CubeOnce(torch.autograd.Function):
    """x^3 whose backward pass cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x * x * grad


def cube(params):
    return CubeOnce.apply(params[0]).sum() ** 2 + quartic(params)


def cubes_alone(params):
    """Its gradients look like constants: torch gives those of such a function no graph."""
    return sum(CubeOnce.apply(p).sum() for p in params)


def attention(params):
    q, k, v = (p.view(1, 1, 2, 4) for p in params)
    return (scaled_dot_product_attention(q, k, v) ** 2).sum()


OBSTACLES = [
    pytest.param(cube, ((3,), (2,)), "CubeOnce", id="once-differentiable"),
    pytest.param(cubes_alone, ((3,), (2,)), "CubeOnce", id="once-differentiable-alone"),
    pytest.param(attention, ((8,), (8,), (8,)), "scaled_dot_product", id="attention"),
]


def going_back(optimizer, loss):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


@pytest.mark.parametrize(("loss", "shapes", "name"), OBSTACLES)
@pytest.mark.parametrize("way", ["backward", "graph", "closure", "curvature_step"])
def test_a_model_without_double_backward_is_named_with_the_way_out(way, loss, shapes, name):
    params = leaves(*shapes)
    optimizer = dp.AdaHessian(params, lr=0.1, probe="closure" if way in ("closure", "curvature_step") else "auto")
    closure = going_back(optimizer, lambda: loss(params))
    if way == "graph":
        backward_with_graph(loss(params), True)
        if not any(p.grad.requires_grad for p in params):
            refused(optimizer, optimizer.step, "has no graph")
            return
    act = {
        "backward": lambda: optimizer.backward(loss(params)),
        "graph": optimizer.step,
        "closure": lambda: optimizer.step(closure),
        "curvature_step": lambda: optimizer.curvature_step(closure),
    }[way]
    named = "operation" if way == "graph" and name == "CubeOnce" else name  # gradients do not tell what made them
    text = refused(optimizer, act, f"{named}.* has no double backward")
    assert "probe='differences' with a closure" in text
    assert text.startswith("AdaHessian: ")
    assert not optimizer.state


@pytest.mark.parametrize(("loss", "shapes", "name"), OBSTACLES)
@pytest.mark.parametrize("way", ["closure", "curvature_step"])
def test_auto_falls_back_to_differences_and_says_why(way, loss, shapes, name):
    runs = []
    for probe in ("auto", "differences"):
        params = leaves(*shapes)
        optimizer = dp.AdaHessian(params, lr=0.01, update_d_every=2, probe=probe)
        for _ in range(5):
            closure = going_back(optimizer, lambda params=params: loss(params))
            if way == "closure":
                optimizer.step(closure)
            else:
                if optimizer.should_create_graph():
                    optimizer.curvature_step(closure)
                closure()
                optimizer.step()
        runs.append((optimizer, params))
    (auto, ours), (asked, theirs) = runs
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))
    assert auto.curvature_stats.route == asked.curvature_stats.route == "differences"
    assert name in auto.curvature_stats.reason
    assert "double backward" in auto.curvature_stats.reason
    assert asked.curvature_stats.reason == "requested"
    assert auto.curvature_stats.products == 3


def test_gradients_are_right_on_the_step_that_falls_back():
    params, copies = leaves((3,), (2,)), leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.01)
    optimizer.step(going_back(optimizer, lambda: cube(params)))
    cube(copies).backward()
    assert error([p.grad for p in params], [q.grad for q in copies]) < 1e-15


class CubeReverseOnly(torch.autograd.Function):
    """x^3 with two backward passes and no forward derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x * x * grad


@pytest.mark.parametrize("way", ["step", "curvature_step"])
def test_the_forward_route_names_what_has_no_forward_derivative(way):
    params = leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.1, probe="forward")
    closure = going_back(optimizer, lambda: CubeReverseOnly.apply(params[0]).sum() ** 2 + quartic(params))
    text = refused(optimizer, lambda: getattr(optimizer, way)(closure), "forward")
    assert text.startswith("AdaHessian: ")
    assert "forward-mode derivative" in text
    assert "CubeReverseOnly" in text
    assert "probe='differences'" in text


def test_an_error_of_the_users_own_passes_as_it_is():
    params = leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.1)

    def closure():
        raise RuntimeError("out of memory")

    for act in (optimizer.step, optimizer.curvature_step):
        with pytest.raises(RuntimeError, match=r"^out of memory$") as caught:
            act(closure)
        assert not isinstance(caught.value, dp.CurvatureError)


@pytest.mark.parametrize("way", WAYS)
def test_sparse_gradients_are_refused(way):
    table = nn.Embedding(5, 3, sparse=True, dtype=torch.float64)
    optimizer = dp.AdaHessian(table.parameters(), lr=0.1, probe=probe_of(way))

    def loss():
        return (table(torch.tensor([1, 3])) ** 4).sum()

    refused(optimizer, lambda: take_step(way, optimizer, [loss]), "dense", dp.DashpotError)
    assert not optimizer.state


# ---- products that are not finite -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@each_class
def test_a_product_that_is_not_finite_is_dropped_and_counted(cls, bad):
    params, twins = leaves((3,), (2,)), leaves((3,), (2,))
    bad_now = False

    def products(weights, probes):
        found = [2 * v + w.detach() for w, v in zip(weights, probes, strict=True)]
        found[1][0] = bad if bad_now else found[1][0]
        return found

    known = {"probe": products, "update_d_every": 2, "d_warmup": 1, "lr": 0.01}
    optimizer, twin = cls(params, **known), cls(twins, **{**known, "update_d_every": 100})
    for k in range(3):
        bad_now = k == 2
        assert optimizer.should_create_graph() == (k != 1)
        for each, ws in ((optimizer, params), (twin, twins)):
            each.zero_grad()
            quartic(ws).backward()
            each.step()
    # The other one took no product at the last step, and went the same way.
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))
    for p, q in zip(params, twins, strict=True):
        assert same(dict(optimizer.state[p]), dict(twin.state[q]))
    assert (optimizer.curvature_stats.products, optimizer.curvature_stats.skipped) == (1, 1)
    assert optimizer.last_step == "applied"
    bad_now = False
    assert not optimizer.should_create_graph()  # the next on the timetable, not at once


def test_a_product_of_a_loss_that_is_not_finite_is_dropped():
    params = leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.01)
    with torch.no_grad():
        params[0][0] = 0.0

    def loss():  # at 0 the first derivative of |x|^1.5 is 0, the second infinite
        return quartic(params) + (params[0][0].clamp_min(0) ** 1.5) + (params[0][0] ** 1.5)

    take_step("backward", optimizer, [loss])
    assert all(torch.isfinite(p.grad).all() for p in params)
    assert (optimizer.curvature_stats.products, optimizer.curvature_stats.skipped) == (0, 1)


@each_class
def test_a_parameter_whose_first_product_is_dropped_stays_in_place(cls):
    params = leaves((3,), (2,))
    start = [p.detach().clone() for p in params]
    bad = True

    def products(weights, probes):
        return [torch.full_like(v, torch.nan) if bad else 2 * v for v in probes]

    optimizer = cls(params, lr=0.01, probe=products, weight_decay=0.0, d_warmup=1, update_d_every=10)
    for k in range(3):
        assert optimizer.should_create_graph()  # again and again, until there is one
        quartic(params).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert all(torch.equal(p, w) for p, w in zip(params, start, strict=True))
        assert all(optimizer.state[p]["step"] == k + 1 and optimizer.state[p]["products"] == 0 for p in params)
    bad = False
    quartic(params).backward()
    optimizer.step()
    assert not any(torch.equal(p, w) for p, w in zip(params, start, strict=True))
    assert not optimizer.should_create_graph()
    assert (optimizer.curvature_stats.products, optimizer.curvature_stats.skipped) == (1, 3)


@pytest.mark.parametrize(
    "answer",
    [lambda v: [v[0]], lambda v: [*v, v[0]], lambda v: [v[0][:2], v[1]], lambda v: None, lambda v: [3.0, v[1]]],
    ids=["too few", "too many", "shape", "none", "number"],
)
def test_a_function_that_gives_no_products(answer):
    params = leaves((3,), (2,))
    optimizer = dp.AdaHessian(params, lr=0.1, probe=lambda weights, probes: answer(probes))
    quartic(params).backward()
    refused(optimizer, optimizer.step, "AdaHessian: ", (dp.CurvatureError, dp.ArgumentError))
    assert not optimizer.state


# ---- bad arguments --------------------------------------------------------------------------------------------------

COUNT = Interval(1, float("inf"), "left", integer=True)
PROBING = {
    "update_d_every": COUNT,
    "d_warmup": COUNT,
    "distribution": OneOf(("rademacher", "gaussian")),
    "relative_step": Optional(POSITIVE),
    "maximize": FLAG,
}
OWN = ("lr", "betas", "v", "lr_warmup", "eps", "weight_decay", "version", "hessian_power", "spatial_averaging", "gamma")
ALLOWED = {**PROBING, **{name: ARGUMENTS[name] for name in OWN}}
BAD = [(cls, name) for cls in CLASSES for name in ALLOWED if name in inspect.signature(cls).parameters]


@pytest.mark.parametrize(("cls", "name"), BAD, ids=[f"{cls.__name__}-{name}" for cls, name in BAD])
def test_an_argument_out_of_range(cls, name):
    constraint = ALLOWED[name]
    for value in constraint.refused():
        if name == "v" and value is None:
            continue
        text = "^" + re.escape(f"{cls.__name__}: {name} must be {constraint}, got {value!r}.") + "$"
        with pytest.raises(dp.ArgumentError, match=text):
            cls(leaves((2,)), **{name: value})


@each_class
@pytest.mark.parametrize("value", ["backward", "double", None, 3, ["auto"]])
def test_a_route_that_does_not_exist(cls, value):
    names = "'auto', 'graph', 'closure', 'forward', 'differences'"
    text = f"{cls.__name__}: probe must be one of {names}, or a callable, got {value!r}."
    with pytest.raises(dp.ArgumentError, match="^" + re.escape(text) + "$"):
        cls(leaves((2,)), probe=value)


@pytest.mark.parametrize("betas", [(0.9, 1), (0.9, 1.0), [0.9, 1.0]])
def test_only_version_two_never_forgets(betas):
    wanted = re.escape(f"ESGD: betas must be {Pair(POLE)}, got {betas!r}.")
    with pytest.raises(dp.ArgumentError, match=f"^{wanted}$"):
        dp.ESGD(leaves((2,)), betas=betas)
    assert dp.ESGD(leaves((2,)), betas=betas, version=2).recipe.stages[1].beta == 1
    for cls in (dp.AdaHessian, dp.Sophia):
        with pytest.raises(dp.ArgumentError, match="betas must be"):
            cls(leaves((2,)), betas=betas)
    for bad in ((1.0, 1.0), (0.9, 1.1), (-0.1, 1.0), ("a", 1.0)):
        with pytest.raises(dp.ArgumentError, match=r"^ESGD: betas"):
            dp.ESGD(leaves((2,)), betas=bad, version=2)


def test_version_two_has_no_v():
    with pytest.raises(dp.ArgumentError, match=r"^ESGD: v must be None in version 2, got 0\.5\.$"):
        dp.ESGD(leaves((2,)), v=0.5, version=2)
    params = leaves((2,))
    optimizer = dp.ESGD(params, version=2)
    with pytest.raises(dp.ArgumentError, match="v must be None"):
        optimizer.add_param_group({"params": leaves((3,)), "v": 0.5})
    assert len(optimizer.param_groups) == 1
    take_step("backward", optimizer, [lambda: quartic(params)])
    optimizer.param_groups[0]["v"] = 0.5
    optimizer.zero_grad()
    optimizer.backward(quartic(params))
    refused(optimizer, optimizer.step, "v must be None", dp.ArgumentError)


@each_class
def test_a_bad_edit_of_a_group_is_refused_by_the_step(cls):
    params = leaves((3,), (2,))
    optimizer = cls(params, lr=0.1)
    take_step("backward", optimizer, [lambda: quartic(params)])
    optimizer.zero_grad()
    optimizer.backward(quartic(params))
    optimizer.param_groups[0]["betas"] = (0.9, 1.5)
    refused(optimizer, optimizer.step, "betas", dp.ArgumentError)
    optimizer.param_groups[0]["betas"] = (0.9, 0.99)
    optimizer.step()  # the product has waited
    assert optimizer.steps_done() == 2


@each_class
def test_capturable_is_refused(cls):
    with pytest.raises(dp.ArgumentError, match=rf"^{cls.__name__}: capturable must be False") as caught:
        cls(leaves((2,)), capturable=True)
    assert is_one_sentence(str(caught.value))


@each_class
def test_capturable_in_a_group_is_refused(cls):
    with pytest.raises(dp.ArgumentError, match="capturable"):
        cls([{"params": leaves((2,)), "capturable": True}])
    optimizer = cls(leaves((2,)))
    with pytest.raises(dp.ArgumentError, match="capturable"):
        optimizer.add_param_group({"params": leaves((2,)), "capturable": True})


def test_an_sgm_without_curvature_takes_no_products():
    params = leaves((3,), (2,))
    optimizer = dp.SGM(params, filter=dp.Filter(0.9))
    assert not optimizer.should_create_graph()
    refused(optimizer, lambda: optimizer.curvature_step(lambda: quartic(params)), "requires a stage", dp.ArgumentError)
    optimizer.backward(quartic(params))  # the plain one
    optimizer.step()
    assert optimizer.should_create_graph() is False
    assert optimizer.curvature_stats == (None, None, 0, 0, None, None, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("update_d_every", 5),
        ("d_warmup", 2),
        ("probe", "forward"),
        ("distribution", "gaussian"),
        ("relative_step", 1e-3),
        ("process_group", None),
    ],
)
def test_an_sgm_without_curvature_refuses_the_keywords_of_products(name, value):
    text = f"SGM: {name} requires a stage that uses Hessian-vector products, such as Curvature."
    with pytest.raises(dp.ArgumentError, match="^" + re.escape(text) + "$"):
        dp.SGM(leaves((2,)), filter=dp.Filter(0.9), **{name: value})
    with pytest.raises(dp.ArgumentError, match="^" + re.escape(text) + "$"):
        dp.SGM.from_recipe(leaves((2,)), dp.AdamW.recipe_for(), **{name: value})
    dp.SGM(leaves((2,)), rate=dp.Curvature(), **{name: value})


CURVATURE = [
    {"beta": 1.0},
    {"beta": 1.0, "accumulator": "mean"},
    {"beta": 1.5, "accumulator": "maximum"},
    {"eps": -1.0},
    {"estimate": "rows"},
    {"accumulator": "median"},
    {"power": 1.5},
    {"power": 0.5, "accumulator": "mean"},
    {"gamma": 0.5},
    {"gamma": -0.5, "accumulator": "mean"},
    {"spatial": 1},
]


@pytest.mark.parametrize("settings", CURVATURE, ids=str)
def test_a_curvature_stage_refuses_what_it_cannot_be(settings):
    with pytest.raises(dp.ArgumentError, match=r"^Curvature: \w+ must be .*, got .*\.$") as caught:
        dp.Curvature(**settings)
    assert is_one_sentence(str(caught.value))
    name = next(iter(settings))
    if name in ("eps", "power", "gamma", "spatial", "estimate", "accumulator", "beta"):
        assert f"Curvature: {name} must be" in str(caught.value)


def test_unknown_keywords_are_named():
    for cls in CLASSES:
        with pytest.raises(TypeError, match="rho"):
            cls(leaves((2,)), rho=0.04)


def test_errors_are_the_callers_to_mend():
    assert issubclass(dp.CurvatureError, dp.DashpotError)
    assert issubclass(dp.CurvatureError, RuntimeError)
    assert copy.copy(dp.CurvatureError("a")).args == ("a",)
