"""Contract: parameter groups have independent settings; an invalid group changes nothing."""

import copy

import numpy as np
import pytest
import torch
from contracts.trajectories import SMALL, identical, parameters, run, values
from registry import each, each_second

import dashpot as dp

EDITS = {"lr": 0.003, "weight_decay": 0.07, "momentum": 0.6, "betas": (0.6, 0.8), "eps": 0.5, "zero": 0.1, "nu": 0.4}


def unscheduled(subject):
    return not subject.make(parameters()).schedule


def edits_for(subject):
    """Return a dict for each applicable setting in EDITS; the setting `zero` does not apply to running averages."""
    optimizer = subject.make(parameters())
    running = any(getattr(stage, "normalise", None) == "running" for stage in optimizer.recipe.stages)
    return [{name: EDITS[name]} for name in EDITS if name in optimizer.defaults and not (running and name == "zero")]


def flat(parts):
    return [p for part in parts for p in part]


def grouped(parts, edits):
    """Return parameter groups, each with its own settings."""
    return [{"params": part, **edit} for part, edit in zip(parts, edits, strict=True)]


@each_second()
def test_groups_equal_separate_optimizers(subject):
    """One optimizer has a group for each edit, and a group without an edit."""
    edits = [{}, *edits_for(subject)]
    joint = [parameters(shapes=SMALL, seed=seed) for seed, _ in enumerate(edits)]
    alone = [parameters(shapes=SMALL, seed=seed) for seed, _ in enumerate(edits)]
    run(subject.make(grouped(joint, edits)), flat(joint), 4)
    for group in grouped(alone, edits):
        run(subject.make([group]), flat(alone), 4)
    assert identical(flat(joint), flat(alone))


@each()
def test_edited_group_equals_an_optimizer_with_those_settings(subject):
    """Four steps after the edits are compared with those of a new optimizer with the same state and the new settings.

    There is a group for each edit.
    """
    edits = edits_for(subject)
    parts = [parameters(shapes=SMALL, seed=seed) for seed, _ in enumerate(edits)]
    optimizer = subject.make([{"params": part} for part in parts])
    run(optimizer, flat(parts), 4)
    others = [[p.detach().clone().requires_grad_() for p in part] for part in parts]
    fresh = subject.make(grouped(others, edits))
    settings = fresh.state_dict()["param_groups"]
    fresh.load_state_dict({"state": copy.deepcopy(optimizer.state_dict()["state"]), "param_groups": settings})
    for group, edit in zip(optimizer.param_groups, edits, strict=True):
        group.update(edit)
    run(optimizer, flat(parts), range(4, 8))
    run(fresh, flat(others), range(4, 8))
    assert identical(flat(parts), flat(others))


@each()
def test_every_group_setting_has_an_effect(subject):
    """A setting without an effect would be stored but not read."""
    params = parameters()
    run(subject.make(params), params, 5)
    for edit in edits_for(subject):
        others = parameters()
        run(subject.make([{"params": others, **edit}]), others, 5)
        assert identical(params, others) is (not edit.keys().isdisjoint(subject.inert))


@each(unscheduled)
def test_added_group_equals_a_new_optimizer(subject):
    first, second = parameters(seed=1), parameters(seed=2)
    optimizer = subject.make(first)
    run(optimizer, first, 3)
    optimizer.add_param_group({"params": second, "lr": 0.004})
    run(optimizer, [*first, *second], range(3, 6))
    late = parameters(seed=2)
    run(subject.make(late, lr=0.004), [*parameters(), *late], range(3, 6))
    assert identical(second, late)


BAD_GROUPS = {
    "a negative lr": lambda p: {"params": [p], "lr": -1.0},
    "a nan lr": lambda p: {"params": [p], "lr": float("nan")},
    "a non-tensor": lambda p: {"params": [p, 3.0]},
    "integers": lambda p: {"params": [torch.zeros(2, dtype=torch.int64)]},
    "a non-leaf tensor": lambda p: {"params": [p * 2]},
    "not a dict": lambda p: [p],
    "a set": lambda p: {"params": {p}},
}


@each()
def test_invalid_group_changes_nothing(subject):
    params = parameters()
    optimizer = subject.make(params)
    run(optimizer, params, 2)
    before = copy.deepcopy(optimizer.state_dict())
    start = values(params)
    for bad in BAD_GROUPS.values():
        group = bad(torch.ones(2, dtype=torch.float64, requires_grad=True))
        with pytest.raises((ValueError, TypeError)):
            optimizer.add_param_group(group)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert set(after["state"]) == set(before["state"])
    assert identical(params, start)
    straight = parameters()
    run(optimizer, params, range(2, 4))
    run(subject.make(straight), straight, 4)
    assert identical(params, straight)


@each()
def test_duplicate_parameter_is_rejected(subject):
    params = parameters()
    optimizer = subject.make(params)
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [params[1]]})
    assert len(optimizer.param_groups) == 1


@each(lambda subject: subject.momentum_key == "momentum")
def test_group_accepts_pole_for_momentum(subject):
    params = parameters()
    optimizer = subject.make([{"params": params, "pole": 0.75}])
    assert optimizer.param_groups[0]["momentum"] == 0.75
    assert "pole" not in optimizer.param_groups[0]


@each()
def test_defaults_are_not_shared_between_optimizers(subject):
    first, second = subject.make(parameters()), subject.make(parameters())
    first.param_groups[0]["lr"] = 0.5
    assert second.param_groups[0]["lr"] == subject.lr
    assert first.defaults["lr"] == subject.lr


def test_groups_of_different_optimizer_start_without_step_count():
    params = parameters()
    first = dp.SGD(params, lr=1.0)
    run(first, params, 1)
    assert dp.SGD(first.param_groups, lr=1.0).steps_done() == 0


def test_group_accepts_pole_for_the_first_beta():
    optimizer = dp.Adam([{"params": parameters(), "pole": 0.5}])
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.999)


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5)])
def test_numpy_settings_become_python_numbers(number):
    optimizer = dp.SGD(parameters(), lr=number, momentum=number)
    assert repr(optimizer.recipe).count("np.") == 0
    assert {type(optimizer.param_groups[0][key]) for key in ("lr", "momentum")} == {float}
