"""dp.diff reports all differences between two recipes, in order."""

from dataclasses import dataclass

import pytest
import torch

import dashpot as dp
from dashpot.errors import ArgumentError
from dashpot.schedules import Cosine


def params():
    return [torch.zeros(2, requires_grad=True)]


def test_equal_recipes():
    recipe = dp.AdamW.recipe_for()
    assert dp.diff(recipe, dp.AdamW.recipe_for()).rows == ()
    assert repr(dp.diff(recipe, recipe)) == "no difference"


def test_settings_of_a_shared_stage_the_rate_and_the_schedule():
    a = dp.Recipe(dp.Filter(0.9), dp.SecondMoment(), lr=0.1)
    b = dp.Recipe(dp.Filter(0.8, 0.5), dp.SecondMoment(average="plain"), lr=0.2, schedule={"pole": Cosine(5)})
    assert dp.diff(a, b).rows == (
        ("Filter.pole", 0.9, 0.8),
        ("Filter.zero", 0.0, 0.5),
        ("SecondMoment.average", "debiased", "plain"),
        ("lr", 0.1, 0.2),
        ("schedule of pole", None, Cosine(5)),
    )
    assert repr(dp.diff(a, b)).splitlines()[0] == "Filter.pole: 0.9 | 0.8"
    assert repr(dp.diff(a, b)).splitlines()[-1] == f"schedule of pole: - | {Cosine(5)!r}"


def test_diff_of_stages_in_one_recipe_only():
    a, b = dp.Recipe(dp.Filter()), dp.Recipe(dp.Filter(), dp.HuberClip(cap=2))
    assert dp.diff(a, b).rows == (("HuberClip", None, dp.HuberClip(cap=2)),)
    assert repr(dp.diff(b, a)) == "HuberClip: HuberClip(beta=0.9999, cap=2) | -"


def test_repeated_classes_are_numbered():
    a = dp.Recipe(dp.Filter(0.9), dp.Filter(0.5, slot="second"))
    b = dp.Recipe(dp.Filter(0.9), dp.Filter(0.6, slot="second"))
    assert dp.diff(a, b).rows == (("Filter 2.pole", 0.5, 0.6),)


def test_no_op_stages_are_ignored():
    assert dp.diff(dp.Recipe(dp.CoupledDecay(0.0), dp.Filter()), dp.Recipe(dp.Filter())).rows == ()


def test_order_of_shared_stages_is_reported_with_other_differences():
    a = dp.Recipe(dp.Filter(0.9), dp.SecondMoment())
    b = dp.Recipe(dp.SecondMoment(), dp.HuberClip(), dp.Filter(0.9))
    assert ("order", "Filter > SecondMoment", "SecondMoment > HuberClip > Filter") in dp.diff(a, b).rows
    swapped = dp.Recipe(dp.SecondMoment(), dp.Filter(0.8))
    assert [row[0] for row in dp.diff(a, swapped).rows] == ["Filter.pole", "order"]


def test_additional_stage_is_not_an_order_difference():
    rows = dp.diff(dp.Recipe(dp.Filter()), dp.Recipe(dp.SecondMoment(), dp.Filter())).rows
    assert [row[0] for row in rows] == ["SecondMoment"]


def test_classes_with_equal_names_are_distinct():
    @dataclass(frozen=True)
    class HuberClip(dp.Stage):
        width: float = 1.0

        def apply(self, x, s, c, ctx):
            return x, s

    a, b = dp.Recipe(dp.HuberClip()), dp.Recipe(HuberClip())
    assert dp.diff(a, b).rows == (("HuberClip", dp.HuberClip(), HuberClip()),)


def test_swapping_the_sides_swaps_the_columns():
    a, b = dp.AdamW.recipe_for(lr=0.1), dp.QHAdam.recipe_for(lr=0.2, weight_decay=0.1)
    there, back = dp.diff(a, b).rows, dp.diff(b, a).rows
    assert {(name, right, left) for name, left, right in there} == set(back)
    assert there


def test_optimizers_and_tensors_are_compared_by_value():
    assert dp.diff(dp.Adam(params(), lr=0.5), dp.Adam(params(), lr=torch.tensor(0.5))).rows == ()
    assert dp.diff(dp.HeavyBall(params(), lr=0.1), dp.SGD.recipe_for(lr=0.1, momentum=0.9)).rows == ()


@pytest.mark.parametrize("bad", [None, "adam", torch.optim.SGD])
def test_argument_without_a_recipe_raises(bad):
    with pytest.raises(ArgumentError, match=r"^diff: arguments must be Recipes or optimizers with a recipe, got "):
        dp.diff(dp.Recipe(), bad)
