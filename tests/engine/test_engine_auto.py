"""`engine="auto"`: kernels from the first step to the last, and what `explain_engine` says of them."""

import copy

import pytest
import torch
from contracts.trajectories import parameters
from engine_support import copies, fates, is_compiled, march, same, shared_cache, snapshot  # noqa: F401

import dashpot as dp
from dashpot.engine.native import build, kernel

pytestmark = pytest.mark.needs_compiler


@pytest.fixture
def asked(monkeypatch):
    """The sources whose libraries were asked for; no kernel is known before."""
    sources = []

    def library(source):
        sources.append(source)
        return build.library(source)

    monkeypatch.setattr(kernel, "build", type("build", (), {"library": library}))
    monkeypatch.setattr(kernel, "_KERNELS", {})
    return sources


@pytest.mark.parametrize("engine", ["auto", "compiled"])
@pytest.mark.parametrize("shapes", [((3,),), ((300, 300), (5,))])
def test_a_model_of_any_size_is_compiled_before_its_first_step(asked, engine, shapes):
    params = parameters(torch.float32, shapes=shapes)
    optimizer = dp.AdamW(params, engine=engine)
    march([(params, optimizer)], range(1))
    assert is_compiled(optimizer)
    march([(params, optimizer)], range(1, 3))
    assert len(asked) == 1


def test_engine_eager_asks_for_no_compiler(asked):
    params = parameters(torch.float32)
    march([(params, dp.AdamW(params, engine="eager"))], range(2))
    assert asked == []


@pytest.mark.parametrize("at", [1, 50])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(at):
    params = parameters(torch.float32)
    optimizer = dp.AdamW(params, engine="auto", lr=0.1)
    march([(params, optimizer)], range(at))
    others = copies(params)
    other = dp.AdamW(others, engine="auto", lr=0.5)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for pair in ((params, optimizer), (others, other)):
        march([pair], range(at, 110))
    assert same(snapshot(params, optimizer), snapshot(others, other))


def test_a_parameter_that_joins_late_goes_on_with_the_kernel_of_the_others(asked):
    params = parameters()
    optimizer = dp.AdamW(params, engine="auto")
    march([(params, optimizer)], range(5), missing=lambda step, index: index == 0)
    march([(params, optimizer)], range(5, 7))
    assert fates(optimizer) == "group 0: 3 tensors, 11 elements, float64: compiled, 56 bytes moved for each element"
    assert [int(optimizer.state[p]["step"]) for p in params] == [2, 7, 7]
    assert len(asked) == 1


# ---- words ----------------------------------------------------------------------------------------------------------


def test_explain_engine_in_auto():
    params = parameters(torch.float32)
    optimizer = dp.AdamW(params, engine="auto")
    assert repr(dp.explain_engine(optimizer)) == (
        "engine='auto': kernels from the first step on where there is a C++ compiler or a filled cache; "
        "on accelerators, torch.compile for 1048576 elements or more\n"
        "  no step was taken yet"
    )
    march([(params, optimizer)], range(1))
    assert fates(optimizer) == "group 0: 3 tensors, 11 elements, float32: compiled, 28 bytes moved for each element"


def test_explain_engine_counts_every_kind_of_tensor():
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
    march([(params, optimizer)], range(1))
    assert repr(dp.explain_engine(optimizer)).splitlines() == [
        "engine='compiled': kernels, compiled before the first step where the cache has none",
        "  group 0: 1 tensor, 3 elements, float32: compiled, 12 bytes moved for each element",
        "  group 0: 1 tensor, 4 elements, float64: compiled, 24 bytes moved for each element",
        "  group 0: 1 tensor, eager: it has no elements",
        "  group 1: 1 tensor, eager: its elements are not dense in memory",
        "  group 1: 2 tensors, eager: it shares memory with another tensor",
    ]


@pytest.mark.parametrize("wrong", [None, torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)])
def test_explain_engine_wants_an_optimizer_of_ours(wrong):
    with pytest.raises(dp.ArgumentError, match=f"expected a dashpot optimizer, got {type(wrong).__name__}"):
        dp.explain_engine(wrong)


@pytest.mark.parametrize(("value", "mode"), [("compiled", "compiled"), ("auto", "auto"), ("", "auto"), (None, "auto")])
def test_the_environment_chooses_where_the_argument_does_not(monkeypatch, value, mode):
    monkeypatch.delenv("DASHPOT_ENGINE")
    if value is not None:
        monkeypatch.setenv("DASHPOT_ENGINE", value)
    assert dp.explain_engine(dp.AdamW(parameters())).mode == mode
    assert dp.explain_engine(dp.AdamW(parameters(), engine="eager")).mode == "eager"
