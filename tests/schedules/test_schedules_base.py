"""Properties of all schedules: values, equality, repr, JSON, and errors."""

import copy
import dataclasses
import json
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from schedules_support import EXAMPLES, label

import dashpot.schedules as sch
from dashpot.errors import ArgumentError
from dashpot.schedules.ranges import PLACE, Increasing


def exported():
    members = [getattr(sch, name) for name in sch.__all__]
    return {m for m in members if isinstance(m, type) and issubclass(m, sch.Schedule)} - {sch.Schedule}


def bad_arguments():
    firsts = {type(example): example for example in reversed(EXAMPLES)}
    for example in firsts.values():
        for item in dataclasses.fields(example):
            refused = list(item.metadata["allowed"].refused())
            yield pytest.param(example, item.name, refused, id=f"{label(example)}-{item.name}")


def test_every_exported_schedule_has_an_example():
    assert {type(example) for example in EXAMPLES} == exported()


@pytest.mark.parametrize("schedule", EXAMPLES, ids=label)
def test_json_round_trip_is_exact(schedule):
    back = sch.Schedule.from_dict(json.loads(json.dumps(schedule.to_dict())))
    assert back == schedule
    assert repr(back) == repr(schedule)
    assert back.table(30) == schedule.table(30)


@pytest.mark.parametrize("schedule", EXAMPLES, ids=label)
def test_repr_evaluates_to_the_schedule(schedule):
    assert eval(repr(schedule), vars(sch)) == schedule


@pytest.mark.parametrize("schedule", EXAMPLES, ids=label)
def test_equal_schedules_have_equal_hashes_and_copies(schedule):
    for twin in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule)), dataclasses.replace(schedule)):
        assert twin == schedule
        assert hash(twin) == hash(schedule)


def test_all_examples_differ():
    assert len(set(EXAMPLES)) == len(EXAMPLES)


@pytest.mark.parametrize("schedule", EXAMPLES, ids=label)
def test_fields_cannot_be_changed(schedule):
    name = dataclasses.fields(schedule)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(schedule, name, 1)


@pytest.mark.parametrize("schedule", EXAMPLES, ids=label)
def test_values_are_floats_and_depend_only_on_the_step(schedule):
    forward = schedule.table(40)
    assert all(type(value) is float for value in forward)
    assert [schedule(step) for step in reversed(range(40))] == forward[::-1]


@pytest.mark.diagonal
@pytest.mark.parametrize("schedule", EXAMPLES, ids=label)
@pytest.mark.parametrize("bad", [*PLACE.refused(), -1, 2.0, True, np.float64(3), torch.tensor(2.5)], ids=repr)
def test_invalid_step_raises(schedule, bad):
    with pytest.raises(ArgumentError, match=rf"{label(schedule)}: step must be an integer in \[0, inf\)"):
        schedule(bad)


@pytest.mark.parametrize(("schedule", "name", "refused"), list(bad_arguments()))
def test_argument_out_of_range_raises(schedule, name, refused):
    assert refused
    for bad in refused:
        with pytest.raises(ArgumentError, match=rf"^{label(schedule)}: {name} must be .*, got .*\.$"):
            dataclasses.replace(schedule, **{name: bad})


def test_tensor_arguments_raise():
    with pytest.raises(ArgumentError, match=r"Cosine: steps must be a plain Python value, got tensor\(5\)"):
        sch.Cosine(steps=torch.tensor(5))


def test_lists_and_numpy_floats_become_plain_values():
    schedule = sch.MultiStep(milestones=[2, 5], factor=np.float64(0.5))
    assert schedule == sch.MultiStep(milestones=(2, 5), factor=0.5)
    assert repr(schedule) == "MultiStep(milestones=(2, 5), factor=0.5)"


def test_value_of_factors_and_absolute_schedules():
    assert sch.Constant(0.5).value(0.1, 3) == 0.05
    assert sch.OneCycleMomentum(steps=10).value(123.0, 0) == 0.95
    assert (sch.Constant(0.5) * sch.OneCycleMomentum(steps=10)).value(123.0, 0) == 0.475


def test_table_starts_at_step_0_and_rejects_negative_lengths():
    assert sch.Exponential(0.5).table(0) == []
    assert sch.Exponential(0.5).table(2) == [1.0, 0.5]
    with pytest.raises(ArgumentError, match="Exponential: steps must be an integer"):
        sch.Exponential(0.5).table(-1)


def test_products_and_sequences_follow_their_parts():
    warm, fall = sch.LinearWarmup(4), sch.Cosine(8)
    assert (warm * fall).table(12) == [a * b for a, b in zip(warm.table(12), fall.table(12), strict=True)]
    assert sch.Sequence((warm, fall, warm), (4, 9)).table(15) == warm.table(4) + fall.table(5) + warm.table(6)


def test_product_with_other_types_raises():
    with pytest.raises(TypeError):
        sch.Constant() * 2.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: sch.Sequence((sch.Constant(), sch.Constant()), (3, 4)),
            "milestones must be one fewer than the 2 parts",
        ),
        (lambda: sch.Sequence((sch.Constant(), sch.OneCycleMomentum(9)), (3,)), "all factors or all absolute"),
        (lambda: sch.OneCycleMomentum(9) * sch.OneCycleMomentum(9), "at most one absolute"),
        (lambda: sch.OneCycleMomentum(9, high=0.8, low=0.9), "low must be at most high, 0.8, got 0.9"),
        (lambda: sch.OneCycle(9, pct_start=0.6, three_phase=True), r"pct_start must be a number in \[0, 0.5\]"),
        (lambda: sch.OneCycleMomentum(9, pct_start=0.6, three_phase=True), r"pct_start must be a number in \[0, 0.5\]"),
        (lambda: sch.Exponential(1.3)(10**6), "to the power 1000000 overflows"),
    ],
)
def test_inconsistent_arguments_raise(build, message):
    with pytest.raises(ArgumentError, match=message):
        build()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, 'a mapping with the key "schedule", got None'),
        ({"steps": 3}, 'a mapping with the key "schedule"'),
        ({"schedule": "Cosin", "steps": 3}, "Unknown schedule 'Cosin': did you mean 'Cosine'?"),
        ({"schedule": "Cosine", "stops": 3}, "Unknown parameter of Cosine 'stops': did you mean 'steps'?"),
        ({"schedule": "Cosine", "steps": 0}, r"Cosine: steps must be an integer in \[1, inf\), got 0"),
        ({"schedule": ["Cosine"], "steps": 3}, "Unknown schedule"),
        ({"schedule": "Product", "parts": [{"schedule": "Nope"}, {}]}, "Unknown schedule 'Nope'"),
    ],
)
def test_invalid_data_raises(data, message):
    with pytest.raises(ArgumentError, match=message):
        sch.Schedule.from_dict(data)


def test_missing_parameter_raises():
    with pytest.raises(ArgumentError, match="Cosine: steps is missing from the description"):
        sch.Schedule.from_dict({"schedule": "Cosine", "floor": 0.1})


def test_data_may_omit_defaults():
    assert sch.Schedule.from_dict({"schedule": "Cosine", "steps": 5}) == sch.Cosine(5)


def test_duplicate_schedule_name_raises():
    with pytest.raises(ArgumentError, match=r"named 'Cosine' already exists in dashpot\.schedules\.ramp"):
        type("Cosine", (sch.Schedule,), {})
    assert sch.Schedule.registry["Cosine"] is sch.Cosine


def test_class_may_be_redefined():
    def define(factor):
        @dataclass(frozen=True)
        class SchedulesTestOwn(sch.Schedule):
            def _at(self, step):
                return factor

        return SchedulesTestOwn

    first, second = define(1.0), define(2.0)
    try:
        assert sch.Schedule.from_dict({"schedule": "SchedulesTestOwn"})(0) == 2.0
        assert first()(0) == 1.0
    finally:
        del sch.Schedule.registry[second.__name__]


def test_subclass_without_at_raises():
    @dataclass(frozen=True)
    class SchedulesTestEmpty(sch.Schedule):
        pass

    try:
        with pytest.raises(NotImplementedError, match="SchedulesTestEmpty must define _at"):
            SchedulesTestEmpty()(0)
    finally:
        del sch.Schedule.registry["SchedulesTestEmpty"]


def test_increasing_rejects_invalid_values():
    assert not any(Increasing().allows(bad) for bad in Increasing().refused())
