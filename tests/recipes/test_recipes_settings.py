"""Contents of a recipe: slots, settings by name, no-op stages, schedules."""

import pytest
from recipes_support import RECIPES

import dashpot as dp
from dashpot.errors import ArgumentError
from dashpot.schedules import Cosine, Exponential
from dashpot.stages import Slot

# ---- slots -----------------------------------------------------------------------------------------------------------


def test_slots_of_all_stages_in_order():
    recipe = dp.Recipe(dp.Filter(), dp.SecondMoment(), dp.Parcor())
    assert [slot.key for slot in recipe.slots] == [
        "momentum_buffer",
        "exp_avg_sq",
        "weight_power",
        "correlation",
        "rate",
    ]


@pytest.mark.parametrize(
    "stages",
    [
        (dp.Filter(), dp.Filter(0.5)),
        (dp.SecondMoment(), dp.CenteredMoment()),
        (dp.Filter(slot="exp_avg_sq"), dp.SecondMoment()),
        (dp.Parcor(), dp.MomentRate()),
    ],
)
def test_shared_state_key_raises(stages):
    with pytest.raises(ArgumentError, match=r"^Recipe: two stages use the state key '\w+'; rename the slot of one"):
        dp.Recipe(*stages)


def test_two_filters_with_distinct_slots():
    recipe = dp.Recipe(dp.Filter(0.9), dp.Filter(0.5, slot="second"))
    assert [slot.key for slot in recipe.slots] == ["momentum_buffer", "second"]
    assert recipe.settings() == {"pole": 0.9, "zero": 0.0, "pole_2": 0.5, "zero_2": 0.0}


def test_reserved_step_key_raises():
    with pytest.raises(ArgumentError, match=r"^Recipe: state key 'step' is reserved for the step count"):
        dp.Recipe(dp.Filter(slot="step"))


def test_slot_declarations():
    assert dp.elementwise("a") == Slot("a", "a", "elementwise", 0.0)
    assert dp.per_tensor("a", "key", 2.0) == Slot("a", "key", "per_tensor", 2.0)


# ---- settings by name ------------------------------------------------------------------------------------------------


def test_settings_are_ordered_and_repeated_names_numbered():
    recipe = dp.Recipe(dp.SecondMoment(0.99, 1e-6), dp.Parcor(0.5), dp.HuberClip(0.25, eps=1e-3), lr=0.1)
    assert recipe.settings() == {
        "beta": 0.99,
        "eps": 1e-6,
        "nu": 1.0,
        "scale": 1.0,
        "beta_2": 0.5,
        "smoothing": 0.1,
        "beta_3": 0.25,
        "cap": 4.0,
        "eps_2": 1e-3,
    }
    assert "gain" not in dp.Recipe(dp.Filter()).settings()  # None: the gain follows from pole and zero
    assert dp.Recipe(dp.Filter(gain=2.0, normalise="none")).settings()["gain"] == 2.0


def test_with_settings_changes_only_the_named_stage():
    recipe = dp.Recipe(dp.SecondMoment(), dp.Parcor(), lr=0.1, schedule=Cosine(5))
    changed = recipe.with_settings(beta_2=0.5, eps=1e-3, lr=0.2)
    assert changed == dp.Recipe(dp.SecondMoment(eps=1e-3), dp.Parcor(0.5), lr=0.2, schedule=Cosine(5))
    assert recipe == dp.Recipe(dp.SecondMoment(), dp.Parcor(), lr=0.1, schedule=Cosine(5))
    assert changed.with_settings(schedule=None).schedule == ()
    assert recipe.with_settings() == recipe


def test_all_settings_can_be_set_by_name():
    for recipe in RECIPES:
        for name, value in recipe.settings().items():
            changed = recipe.with_settings(**{name: value / 2})
            assert changed.settings() == {**recipe.settings(), name: value / 2}


def test_unknown_and_invalid_settings_raise():
    recipe = dp.Recipe(dp.Filter())
    with pytest.raises(ArgumentError, match=r"^Recipe: no setting 'momentum'; it has lr, schedule, pole, zero"):
        recipe.with_settings(momentum=0.5)
    with pytest.raises(ArgumentError, match=r"^Filter: pole must be a number in \[0, 1\), got 1"):
        recipe.with_settings(pole=1)
    with pytest.raises(ArgumentError, match=r"^Recipe: lr must be"):
        recipe.with_settings(lr=-1)


# ---- no-op stages and warnings ---------------------------------------------------------------------------------------


def test_no_op_stages_are_not_bound():
    recipe = dp.Recipe(dp.CoupledDecay(0.0), dp.Filter(), dp.DecoupledDecay(0.1))
    assert [type(stage) for stage in recipe.stages] == [dp.CoupledDecay, dp.Filter, dp.DecoupledDecay]
    assert [type(stage) for stage in recipe.active()] == [dp.Filter, dp.DecoupledDecay]
    assert [line.stage for line in recipe.bound_stages] == list(recipe.active())


def test_warnings_are_collected():
    assert dp.Recipe(dp.Filter(0.9)).warnings() == []
    assert len(dp.Recipe(dp.Filter(0.1, 0.5), dp.Filter(0.2, 0.5, slot="b")).warnings()) == 2


# ---- schedules -------------------------------------------------------------------------------------------------------


def test_single_schedule_applies_to_lr():
    assert dp.Recipe(schedule=Cosine(5)) == dp.Recipe(schedule={"lr": Cosine(5)})


def test_torch_names_refer_to_stage_settings():
    for name, setting in [("momentum", "pole"), ("betas[0]", "pole"), ("betas[1]", "beta"), ("alpha", "beta")]:
        recipe = dp.Recipe(dp.Filter(), dp.SecondMoment(), schedule={name: Cosine(5)})
        assert recipe.schedule == ((setting, Cosine(5)),)


def test_at_resolves_all_schedules_except_the_factor_on_lr():
    recipe = dp.Recipe(dp.Filter(0.8), lr=0.4, schedule={"lr": Exponential(0.5), "pole": Exponential(0.25)})
    now, factor = recipe.at(2)
    assert now == dp.Recipe(dp.Filter(0.8 * 0.25**2), lr=0.4)
    assert factor == 0.25
    still, one = dp.Recipe(dp.Filter()).at(7)
    assert (still, one) == (dp.Recipe(dp.Filter()), 1.0)


def test_absolute_schedule_replaces_the_value():
    absolute = dp.schedules.OneCycleMomentum(steps=10)
    assert absolute.absolute
    recipe = dp.Recipe(dp.Filter(0.5), lr=3.0, schedule={"pole": absolute, "lr": absolute})
    now, factor = recipe.at(0)
    assert (now.stages[0].pole, now.lr, factor) == (absolute(0), absolute(0), 1.0)


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        ({"pol": Cosine(5)}, r"^Recipe: no setting 'pol' to schedule; it has pole, zero"),
        ({"pole": 0.5}, r"^Recipe: schedule must be None, a Schedule or a mapping of names to Schedules, got"),
        (0.5, r"^Recipe: schedule must be None, a Schedule or a mapping"),
        ([Cosine(5)], r"^Recipe: schedule must be None, a Schedule or a mapping"),
    ],
)
def test_invalid_schedules_raise(schedule, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        dp.Recipe(dp.Filter(), schedule=schedule)


def test_two_names_of_one_setting_raise():
    with pytest.raises(ArgumentError, match=r"^Recipe: pole is scheduled twice, once as 'momentum'"):
        dp.Recipe(dp.Filter(), schedule={"pole": Cosine(5), "momentum": Cosine(6)})
