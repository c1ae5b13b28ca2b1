"""A failed step leaves weights, state and counts unchanged, in both engines."""

from dataclasses import dataclass

import pytest
import torch
from contracts.trajectories import gradient, parameters
from engine_support import is_compiled, is_equal, run_steps, snapshot

import dashpot as dp

ENGINES = ["eager", "compiled", "auto"]


class FaultError(Exception):
    pass


@dataclass(frozen=True)
class Failing(dp.Stage):
    """A running mean of directions that raises an exception for the second parameter of the second step."""

    rate: float = 0.5
    slots = (dp.elementwise("mean", "mean"),)

    def apply(self, x, s, c, ctx):
        if isinstance(x.v, torch.Tensor) and x.v.dim() == 1 and bool((s.mean != 0).any()):
            raise FaultError
        mean = c.rate * s.mean + (1 - c.rate) * x.v
        return x._replace(v=mean), s._replace(mean=mean)


@pytest.mark.parametrize("engine", ENGINES)
def test_stage_failing_at_later_parameter_changes_nothing(engine, recwarn):
    params = parameters(shapes=((3, 2), (4,)))
    optimizer = dp.SGM(params, lr=0.1, rate=Failing(), engine=engine)
    run_steps([(params, optimizer)], range(1))
    before = snapshot(params, optimizer)
    with pytest.raises((FaultError, dp.ArgumentError)):
        run_steps([(params, optimizer)], range(1, 2))
    assert is_equal(snapshot(params, optimizer), before)
    params[1].grad = None
    params[0].grad = gradient(params[0], 1)
    optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in params] == [2, 1]


class Refusing(torch.nn.Parameter):
    """A tensor subclass that can reject in-place writes."""

    refuses = False

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if cls.refuses and func is torch.Tensor.copy_:
            raise FaultError
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("engine", ENGINES)
def test_failing_tensor_subclass_changes_nothing(engine, monkeypatch):
    first, second = parameters(shapes=((3, 2), (4,)))
    params = [first, Refusing(second.detach())]
    optimizer = dp.AdamW(params, lr=0.1, engine=engine)
    run_steps([(params, optimizer)], range(2))
    before = snapshot(params, optimizer)
    monkeypatch.setattr(Refusing, "refuses", True)
    with pytest.raises(FaultError):
        run_steps([(params, optimizer)], range(2, 3))
    monkeypatch.setattr(Refusing, "refuses", False)
    assert is_equal(snapshot(params, optimizer), before)


@pytest.mark.parametrize("engine", ENGINES)
def test_failed_first_step_leaves_no_state(engine, monkeypatch):
    first, second = parameters(shapes=((3, 2), (4,)))
    params = [first, Refusing(second.detach())]
    optimizer = dp.AdamW(params, lr=0.1, engine=engine)
    before = [p.detach().clone() for p in params]
    monkeypatch.setattr(Refusing, "refuses", True)
    with pytest.raises(FaultError):
        run_steps([(params, optimizer)], range(1))
    monkeypatch.setattr(Refusing, "refuses", False)
    assert not optimizer.state
    assert optimizer.steps_done() == 0
    assert all(map(torch.equal, params, before))


@pytest.mark.parametrize("engine", ENGINES)
def test_state_created_in_inference_mode_is_writable(engine):
    params, others = parameters(), parameters()
    optimizer, other = (dp.AdamW(ps, lr=0.1, engine=engine) for ps in (params, others))
    with torch.inference_mode():
        run_steps([(params, optimizer)], range(1))
    run_steps([(others, other)], range(1))
    run_steps([(params, optimizer), (others, other)], range(1, 4))
    assert not any(value.is_inference() for state in optimizer.state.values() for value in state.values())
    assert is_equal(snapshot(params, optimizer), snapshot(others, other))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("key", ["step", "exp_avg"])
def test_inference_tensor_in_state_raises_before_anything_is_written(engine, key):
    params = parameters()
    optimizer = dp.AdamW(params, lr=0.1, engine=engine)
    run_steps([(params, optimizer)], range(2))
    with torch.inference_mode():
        optimizer.state[params[1]][key] = optimizer.state[params[1]][key].clone()
    before = [p.detach().clone() for p in params]
    if key == "step":
        run_steps([(params, optimizer)], range(2, 3))
        assert not is_compiled(optimizer) or engine != "eager"
        assert [int(optimizer.state[p]["step"]) for p in params] == [3, 3, 3]
        return
    with pytest.raises(dp.ArgumentError, match=r"inference"):
        run_steps([(params, optimizer)], range(2, 3))
    assert all(map(torch.equal, params, before))
    assert [int(optimizer.state[p]["step"]) for p in params] == [2, 2, 2]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [(2, 4), (8,)])
def test_weight_reshaped_at_same_address_is_detected(engine, shape):
    p = torch.arange(8.0).reshape(4, 2).requires_grad_()
    optimizer = dp.AdamW([p], lr=0.1, engine=engine)
    run_steps([([p], optimizer)], range(2))
    before = p.detach().clone().reshape(shape)
    p.data = p.data.view(shape)
    with pytest.raises(dp.ArgumentError, match=r"state 'exp_avg' must have its parameter's shape"):
        run_steps([([p], optimizer)], range(2, 3))
    assert torch.equal(p, before)
    optimizer.state.clear()
    run_steps([([p], optimizer)], range(2, 3))
    assert optimizer.state[p]["exp_avg"].shape == shape
