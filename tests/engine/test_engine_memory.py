"""Tensors are not kept alive between steps: reference counting alone frees them immediately."""

import gc
import weakref

import pytest
import torch
from contracts.trajectories import parameters
from engine_support import (  # noqa: F401
    explanation,
    run_steps,
)
from registry import each

import dashpot as dp

OPTIONS = {"eager": {"engine": "eager"}, "compiled": {"engine": "compiled"}, "on-device": {"capturable": True}}


@pytest.fixture(autouse=True)
def without_garbage_collector():
    gc.freeze()  # hides the objects of earlier tests, unlike a collection at no cost
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(params=OPTIONS)
def options(request):
    return OPTIONS[request.param]


def stepped(options, steps=2):
    params = parameters(torch.float32, shapes=((8, 4), (5,)))
    optimizer = dp.AdamW(params, **options)
    run_steps([(params, optimizer)], range(steps))
    return params, optimizer


def test_replaced_slot_is_freed(options):
    params, optimizer = stepped(options)
    state = optimizer.state[params[0]]
    before = weakref.ref(state["exp_avg"])
    state["exp_avg"] = state["exp_avg"].clone()
    assert before() is None


def test_cleared_state_is_freed(options):
    params, optimizer = stepped(options)
    kept = [weakref.ref(value) for p in params for value in optimizer.state[p].values() if value.dim()]
    optimizer.state.clear()
    assert kept
    assert [ref() for ref in kept] == [None] * len(kept)


def test_parameters_of_removed_groups_are_freed(options):
    params, optimizer = stepped(options)
    kept = [weakref.ref(p) for p in params]
    params.clear()
    optimizer.state.clear()
    optimizer.param_groups.clear()
    assert [ref() for ref in kept] == [None, None]


def test_gradient_copy_is_freed(options):
    """A gradient with a different memory order is copied for the duration of the step."""
    p = torch.ones(8, 4, requires_grad=True)
    optimizer = dp.SGD([p], lr=0.1, **options)
    p.grad = torch.ones(4, 8).t()
    optimizer.step()
    before = {id(x) for x in _tensors_like(p)}
    optimizer.step()
    assert {id(x) for x in _tensors_like(p)} == before
    gradient = weakref.ref(p.grad)
    optimizer.zero_grad()
    assert gradient() is None


def _tensors_like(p):
    return [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter) and x.numel() == p.numel()]


@each()
def test_state_of_every_method_is_freed(subject):
    params = parameters(torch.float32)
    optimizer = subject.make(params)
    run_steps([(params, optimizer)], range(2))
    kept = [weakref.ref(v) for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    optimizer.state.clear()
    assert [ref() for ref in kept if ref() is not None] == []


def test_step_counts_have_separate_storage():
    params, optimizer = stepped(OPTIONS["compiled"])
    assert [optimizer.state[p]["step"].untyped_storage().nbytes() for p in params] == [4, 4]


ENGINES = ("eager", "compiled")


@pytest.mark.parametrize("engine", ENGINES)
def test_step_counts_stay_on_cpu_with_other_default_device(engine):
    w = torch.ones(3, requires_grad=True)
    w.grad = torch.ones(3)
    optimizer = dp.AdamW([w], engine=engine)
    torch.set_default_device("meta")
    try:
        for _ in range(2):
            optimizer.step()
    finally:
        torch.set_default_device(None)
    assert optimizer.state[w]["step"] == 2
