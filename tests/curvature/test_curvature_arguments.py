"""Invalid arguments of the second-order methods and the curvature stages."""

import copy
import inspect
import re

import pytest
from curvature.second_order_support import (
    leaves,
    quartic,
    take_step,
)
from curvature_errors_support import CLASSES, each_class, is_one_sentence, refused

import dashpot as dp
from dashpot.constraints import ARGUMENTS, FLAG, POLE, POSITIVE, Interval, OneOf, Optional, Pair

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
def test_argument_out_of_range_raises(cls, name):
    constraint = ALLOWED[name]
    for value in constraint.refused():
        if name == "v" and value is None:
            continue
        text = "^" + re.escape(f"{cls.__name__}: {name} must be {constraint}, got {value!r}.") + "$"
        with pytest.raises(dp.ArgumentError, match=text):
            cls(leaves((2,)), **{name: value})


@each_class
@pytest.mark.parametrize("value", ["backward", "double", None, 3, ["auto"]])
def test_unknown_route_raises(cls, value):
    names = "'auto', 'graph', 'closure', 'forward', 'differences'"
    text = f"{cls.__name__}: probe must be one of {names}, or a callable, got {value!r}."
    with pytest.raises(dp.ArgumentError, match="^" + re.escape(text) + "$"):
        cls(leaves((2,)), probe=value)


@pytest.mark.parametrize("betas", [(0.9, 1), (0.9, 1.0), [0.9, 1.0]])
def test_beta_one_requires_version_two(betas):
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


def test_version_two_rejects_v():
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
def test_invalid_group_value_raises_in_step(cls):
    params = leaves((3,), (2,))
    optimizer = cls(params, lr=0.1)
    take_step("backward", optimizer, [lambda: quartic(params)])
    optimizer.zero_grad()
    optimizer.backward(quartic(params))
    optimizer.param_groups[0]["betas"] = (0.9, 1.5)
    refused(optimizer, optimizer.step, "betas", dp.ArgumentError)
    optimizer.param_groups[0]["betas"] = (0.9, 0.99)
    optimizer.step()  # the product is still pending
    assert optimizer.steps_done() == 2


@each_class
def test_capturable_raises(cls):
    with pytest.raises(dp.ArgumentError, match=rf"^{cls.__name__}: capturable must be False") as caught:
        cls(leaves((2,)), capturable=True)
    assert is_one_sentence(str(caught.value))


@each_class
def test_capturable_in_a_group_raises(cls):
    with pytest.raises(dp.ArgumentError, match="capturable"):
        cls([{"params": leaves((2,)), "capturable": True}])
    optimizer = cls(leaves((2,)))
    with pytest.raises(dp.ArgumentError, match="capturable"):
        optimizer.add_param_group({"params": leaves((2,)), "capturable": True})


def test_sgm_without_curvature_computes_no_products():
    params = leaves((3,), (2,))
    optimizer = dp.SGM(params, filter=dp.Filter(0.9))
    assert not optimizer.should_create_graph()
    refused(optimizer, lambda: optimizer.curvature_step(lambda: quartic(params)), "requires a stage", dp.ArgumentError)
    optimizer.backward(quartic(params))  # a plain backward pass
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
def test_sgm_without_curvature_rejects_product_options(name, value):
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
def test_invalid_curvature_stage_raises(settings):
    with pytest.raises(dp.ArgumentError, match=r"^Curvature: \w+ must be .*, got .*\.$") as caught:
        dp.Curvature(**settings)
    assert is_one_sentence(str(caught.value))
    name = next(iter(settings))
    if name in ("eps", "power", "gamma", "spatial", "estimate", "accumulator", "beta"):
        assert f"Curvature: {name} must be" in str(caught.value)


def test_unknown_keywords_raise():
    for cls in CLASSES:
        with pytest.raises(TypeError, match="rho"):
            cls(leaves((2,)), rho=0.04)


def test_errors_are_dashpot_errors():
    assert issubclass(dp.CurvatureError, dp.DashpotError)
    assert issubclass(dp.CurvatureError, RuntimeError)
    assert copy.copy(dp.CurvatureError("a")).args == ("a",)
