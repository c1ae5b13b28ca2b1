"""Contract: a resumed run is bitwise equal to an uninterrupted run."""

import copy

import pytest
import torch
from contracts.trajectories import identical, parameters, run, values
from registry import each


def reloaded(path, subject, **changes):
    """Return parameters and a new optimizer with a different lr, loaded from the file."""
    saved = torch.load(path, weights_only=True)
    params = [w.requires_grad_() for w in saved["params"]]
    optimizer = subject.make(params, lr=0.5 * subject.lr, **changes)
    optimizer.load_state_dict(saved["optimizer"])
    return params, optimizer


def save(path, params, optimizer):
    torch.save({"params": values(params), "optimizer": optimizer.state_dict()}, path)


@each()
def test_resumed_run_equals_an_uninterrupted_run(subject, tmp_path):
    straight = parameters()
    run(subject.make(straight), straight, 12)
    params = parameters()
    optimizer = subject.make(params)
    save(tmp_path / "run.pt", run(optimizer, params, 5), optimizer)
    again, second = reloaded(tmp_path / "run.pt", subject)
    run(second, again, range(5, 12))
    assert identical(again, straight)


@each()
def test_saving_before_the_first_step_saves_settings(subject):
    params = parameters()
    first, second = subject.make(params), subject.make(parameters(), lr=0.5 * subject.lr)
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["lr"] == subject.lr
    assert not any(second.state.values())


@pytest.mark.diagonal
@each()
@pytest.mark.parametrize(
    ("saved_as", "loaded_into"),
    [("bfloat16", "bfloat16"), ("float16", "float16"), ("float32", "float64"), ("float64", "float32")],
)
def test_loaded_state_keeps_its_dtype_and_bits(subject, saved_as, loaded_into):
    params = parameters(getattr(torch, saved_as))
    optimizer = subject.make(params)
    run(optimizer, params, 3)
    target = parameters(getattr(torch, loaded_into))
    second = subject.make(target)
    second.load_state_dict(optimizer.state_dict())
    kept = torch.float32 if saved_as.endswith("float16") else getattr(torch, saved_as)
    for p, q in zip(params, target, strict=True):
        for key in subject.keys:
            before, after = optimizer.state[p][key], second.state[q][key]
            assert after.dtype == before.dtype == kept
            assert torch.equal(after, before)
    run(second, target, range(3, 5))
    assert all(q.dtype == getattr(torch, loaded_into) and torch.isfinite(q).all() for q in target)


@each()
def test_loaded_state_does_not_alias_the_saved_state(subject):
    params, others = parameters(), parameters()
    first, second = subject.make(params), subject.make(others)
    run(first, params, 3)
    saved = first.state_dict()
    second.load_state_dict(saved)
    kept = copy.deepcopy(second.state_dict())
    run(first, params, range(3, 6))
    for state in saved["state"].values():
        for key in subject.keys:
            state[key].fill_(7.0)
    for index, state in second.state_dict()["state"].items():
        assert all(torch.equal(value, kept["state"][index][key]) for key, value in state.items())


@each()
def test_copied_state_dict_is_unaffected_by_later_steps(subject):
    params = parameters()
    optimizer = subject.make(params)
    run(optimizer, params, 3)
    copied = copy.deepcopy(optimizer.state_dict())
    again = parameters()
    second = subject.make(again)
    run(second, again, 3)
    run(optimizer, params, range(3, 6))
    for index, state in copied["state"].items():
        expected = second.state_dict()["state"][index]
        assert set(state) == set(expected)
        assert all(torch.equal(value, expected[key]) for key, value in state.items())
