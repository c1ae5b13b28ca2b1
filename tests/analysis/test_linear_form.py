"""Linear form of recipes: each stage, each method, and the conditions in words."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import dashpot as dp
from dashpot.analysis.linear_form import linear_form
from dashpot.analysis.rational_filter import RationalFilter
from dashpot.errors import ArgumentError
from dashpot.optimizers.registry import METHODS
from dashpot.stages import Negate, NudgeSmallWeights

NUMERATORS = (dp.Parcor(), dp.HuberParcor(), dp.MomentRate())


def default_recipe(name):
    """Return the recipe of a method with default settings."""
    return METHODS[name].cls([torch.zeros(1, requires_grad=True)]).recipe


def simulated(recipe, grads, start):
    """Return the weights of a run of the real stages, from `start`, with given gradients."""
    w = torch.tensor(start, dtype=torch.float64)
    state = dp.functional.init(recipe, w)
    path = []
    for step, g in enumerate(grads):
        w, state = dp.functional.update(recipe, w, torch.tensor(g, dtype=torch.float64), state, step)
        path.append(float(w))
    return path


@pytest.mark.parametrize("name", METHODS)
def test_linear_form_of_every_method_has_filter_or_reason(name):
    form = linear_form(default_recipe(name))
    assert form.filter is not None or form.reasons
    assert form.rate is not None or form.reasons
    assert all(text.endswith(".") for text in form.limits + form.reasons)


def test_linear_form_of_autosgm_numerators_has_no_rate():
    for numerator in (1, 2, 3):
        form = linear_form(dp.AutoSGM([torch.zeros(1, requires_grad=True)], numerator=numerator).recipe)
        assert form.filter is not None
        assert form.filter.first_order == (0.9, 0.0, pytest.approx(0.1))
        assert form.rate is None
        assert "computes the learning rate from data" in form.reasons[0]


@pytest.mark.parametrize(
    "recipe",
    [
        dp.SGD.recipe_for(lr=0.1, momentum=0.8, weight_decay=0.3, nesterov=True),
        dp.HeavyBall.recipe_for(lr=0.1, momentum=0.7),
        dp.Recipe(dp.Filter(0.8, -0.4, normalise="none"), dp.DecoupledDecay(0.3), lr=0.2),
        dp.Recipe(dp.Filter(0.8, 0.4, normalise="none"), dp.ChangeDecay(0.3, factor=0.5), lr=0.2),
        dp.Recipe(dp.Filter(0.8, normalise="none"), dp.DecoupledDecay(0.1, scale="constant"), lr=0.2),
        dp.Recipe(dp.Filter(0.8, normalise="none"), dp.Filter(0.5, 0.2, normalise="none", slot="second"), lr=0.2),
        dp.Recipe(dp.Filter(0.8, 0.9, normalise="none"), Negate(), dp.DecoupledDecay(0.1), lr=0.2),
    ],
)
def test_linear_form_predicts_steps_of_recipe(recipe):
    form = linear_form(recipe)
    grads = [0.3, -1.2, 0.8, 0.0, 2.0, -0.7]
    w, inputs, predicted = 0.5, [], []
    h = form.filter.impulse(len(grads))
    for t, g in enumerate(grads):
        inputs.append(g + form.coupled_decay * w)
        v = sum(h[k] * inputs[t - k] for k in range(t + 1))
        w = (1 - form.shrink) * w - form.rate * v
        predicted.append(w)
    assert predicted == pytest.approx(simulated(recipe, grads, 0.5), rel=1e-12, abs=1e-14)  # rounding


@pytest.mark.parametrize("normalise", ["exact", "none", "autosgm", "memory", "running"])
def test_linear_form_of_filter_is_limit_of_code(normalise):
    """After 400 steps every correction differs from its limit by less than 0.7^400; the input then becomes 1 more."""
    stage = dp.Filter(0.7, 0.0 if normalise == "running" else 0.3, normalise=normalise)
    recipe, n = dp.Recipe(stage, lr=1.0), 12
    base = simulated(recipe, [1.0] * 400 + [1.0] * n, 0.0)
    pulse = simulated(recipe, [1.0] * 400 + [2.0] + [1.0] * (n - 1), 0.0)
    change = [b - p for b, p in zip(base[400:], pulse[400:], strict=True)]
    taps = [change[0]] + [b - a for a, b in itertools.pairwise(change)]
    expected = linear_form(recipe).filter.impulse(n)
    assert taps == pytest.approx(expected, abs=1e-12)  # the weights are near 400: rounding 400 * 2^-52


def test_nadam_without_momentum_decay_has_half_momentum():
    form = linear_form(dp.NAdam.recipe_for(momentum_decay=0.0))
    point = dp.momentum_forms.qhm(0.9, 0.45)
    assert form.filter.first_order == pytest.approx(tuple(point))
    assert not any("rises" in text for text in form.limits)


def test_linear_form_reads_decay_of_every_kind():
    form = linear_form(dp.Recipe(dp.CoupledDecay(0.2), dp.Filter(0.5), dp.DecoupledDecay(0.1), lr=0.5))
    assert (form.coupled_decay, form.shrink) == (0.2, 0.05)
    form = linear_form(dp.Recipe(dp.ChangeDecay(0.2, factor=0.5, scale="constant"), lr=0.5))
    assert (form.coupled_decay, form.shrink) == (0.0, 0.1)
    form = linear_form(dp.Recipe(*NUMERATORS[:1], dp.DecoupledDecay(0.1, scale="schedule"), lr=0.5))
    assert (form.rate, form.shrink) == (None, 0.1)


def test_linear_form_at_step_applies_schedules():
    recipe = dp.AdamW.recipe_for(lr=0.5, weight_decay=0.1)
    recipe = recipe.with_settings(schedule={"lr": dp.schedules.Cosine(10), "pole": dp.schedules.Constant(0.5)})
    form = linear_form(recipe, step=5)
    now, factor = recipe.at(5)
    assert form.rate == now.lr * factor
    assert form.shrink == pytest.approx(0.1 * form.rate)
    assert form.filter.poles == (now.settings()["pole"],)
    assert "schedule" in linear_form(recipe).limits[0]


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ((dp.ClipElements(1.0),), "ClipElements"),
        ((dp.HuberClip(),), "HuberClip"),
        ((dp.AdaptiveClip(),), "AdaptiveClip"),
        ((dp.Warmup(0.9),), "Warmup"),
        ((dp.Curvature(),), "norms of the rows"),
        ((dp.Curvature(estimate="diagonal", power=0.5),), "to the power 0.5"),
        ((dp.SecondMoment(),), "treated as constant"),
        ((Negate(),), "maximizes"),
    ],
)
def test_limits_name_the_stage(stages, words):
    assert any(words in text for text in linear_form(dp.Recipe(*stages)).limits)


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ((dp.Filter(), dp.CoupledDecay(0.1)), "replaces the direction"),
        ((dp.ChangeDecay(0.1), dp.Filter()), "also filters the decay"),
        ((dp.ChangeDecay(0.1), dp.SecondMoment()), "also divides the decay"),
    ],
)
def test_unusual_orders_have_no_filter_and_a_reason(stages, words):
    form = linear_form(dp.Recipe(*stages))
    assert form.filter is None
    assert words in form.reasons[0]


def test_user_stage_has_no_filter_and_a_reason():
    @dataclass(frozen=True)
    class Sign(dp.Stage):
        def apply(self, x, s, c, ctx):
            return x._replace(v=x.v.sign()), s

    form = linear_form(dp.Recipe(Sign(), dp.Filter()))
    assert form.filter is None
    assert form.reasons == ("Sign is a stage without a known linear form.",)


def test_nudge_and_tensor_settings_are_accepted():
    recipe = dp.Recipe(NudgeSmallWeights(), dp.Filter(torch.tensor(0.5), 0.25), lr=torch.tensor(0.5))
    form = linear_form(recipe)
    assert form.rate == 0.5
    assert form.filter == RationalFilter((0.25,), (0.5,), 0.5 / 0.75)


def test_linear_form_with_other_types_raises():
    with pytest.raises(ArgumentError, match=r"response: recipe must be a Recipe, .* or a RationalFilter, got 3"):
        linear_form(3, owner="response")
    with pytest.raises(ArgumentError, match=r"response: lr must be a number or a tensor on the CPU"):
        linear_form(dp.Recipe(lr=torch.tensor(0.5, device="meta")), owner="response")


def test_rate_at_step_includes_warmup_and_rate_decay():
    recipe = dp.Recipe(dp.Warmup(0.9), dp.RateDecay(0.25), dp.DecoupledDecay(0.1), lr=0.5)
    rates = [0.5 * (1 - 0.9**t) / (1 + 0.25 * (t - 1)) for t in (1, 2, 3)]
    assert [linear_form(recipe, step=step).rate for step in range(3)] == pytest.approx(rates)
    assert linear_form(recipe, step=2).shrink == pytest.approx(0.1 * rates[2])
    expected = -np.cumsum(np.array(rates))  # of a constant gradient of 1 without the decay
    plain = dp.Recipe(*recipe.stages[:2], lr=0.5)
    assert simulated(plain, [1.0] * 3, 0.0) == pytest.approx(expected)
    limits = " ".join(linear_form(recipe).limits)
    assert "Warmup multiplies the rate" in limits
    assert "RateDecay halves the rate after 4 steps; the rate is that of the first step." in limits


def test_warmup_by_products_is_a_limit_at_every_step():
    form = linear_form(dp.Recipe(dp.Curvature(), dp.Warmup(0.9, counts="products"), lr=0.5), step=3)
    assert form.rate == 0.5
    assert "Hessian-vector products" in form.limits[-1]


def test_sum_over_all_steps_is_named():
    assert any("sum over all steps" in text for text in linear_form(dp.Adagrad.recipe_for()).limits)
