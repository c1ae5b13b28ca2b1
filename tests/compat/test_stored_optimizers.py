"""Optimizer state saved by an earlier version loads as plain data, keeps its keys and resumes to the same weights."""

import pytest
import torch
from stored_support import CASES, STEPS_AFTER, STEPS_BEFORE, STORED, advance, distance

MADE = torch.load(STORED / "optimizers.pt", weights_only=True)
EACH = pytest.mark.parametrize("name", CASES)


def loaded(name):
    """Return the stored weights, and an optimizer with the stored state."""
    params = [p.clone().requires_grad_() for p in MADE[name]["params"]]
    optimizer = CASES[name].make(params)
    optimizer.load_state_dict(MADE[name]["state_dict"])
    return params, optimizer


def test_every_case_is_stored():
    assert MADE.keys() == CASES.keys()


@EACH
def test_stored_state_resumes_to_the_stored_weights(name):
    params, optimizer = loaded(name)
    advance(optimizer, params, range(STEPS_BEFORE, STEPS_BEFORE + STEPS_AFTER), CASES[name].quartic)
    assert [p.dtype for p in params] == [p.dtype for p in MADE[name]["expected"]]
    assert distance(params, MADE[name]["expected"]) <= CASES[name].tolerance


@EACH
def test_loaded_state_is_saved_under_the_stored_keys_with_the_stored_values(name):
    _, optimizer = loaded(name)
    saved, stored = optimizer.state_dict(), MADE[name]["state_dict"]
    assert saved.keys() == stored.keys()
    assert group_keys(saved) == group_keys(stored)
    assert saved["state"].keys() == stored["state"].keys()
    for index, state in stored["state"].items():
        assert saved["state"][index].keys() == state.keys()
        assert all(equal(saved["state"][index][key], value) for key, value in state.items())


@EACH
def test_new_run_saves_the_stored_keys(name):
    params = CASES[name].params()
    optimizer = CASES[name].make(params)
    advance(optimizer, params, range(STEPS_BEFORE), CASES[name].quartic)
    saved, stored = optimizer.state_dict(), MADE[name]["state_dict"]
    assert group_keys(saved) == group_keys(stored)
    assert {i: set(state) for i, state in saved["state"].items()} == {i: set(s) for i, s in stored["state"].items()}
    assert distance(params, MADE[name]["params"]) <= CASES[name].tolerance


def group_keys(state_dict):
    return [set(group) for group in state_dict["param_groups"]]


def equal(saved, stored):
    if not isinstance(stored, torch.Tensor):
        return saved == stored
    return saved.dtype == stored.dtype and torch.equal(saved, stored)
