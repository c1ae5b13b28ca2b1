"""Contract: checkpoints of torch.optim can be resumed in dashpot, and vice versa."""

import copy
import io

import pytest
import torch
from contracts.trajectories import distance, parameters, run, values
from registry import each

import dashpot as dp

TOLERANCE = 1e-11  # the documented bound for parity with torch.optim, for 20 steps in float64

has_counterpart = each(lambda subject: subject.counterpart)


@pytest.fixture(autouse=True)
def float64_by_default():
    """Use float64, because torch stores NAdam's running product in the default dtype; in float32 the error is 1e-8."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def through_a_file(state_dict):
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def continued(first, second, start, other):
    """Run five steps with `first` and five with `second` from the checkpoint of `first`, and return the weights."""
    run(first, start, 5)
    with torch.no_grad():
        for p, q in zip(other, start, strict=True):
            p.copy_(q)
    second.load_state_dict(through_a_file(first.state_dict()))
    return values(run(second, other, range(5, 10)))


@has_counterpart
def test_torch_checkpoint_resumes_in_dashpot(subject):
    straight, start, other = parameters(), parameters(), parameters()
    run(subject.make_torch(straight), straight, 10)
    ours = continued(subject.make_torch(start), subject.make(other, lr=0.5), start, other)
    assert distance(ours, straight) < TOLERANCE


@has_counterpart
def test_dashpot_checkpoint_resumes_in_torch(subject):
    straight, start, other = parameters(), parameters(), parameters()
    run(subject.make_torch(straight), straight, 10)
    theirs = continued(subject.make(start), subject.make_torch(other, lr=0.5), start, other)
    assert distance(theirs, straight) < TOLERANCE


@has_counterpart
def test_checkpoint_round_trip_through_torch(subject):
    straight, start, middle, end = parameters(), parameters(), parameters(), parameters()
    run(subject.make(straight), straight, 15)
    second = subject.make_torch(middle)
    continued(subject.make(start), second, start, middle)
    third = subject.make(end)
    with torch.no_grad():
        for p, q in zip(end, middle, strict=True):
            p.copy_(q)
    third.load_state_dict(through_a_file(second.state_dict()))
    run(third, end, range(10, 15))
    assert distance(end, straight) < TOLERANCE


@has_counterpart
def test_torch_checkpoint_with_parameters_without_state(subject):
    def some(step, index):
        return index == 1

    params, others = parameters(), parameters()
    theirs, ours = subject.make_torch(params), subject.make(others)
    run(theirs, params, 3, missing=some)
    with torch.no_grad():
        for p, q in zip(others, params, strict=True):
            p.copy_(q)
    ours.load_state_dict(theirs.state_dict())
    run(theirs, params, range(3, 6))
    run(ours, others, range(3, 6))
    assert distance(others, params) < TOLERANCE


def test_torch_checkpoint_with_integer_steps():
    """Before version 1.12, torch saved `step` as an int."""
    params, others = parameters(), parameters()
    first = torch.optim.Adam(params, lr=0.01)
    run(first, params, 3)
    saved = copy.deepcopy(first.state_dict())
    for state in saved["state"].values():
        state["step"] = int(state["step"])
    second = dp.Adam(others)
    with torch.no_grad():
        for p, q in zip(others, params, strict=True):
            p.copy_(q)
    second.load_state_dict(saved)
    run(first, params, range(3, 6))
    run(second, others, range(3, 6))
    assert distance(others, params) < TOLERANCE


def test_torch_checkpoint_without_newer_settings():
    params, others = parameters(), parameters()
    first = torch.optim.SGD(params, lr=0.01, momentum=0.9)
    run(first, params, 3)
    saved = first.state_dict()
    for name in ("maximize", "foreach", "differentiable", "fused"):
        del saved["param_groups"][0][name]
    second = dp.SGD(others)
    second.load_state_dict(saved)
    assert second.param_groups[0]["momentum"] == 0.9
    assert second.param_groups[0]["maximize"] is False
    run(second, others, 1)
