"""Recipe as a value: repr, equality, serialization, custom stages."""

import copy
import json
import pickle

import pytest
import recipes_custom_stage
import torch
from hypothesis import given
from hypothesis import strategies as st
from recipes_custom_stage import Softsign
from recipes_support import RECIPES

import dashpot as dp
from dashpot.errors import ArgumentError
from dashpot.schedules import Constant, Cosine, Exponential
from dashpot.stages import Negate, NudgeSmallWeights

NAMES = {
    **vars(dp),
    **vars(dp.schedules),
    "Negate": Negate,
    "NudgeSmallWeights": NudgeSmallWeights,
    "Softsign": Softsign,
}


def ids(recipe):
    return "+".join(type(stage).__name__ for stage in recipe.stages) or "empty"


# ---- text, equality, plain data --------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES, ids=ids)
def test_repr_evaluates_to_the_recipe(recipe):
    assert eval(repr(recipe), dict(NAMES)) == recipe


@pytest.mark.parametrize("recipe", RECIPES, ids=ids)
def test_json_round_trip(recipe):
    data = json.loads(json.dumps(recipe.to_dict()))
    back = dp.Recipe.from_dict(data)
    assert back == recipe
    assert hash(back) == hash(recipe)
    assert back.to_dict() == recipe.to_dict() == data


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
@pytest.mark.parametrize("recipe", RECIPES, ids=ids)
def test_copies_are_equal(recipe, copied):
    again = copied(recipe)
    assert again == recipe
    assert repr(again) == repr(recipe)
    assert [line.keys for line in again.bound_stages] == [line.keys for line in recipe.bound_stages]


def test_recipes_with_any_difference_are_unequal():
    assert len(set(RECIPES)) == len(RECIPES)
    assert dp.Recipe(dp.Filter(0.9)) != dp.Recipe(dp.Filter(0.8))
    assert dp.Recipe(dp.Filter(0.9)) != dp.Recipe(dp.Filter(0.9), lr=0.1)
    assert dp.Recipe(dp.Filter()) != dp.Recipe(dp.Filter(), schedule=Cosine(10))
    assert dp.Recipe(dp.Filter(), dp.HuberClip()) != dp.Recipe(dp.HuberClip(), dp.Filter())
    assert dp.Recipe() != "Recipe(lr=0.001)"


@given(st.floats(0, 0.999), st.floats(-2, 0.999), st.floats(0, 10))
def test_repr_and_data_preserve_all_digits(pole, zero, lr):
    recipe = dp.Recipe(dp.Filter(pole, zero), lr=lr)
    assert eval(repr(recipe), dict(NAMES)) == recipe
    assert dp.Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_repr_shows_the_first_setting_and_nondefault_settings():
    assert repr(dp.Recipe(dp.Filter(), dp.SecondMoment(eps=1e-6))) == (
        "Recipe(Filter(pole=0.9), SecondMoment(beta=0.999, eps=1e-06), lr=0.001)"
    )
    assert repr(dp.Recipe(Negate(), lr=1, schedule=Exponential(0.5))) == (
        "Recipe(Negate(), lr=1, schedule=Exponential(factor=0.5))"
    )
    both = dp.Recipe(dp.Filter(), schedule={"lr": Exponential(0.5), "pole": Constant(0.5)})
    assert "schedule={'lr': Exponential(factor=0.5), 'pole': Constant(factor=0.5)}" in repr(both)


def test_tensor_settings_are_printed_and_saved_as_numbers():
    recipe = dp.Recipe(dp.Filter(torch.tensor(0.5)), lr=torch.tensor(0.25))
    assert repr(recipe) == "Recipe(Filter(pole=0.5), lr=0.25)"
    assert dp.Recipe.from_dict(recipe.to_dict()) == dp.Recipe(dp.Filter(0.5), lr=0.25)


def test_frozen():
    recipe = dp.Recipe(dp.Filter())
    for name in ("lr", "stages", "schedule", "slots", "new"):
        with pytest.raises(AttributeError, match=rf"A recipe is frozen: .*{name}"):
            setattr(recipe, name, 0.1)
        with pytest.raises(AttributeError, match=rf"A recipe is frozen: {name} cannot be deleted"):
            delattr(recipe, name)
    with pytest.raises(AttributeError):
        recipe.stages[0].pole = 0.5
    assert recipe == dp.Recipe(dp.Filter())


# ---- user-defined stages ---------------------------------------------------------------------------------------------


def test_custom_stage_is_saved_with_its_module():
    data = dp.Recipe(Softsign(0.5)).to_dict()["stages"][0]
    assert data == {
        "stage": "recipes_custom_stage.Softsign",
        "width": 0.5,
        "gain": 1.0,
        "floor": None,
        "levels": [1, 2],
        "mode": "soft",
    }
    assert type(dp.Stage.from_dict(data)) is recipes_custom_stage.Softsign


def test_numeric_fields_are_found_for_all_annotations():
    assert Softsign.numeric() == ("width", "gain", "floor")
    assert dp.Recipe(Softsign(0.5, floor=0.1)).settings() == {"width": 0.5, "gain": 1.0, "floor": 0.1}
    assert dp.Recipe(Softsign(0.5)).settings() == {"width": 0.5, "gain": 1.0}  # floor is None: not numeric


def test_custom_stage_runs_with_its_own_state_key():
    w = torch.tensor([1.0, -3.0], dtype=torch.float64, requires_grad=True)
    opt = dp.SGM.from_recipe([w], dp.Recipe(Softsign(1.0), lr=0.5))
    w.grad = w.detach().clone()
    opt.step()
    torch.testing.assert_close(w.detach(), torch.tensor([0.75, -2.625], dtype=torch.float64))
    assert opt.state[w]["softsign_last"].tolist() == [0.5, -0.75]
    assert {"width", "gain"} < set(opt.param_groups[0])


# ---- invalid descriptions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"stage": "Filterr"}, r"Unknown stage 'Filterr': did you mean 'Filter'\? Known: .*SecondMoment"),
        ({"stage": "recipes_custom_stage.Softsig"}, r"Unknown stage .*did you mean 'recipes_custom_stage.Softsign'\?"),
        ({"stage": "Filter", "poll": 0.9}, r"Unknown setting of Filter 'poll': did you mean 'pole'\?"),
        ({"stage": "Filter", "pole": 1.0}, r"^Filter: pole must be a number in \[0, 1\), got 1.0"),
        (
            {"stage": "recipes_custom_stage.Softsign"},
            r"^recipes_custom_stage.Softsign: width is missing from the description",
        ),
        ({"pole": 0.9}, r'Stage.from_dict: data must be a mapping with the key "stage", got'),
        (["Filter"], r'Stage.from_dict: data must be a mapping with the key "stage", got'),
    ],
)
def test_invalid_stage_data_raises(data, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        dp.Stage.from_dict(data)


@pytest.mark.parametrize("missing", ["stages", "lr", "schedule"])
def test_incomplete_recipe_data_raises(missing):
    data = dp.Recipe(dp.Filter()).to_dict()
    del data[missing]
    with pytest.raises(ArgumentError, match=rf"^Recipe: {missing} is missing from the description"):
        dp.Recipe.from_dict(data)


@pytest.mark.parametrize("bad", [None, "Filter", [1]])
def test_recipe_data_of_wrong_type_raises(bad):
    with pytest.raises(ArgumentError, match=r"^Recipe: stages is missing"):
        dp.Recipe.from_dict(bad)


@pytest.mark.parametrize("bad", [dp.Filter, "Filter()", None, 0.9])
def test_argument_other_than_a_stage_raises(bad):
    with pytest.raises(ArgumentError, match=r"^Recipe: every positional argument must be a Stage, got "):
        dp.Recipe(bad)


@pytest.mark.parametrize("lr", [-1.0, float("nan"), float("inf"), "0.1", None, True])
def test_invalid_lr_raises(lr):
    with pytest.raises(ArgumentError, match=r"^Recipe: lr must be a number in \[0, inf\), got "):
        dp.Recipe(lr=lr)
