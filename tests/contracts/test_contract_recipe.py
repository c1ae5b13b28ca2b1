"""Contract: an optimizer's recipe can be evaluated from its repr, round-trips through JSON, and defines the method."""

import copy
import json
import pickle

import pytest
from contracts.trajectories import distance, parameters, run
from registry import each
from subjects import SignFlips

import dashpot as dp

NAMES = {**vars(dp), **vars(dp.stages), **vars(dp.schedules), "SignFlips": SignFlips}
SCHEDULE = {"lr": dp.schedules.Cosine(50, floor=0.1)}


@pytest.mark.diagonal
@each()
@pytest.mark.parametrize("schedule", [None, SCHEDULE], ids=["constant", "scheduled"])
def test_repr_evaluates_to_the_recipe(subject, schedule):
    recipe = subject.make(parameters(), schedule=schedule).recipe
    assert eval(repr(recipe), dict(NAMES)) == recipe
    assert dict(recipe.schedule) == (schedule or {})


@each()
def test_optimizer_repr_shows_the_recipe_of_every_group(subject):
    first, second = parameters(seed=1), parameters(seed=2)
    optimizer = subject.make([{"params": first}, {"params": second, "lr": 0.125}])
    text = repr(optimizer)
    assert text.startswith(f"{subject.cls.__name__}(")
    assert repr(optimizer.recipe) in text
    assert text.count("Recipe(") == 2
    assert "lr=0.125" in text


@each()
def test_recipe_round_trips_through_json(subject):
    recipe = subject.make(parameters()).recipe
    again = dp.Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe
    assert hash(again) == hash(recipe)
    assert repr(dp.diff(again, recipe)) == "no difference"


@each()
def test_recipe_survives_copy_and_pickle(subject):
    recipe = subject.make(parameters()).recipe
    assert pickle.loads(pickle.dumps(recipe)) == copy.deepcopy(recipe) == recipe


@each(lambda subject: not subject.flips_decay)
def test_optimizer_from_the_recipe_is_equal(subject):
    params, others = parameters(), parameters()
    optimizer = subject.make(params)
    run(optimizer, params, 11)
    run(dp.SGM.from_recipe(others, subject.make(parameters()).recipe, **subject.probing), others, 11)
    assert distance(others, params) < 1e-15  # both run the same arithmetic


@each()
def test_recipe_reflects_group_settings(subject):
    optimizer = subject.make(parameters())
    before = optimizer.recipe
    optimizer.param_groups[0]["lr"] = 0.125
    assert repr(dp.diff(before, optimizer)) == f"lr: {subject.lr!r} | 0.125"


@each(lambda subject: subject.recipe is None and subject.cls is not dp.SGM)
def test_recipe_for_equals_the_optimizers_recipe(subject):
    options = {key: value for key, value in subject.options.items() if key != "maximize" and key not in subject.probing}
    assert subject.cls.recipe_for(lr=subject.lr, **options) == subject.make(parameters()).recipe
