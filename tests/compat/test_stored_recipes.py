"""Recipes stored as JSON by an earlier version: description, text and weights."""

import json

import pytest
import torch
from stored_support import SHAPES, STORED, StoredSign, distance, recipe_weights, recipes

import dashpot as dp

MADE = json.loads((STORED / "recipes.json").read_text())
EACH = pytest.mark.parametrize("name", MADE)


@EACH
def test_stored_description_loads_to_an_equal_recipe(name):
    recipe = dp.Recipe.from_dict(MADE[name]["recipe"])
    assert recipe == recipes()[name]
    assert recipe.to_dict() == MADE[name]["recipe"]


@EACH
def test_stored_text_evaluates_to_an_equal_recipe(name):
    recipe = dp.Recipe.from_dict(MADE[name]["recipe"])
    assert repr(recipe) == MADE[name]["text"]
    names = {**vars(dp), **vars(dp.schedules), **vars(dp.stages), "StoredSign": StoredSign}
    assert eval(MADE[name]["text"], names) == recipe


@EACH
def test_stored_recipe_gives_the_stored_weights(name):
    """Tolerance of 1e-12, since square roots and sums in float64 may differ in their last bits between processors."""
    recipe = dp.Recipe.from_dict(MADE[name]["recipe"])
    expected = [
        torch.tensor(values, dtype=torch.float64).view(shape)
        for values, shape in zip(MADE[name]["weights"], SHAPES, strict=True)
    ]
    assert distance(recipe_weights(recipe), expected) <= 1e-12
