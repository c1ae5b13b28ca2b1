"""Contract: deep copies and unpickled copies continue like the original, and independently of the original."""

import copy
import io
import pickle

import pytest
from contracts.trajectories import identical, parameters, run, values
from registry import each

import dashpot as dp

COPIERS = {"deepcopy": copy.deepcopy, "pickle": lambda value: pickle.loads(pickle.dumps(value))}


@pytest.mark.diagonal
@each()
@pytest.mark.parametrize("how", COPIERS)
def test_copy_continues_identically_and_independently(subject, how):
    params = parameters()
    optimizer = subject.make(params)
    run(optimizer, params, 3)
    others, second = COPIERS[how]((params, optimizer))
    kept = values(others)
    run(optimizer, params, range(3, 6))
    assert identical(others, kept)
    run(second, others, range(3, 6))
    assert identical(others, params)
    assert second.recipe == optimizer.recipe
    assert type(second) is type(optimizer)


@pytest.mark.diagonal
@each()
@pytest.mark.parametrize("how", COPIERS)
def test_copy_keeps_the_schedule(subject, how):
    params = parameters()
    optimizer = subject.make(params, schedule=dp.schedules.Exponential(0.5))
    run(optimizer, params, 3)
    others, second = COPIERS[how]((params, optimizer))
    assert second.schedule == {"lr": dp.schedules.Exponential(0.5)}
    assert second.current_lr() == pytest.approx(subject.lr / 8, rel=1e-15)
    run(optimizer, params, range(3, 5))
    run(second, others, range(3, 5))
    assert identical(others, params)


@each()
def test_copy_before_the_first_step_is_complete(subject):
    params = parameters()
    others, second = copy.deepcopy((params, subject.make(params)))
    run(subject.make(params), params, 3)
    run(second, others, 3)
    assert identical(others, params)


@each()
def test_copy_keeps_public_attributes(subject):
    optimizer = subject.make(parameters())
    second = copy.deepcopy(optimizer)
    assert {name for name in vars(optimizer) if name[0] != "_"} <= {name for name in vars(second) if name[0] != "_"}
    assert second.defaults == optimizer.defaults


def test_pickle_to_a_file_object():
    buffer = io.BytesIO()
    pickle.dump(dp.Adam(parameters()), buffer)
    buffer.seek(0)
    assert isinstance(pickle.load(buffer), dp.Adam)
