"""The table of test subjects covers every method, stage and choice of a stage."""

import dataclasses

import pytest
from contracts.trajectories import parameters
from registry import KINDS, SUBJECTS, TORCH_METHODS, each
from subjects import default_subject

import dashpot as dp
from dashpot.constraints import OneOf
from dashpot.optimizers.registry import METHODS
from dashpot.stages import Stage

STAGES = {subject.name: subject.make(parameters()).recipe.stages for subject in SUBJECTS}
ALL, FEW = ([stage for name in names for stage in STAGES[name]] for names in (STAGES, KINDS))
BUILT_IN = [cls for label, cls in Stage.registry.items() if cls.__module__.startswith("dashpot.") and label[0] != "_"]
CHOICES = [
    (cls, item.name, value)
    for cls in BUILT_IN
    for item in dataclasses.fields(cls)
    if isinstance(item.metadata.get("allowed"), OneOf)
    for value in item.metadata["allowed"].values
]


def test_subject_names_are_unique():
    names = [subject.name for subject in SUBJECTS]
    assert len(set(names)) == len(names)


def test_every_method_is_a_kind():
    expected = {*(row.cls for row in METHODS.values()), dp.SGM}
    assert expected == {subject.cls for subject in SUBJECTS if subject.kind} == {subject.cls for subject in SUBJECTS}


@pytest.mark.parametrize("name", METHODS)
def test_method_without_a_row_is_tested_in_its_default_settings(name):
    row = METHODS[name]
    found = default_subject(name, row)
    [explicit, *_] = [subject for subject in SUBJECTS if subject.cls is row.cls]
    assert found.kind
    assert found.momentum_key == explicit.momentum_key
    assert found.counterpart == explicit.counterpart
    assert found.make(parameters()).recipe.stages


def test_every_torch_compatible_class_has_a_subject():
    assert {subject.cls for subject in TORCH_METHODS} == {dp.SGD, dp.RMSprop, dp.Adagrad, dp.Adam, dp.AdamW, dp.NAdam}


@pytest.mark.parametrize("stages", [ALL, FEW], ids=["subjects", "kinds"])
@pytest.mark.parametrize("cls", BUILT_IN, ids=lambda cls: cls.__name__)
def test_every_stage_is_in_some_subject(cls, stages):
    assert any(type(stage) is cls for stage in stages)


@pytest.mark.parametrize(("cls", "name", "value"), CHOICES, ids=[f"{c.__name__}-{n}-{v}" for c, n, v in CHOICES])
@pytest.mark.parametrize("stages", [ALL, FEW], ids=["subjects", "kinds"])
def test_every_choice_of_every_stage_is_in_some_subject(cls, name, value, stages):
    assert any(type(stage) is cls and getattr(stage, name) == value for stage in stages)


@each()
def test_momentum_key_matches_the_optimizer(subject):
    optimizer = subject.make(parameters())
    found = {"momentum", "betas"} & set(optimizer.defaults)
    assert found == ({subject.momentum_key} if subject.momentum_key else set())
    assert found <= set(optimizer.param_groups[0])
