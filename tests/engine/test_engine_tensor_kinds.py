"""Compiled steps with tensor subclasses, inference tensors, autograd and hooks."""

import pytest
import torch
from contracts.trajectories import distance, parameters, values
from engine_support import (
    SGD,
    eager_and_compiled,
    explanation,
    is_compiled,
    run_steps,
    set_gradients,
    state_of,
)
from torch.optim.optimizer import register_optimizer_step_post_hook

import dashpot as dp

pytestmark = pytest.mark.needs_compiler


DOUBLE = 1e-12  # bound for float64, as in test_engine_equality


SHAPES = ((3, 3), (4,), ())


def adamw(params, **how):
    return dp.AdamW(params, lr=0.02, weight_decay=0.1, **how)


def assert_agree(first, second):
    assert distance(second[0], values(first[0])) < DOUBLE
    for p, q in zip(first[0], second[0], strict=True):
        a, b = state_of(first[1], p), state_of(second[1], q)
        assert a.keys() == b.keys()
        assert distance(list(b.values()), list(a.values())) < DOUBLE


class Labelled(torch.nn.Parameter):
    pass


class Counting(torch.nn.Parameter):
    calls = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        Counting.calls += 1
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize(("kind", "compiled"), [(Labelled, True), (Counting, False)])
def test_tensor_subclass_is_compiled_unless_it_overrides_dispatch(kind, compiled):
    pairs = []
    for engine in ("eager", "compiled"):
        params = [kind(p.detach()) for p in parameters(shapes=SHAPES)]
        pairs.append((params, adamw(params, engine=engine)))
    run_steps(pairs, range(3))
    assert is_compiled(pairs[1][1]) is compiled
    assert (f"tensor subclass {kind.__name__}" in explanation(pairs[1][1])) is not compiled
    assert_agree(*pairs)


def test_inference_tensors_use_eager_engine():
    for engine in ("eager", "compiled"):
        with torch.inference_mode():
            p = torch.ones(3, dtype=torch.float64)
        optimizer = adamw([p], engine=engine)
        with torch.inference_mode():
            p.grad = torch.ones(3, dtype=torch.float64)
            optimizer.step()
        assert p.tolist() == pytest.approx([1 - 0.02 * 0.1 - 0.02] * 3, abs=1e-9)  # eps = 1e-8 of a unit step
    assert "inference tensor" in explanation(optimizer)


def test_step_in_inference_mode():
    first, second = eager_and_compiled(adamw, parameters(shapes=SHAPES))
    with torch.inference_mode():
        run_steps((first, second), range(3))
        assert_agree(first, second)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize("needed", ["weight", "state"])
def test_backward_through_updated_tensor_raises_torch_error(engine, needed):
    params = parameters()
    optimizer = adamw(params, engine=engine)
    run_steps([(params, optimizer)], range(2))
    factor = params[0] if needed == "weight" else optimizer.state[params[0]]["exp_avg"]
    leaf = torch.ones_like(params[0], requires_grad=True)
    loss = (factor * leaf).sum()
    set_gradients(params, 2)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_step_hooks_run_around_compiled_step():
    params = parameters()
    optimizer = dp.SGD(params, **SGD, engine="compiled")
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(("before", params[0].detach().clone())))
    optimizer.register_step_post_hook(lambda *_: seen.append(("after", params[0].detach().clone())))
    run_steps([(params, optimizer)], range(1))
    assert [name for name, _ in seen] == ["before", "after"]
    assert not torch.equal(seen[0][1], seen[1][1])
    assert is_compiled(optimizer)


def test_closure_is_called_once_with_gradients_enabled():
    params = parameters()
    optimizer = dp.SGD(params, **SGD, engine="compiled")
    modes = []

    def closure():
        modes.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = sum((p * p).sum() for p in params)
        loss.backward()
        return loss

    before = values(params)
    loss = optimizer.step(closure)
    assert modes == [True]
    assert loss.item() == pytest.approx(sum((p * p).sum().item() for p in before))
    assert is_compiled(optimizer)


def test_profiler_records_step_under_torch_name():
    params = parameters(shapes=SHAPES)
    optimizer = adamw(params, engine="compiled")
    run_steps([(params, optimizer)], range(1))
    with torch.autograd.profiler.profile() as profile:
        run_steps([(params, optimizer)], range(1, 2))
    assert "Optimizer.step#AdamW.step" in [event.key for event in profile.key_averages()]


def test_global_step_hook_is_called():
    params = parameters(shapes=SHAPES)
    optimizer, calls = adamw(params, engine="compiled"), []
    handle = register_optimizer_step_post_hook(lambda *_: calls.append(1))
    try:
        run_steps([(params, optimizer)], range(2))
    finally:
        handle.remove()
    run_steps([(params, optimizer)], range(2, 3))
    assert calls == [1, 1]
