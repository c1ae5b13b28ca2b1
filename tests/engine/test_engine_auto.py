"""`engine="auto"` and `explain_engine`."""

import copy

import pytest
import torch
from contracts.trajectories import parameters
from engine_support import clone_leaves, explanation, is_compiled, is_equal, run_steps, snapshot

import dashpot as dp
from dashpot.engine.native import build, kernel

pytestmark = pytest.mark.needs_compiler


@pytest.fixture
def requested(monkeypatch):
    """Record the sources passed to `build.library`, starting without any known kernel."""
    sources = []

    def library(source):
        sources.append(source)
        return build.library(source)

    monkeypatch.setattr(kernel, "build", type("build", (), {"library": library}))
    monkeypatch.setattr(kernel, "_KERNELS", {})
    return sources


@pytest.mark.parametrize("engine", ["auto", "compiled"])
@pytest.mark.parametrize("shapes", [((3,),), ((300, 300), (5,))])
def test_any_size_compiles_before_first_step(requested, engine, shapes):
    params = parameters(torch.float32, shapes=shapes)
    optimizer = dp.AdamW(params, engine=engine)
    run_steps([(params, optimizer)], range(1))
    assert is_compiled(optimizer)
    run_steps([(params, optimizer)], range(1, 3))
    assert len(requested) == 1


def test_engine_eager_compiles_nothing(requested):
    params = parameters(torch.float32)
    run_steps([(params, dp.AdamW(params, engine="eager"))], range(2))
    assert requested == []


@pytest.mark.parametrize("at", [1, 50])
def test_resumed_run_matches_uninterrupted_run_bit_for_bit(at):
    params = parameters(torch.float32)
    optimizer = dp.AdamW(params, engine="auto", lr=0.1)
    run_steps([(params, optimizer)], range(at))
    others = clone_leaves(params)
    other = dp.AdamW(others, engine="auto", lr=0.5)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for pair in ((params, optimizer), (others, other)):
        run_steps([pair], range(at, 110))
    assert is_equal(snapshot(params, optimizer), snapshot(others, other))


def test_late_parameter_uses_existing_kernel(requested):
    params = parameters()
    optimizer = dp.AdamW(params, engine="auto")
    run_steps([(params, optimizer)], range(5), missing=lambda step, index: index == 0)
    run_steps([(params, optimizer)], range(5, 7))
    assert explanation(optimizer) == "group 0: 3 tensors, 11 elements, float64: compiled, 56 bytes moved per element"
    assert [int(optimizer.state[p]["step"]) for p in params] == [2, 7, 7]
    assert len(requested) == 1


# ---- explain_engine -------------------------------------------------------------------------------------------------


def test_explain_engine_in_auto():
    params = parameters(torch.float32)
    optimizer = dp.AdamW(params, engine="auto")
    assert repr(dp.explain_engine(optimizer)) == (
        "engine='auto': kernels from the first step if a C++ compiler or cached kernels are available; "
        "on accelerators, torch.compile for 1048576 elements or more\n"
        "  no step taken yet"
    )
    run_steps([(params, optimizer)], range(1))
    assert explanation(optimizer) == "group 0: 3 tensors, 11 elements, float32: compiled, 28 bytes moved per element"


def test_explain_engine_groups_tensors_by_reason():
    shared = torch.ones(4)
    params = [
        torch.ones(3, requires_grad=True),
        torch.ones(2, 2, dtype=torch.float64, requires_grad=True),
        torch.ones(0, requires_grad=True),
        torch.ones(4, 2)[:, 0].requires_grad_(),
        shared[:3].requires_grad_(),
        shared[2:].requires_grad_(),
    ]
    optimizer = dp.SGD([{"params": params[:3]}, {"params": params[3:]}], lr=0.1, engine="compiled")
    run_steps([(params, optimizer)], range(1))
    assert repr(dp.explain_engine(optimizer)).splitlines() == [
        "engine='compiled': kernels, compiled before the first step unless cached",
        "  group 0: 1 tensor, 3 elements, float32: compiled, 12 bytes moved per element",
        "  group 0: 1 tensor, 4 elements, float64: compiled, 24 bytes moved per element",
        "  group 0: 1 tensor, eager: no elements",
        "  group 1: 1 tensor, eager: not dense in memory",
        "  group 1: 2 tensors, eager: shares memory with another tensor",
    ]


@pytest.mark.parametrize("wrong", [None, torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)])
def test_explain_engine_rejects_other_objects(wrong):
    with pytest.raises(dp.ArgumentError, match=f"expected a dashpot optimizer, got {type(wrong).__name__}"):
        dp.explain_engine(wrong)


@pytest.mark.parametrize(("value", "mode"), [("compiled", "compiled"), ("auto", "auto"), ("", "auto"), (None, "auto")])
def test_environment_variable_is_default_of_engine(monkeypatch, value, mode):
    monkeypatch.delenv("DASHPOT_ENGINE")
    if value is not None:
        monkeypatch.setenv("DASHPOT_ENGINE", value)
    assert dp.explain_engine(dp.AdamW(parameters())).mode == mode
    assert dp.explain_engine(dp.AdamW(parameters(), engine="eager")).mode == "eager"
