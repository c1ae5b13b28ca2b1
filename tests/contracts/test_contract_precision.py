"""Contract: half-precision parameters use float32 arithmetic and state, with one rounding per step."""

import pytest
import torch
from contracts.trajectories import gradient, identical, parameters, run
from registry import each

HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.diagonal
@each()
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_step_equals_a_rounded_float32_step(subject, dtype):
    """The result is bitwise equal to a float32 run in which weights are rounded to half precision after every step."""
    params = parameters(dtype)
    wide = [p.detach().float().requires_grad_() for p in params]
    first, second = subject.make(params), subject.make(wide)
    for step in range(5):
        for index, (p, q) in enumerate(zip(params, wide, strict=True)):
            p.grad = gradient(p, step, index)
            q.grad = p.grad.float()
        first.step()
        second.step()
        with torch.no_grad():
            for q in wide:
                q.copy_(q.to(dtype))
    assert identical([p.float() for p in params], wide)
    assert all(p.dtype == dtype for p in params)
    for p, q in zip(params, wide, strict=True):
        for key in subject.keys:
            assert first.state[p][key].dtype == torch.float32
            assert torch.equal(first.state[p][key], second.state[q][key])


@pytest.mark.diagonal
@each()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_state_has_the_dtype_of_the_parameter(subject, dtype):
    params = parameters(dtype)
    optimizer = subject.make(params)
    run(optimizer, params, 2)
    assert all(optimizer.state[p][key].dtype == dtype for p in params for key in subject.keys)
    assert all(p.dtype == dtype for p in params)


@each()
def test_parameters_of_several_dtypes_in_one_optimizer(subject):
    kinds = [torch.float64, torch.float32, torch.bfloat16]
    mixed = [parameters(kind)[0] for kind in kinds]
    run(subject.make(mixed), mixed, 4)
    for index, kind in enumerate(kinds):
        alone = [parameters(kind)[0] for _ in kinds]
        run(subject.make([alone[index]]), alone, 4)
        assert identical([mixed[index]], [alone[index]])
