"""`engine="auto"`: when a compiler starts, when its kernel is taken up, and that a small model never waits for it."""

import copy

import pytest
import torch
from contracts.trajectories import parameters
from engine_support import copies, fates, is_compiled, march, same, shared_cache, snapshot  # noqa: F401

import dashpot as dp
from dashpot.engine import dispatch
from dashpot.engine.native import build, kernel

MILLION = 1 << 20


class FakeBuild:
    """A compiler whose end the test decides; to ask it for its result earlier is to wait for it."""

    def __init__(self, source, log):
        self.source, self.log, self.done = source, log, False

    def ready(self):
        self.log.append("looked")
        return self.done

    def result(self):
        assert self.done, "somebody waits for a compiler"
        self.log.append("taken")
        return build.library(self.source)


@pytest.fixture
def compilers(monkeypatch):
    """The builds that were started, with the log of what was asked of them; no kernel is known before."""
    started, log = [], []

    def start(source):
        log.append("started")
        started.append(FakeBuild(source, log))
        return started[-1]

    def library(source):
        log.append("waited")
        return build.library(source)

    fake = type("build", (), {"start": start, "library": library, "loaded": lambda source: None})
    monkeypatch.setattr(kernel, "build", fake)
    monkeypatch.setattr(kernel, "_KERNELS", {})
    return started, log


def adamw(params, **how):
    return dp.AdamW(params, engine="auto", **how)


@pytest.mark.parametrize(("finished", "taken"), [(30, 100), (99, 100), (100, 100), (101, 200), (250, 400), (401, 800)])
def test_a_small_model_takes_a_finished_kernel_up_at_fixed_steps(compilers, finished, taken):
    started, log = compilers
    params = parameters(torch.float32, shapes=((3,),))
    optimizer = adamw(params)
    switched = None
    for step in range(taken + 3):
        if step == finished:
            started[0].done = True
        march([(params, optimizer)], [step])
        if switched is None and is_compiled(optimizer):
            switched = step
        if step < 20:
            assert log == []
    assert switched == taken
    assert log[0] == "started"
    assert log.count("started") == log.count("taken") == 1
    assert "waited" not in log


def test_the_compiler_starts_at_step_20(compilers):
    _, log = compilers
    params = parameters(torch.float32, shapes=((3,),))
    optimizer = adamw(params)
    march([(params, optimizer)], range(20))
    assert log == []
    march([(params, optimizer)], range(20, 25))
    assert log == ["started"]


def test_a_compiler_that_does_not_end_is_never_waited_for(compilers):
    _, log = compilers
    params = parameters(torch.float32, shapes=((3,),))
    optimizer = adamw(params)
    march([(params, optimizer)], range(450))
    assert "eager until the kernel is looked for" in fates(optimizer)
    assert log == ["started", "looked", "looked", "looked"]  # at 100, 200 and 400


@pytest.mark.parametrize(("sizes", "waits"), [((MILLION - 1,), False), ((MILLION,), True), ((MILLION // 2,) * 2, True)])
def test_a_large_model_compiles_before_its_first_step(compilers, sizes, waits):
    _, log = compilers
    params = [torch.ones(size, requires_grad=True) for size in sizes]
    optimizer = dp.SGD([{"params": [p]} for p in params], lr=0.1, engine="auto")
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert ("waited" in log) is waits
    assert is_compiled(optimizer) is waits
    assert "started" not in log


@pytest.mark.parametrize(("count", "waits"), [(255, False), (256, True)])
def test_many_small_tensors_are_compiled_before_their_first_step(compilers, count, waits):
    _, log = compilers
    params = [torch.ones(1, requires_grad=True) for _ in range(count)]
    optimizer = dp.SGD(params, lr=0.1, engine="auto")
    for p in params:
        p.grad = torch.ones(1)
    optimizer.step()
    assert ("waited" in log) is waits
    assert is_compiled(optimizer) is waits


def test_tensors_without_gradients_do_not_make_a_model_large(compilers):
    _, log = compilers
    params = [torch.ones(MILLION, requires_grad=True), torch.ones(3, requires_grad=True)]
    optimizer = dp.SGD(params, lr=0.1, engine="auto")
    params[1].grad = torch.ones(3)
    optimizer.step()
    assert log == []


def test_engine_compiled_waits_at_the_first_step(compilers):
    _, log = compilers
    params = parameters(torch.float32)
    march([(params, dp.AdamW(params, engine="compiled"))], range(1))
    assert log == ["waited"]


def test_engine_eager_asks_for_no_compiler(compilers):
    _, log = compilers
    params = [torch.ones(MILLION, requires_grad=True)]
    optimizer = dp.SGD(params, lr=0.1, engine="eager")
    params[0].grad = torch.ones(MILLION)
    optimizer.step()
    assert log == []


def have_kernel(dtype):
    """AdamW's kernel is in the cache from here on."""
    params = parameters(dtype)
    march([(params, dp.AdamW(params, engine="compiled"))], range(1))


@pytest.mark.parametrize("at", [10, 50, 100, 150, 200])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(at):
    """With the kernel in the cache: the engine follows from the step count. In float32 the two engines differ."""
    have_kernel(torch.float32)
    params = parameters(torch.float32)
    optimizer = adamw(params, lr=0.1)
    march([(params, optimizer)], range(at))
    others = copies(params)
    other = adamw(others, lr=0.5)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for pair in ((params, optimizer), (others, other)):
        march([pair], range(at, 210))
    assert is_compiled(optimizer)
    assert is_compiled(other)
    assert same(snapshot(params, optimizer), snapshot(others, other))


def test_the_switch_at_step_100_keeps_state_and_counts():
    have_kernel(torch.float64)
    params, others = parameters(), parameters()
    auto, eager = adamw(params), dp.AdamW(others, engine="eager")
    march(((params, auto), (others, eager)), range(120))
    assert is_compiled(auto)
    assert all((p - q).abs().max() < 1e-12 for p, q in zip(params, others, strict=True))  # float64, engines differ
    assert [int(auto.state[p]["step"]) for p in params] == [120] * 3
    assert auto.steps_done() == 120


def test_a_parameter_that_joins_late_goes_on_with_the_kernel_of_the_others():
    have_kernel(torch.float64)
    params = parameters()
    optimizer = adamw(params)
    march([(params, optimizer)], range(105), missing=lambda step, index: index == 0)
    assert is_compiled(optimizer)
    march([(params, optimizer)], range(105, 107))
    assert fates(optimizer) == "group 0: 3 tensors, 11 elements, float64: compiled, 56 bytes moved for each element"


# ---- words ----------------------------------------------------------------------------------------------------------


def test_explain_engine_in_auto(compilers):
    started, _ = compilers
    params = parameters(torch.float32)
    optimizer = adamw(params)
    assert repr(dp.explain_engine(optimizer)) == (
        "engine='auto': kernels from the first step on for 1048576 elements or 256 tensors or more; for fewer, "
        "eager at first, a compiler beside it from step 20, and kernels from step 100 on\n"
        "  no step was taken yet"
    )
    march([(params, optimizer)], range(30))
    assert fates(optimizer) == "group 0: 3 tensors, 11 elements, float32: eager until the kernel is looked for"
    started[0].done = True
    march([(params, optimizer)], range(30, 101))
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


def test_the_documented_numbers_are_those_of_the_code():
    assert (dispatch.LARGE, dispatch.MANY, dispatch.START, dispatch.LOOKS) == (MILLION, 256, 20, 100)
