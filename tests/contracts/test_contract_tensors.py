"""Contract: 0-d, empty and complex parameters, views, and all memory layouts are supported."""

import pytest
import torch
from contracts.trajectories import distance, gradient, identical, parameters, run, values
from registry import each

SUMMATION = 1e-13  # sums over a tensor depend on its memory order, by a few roundings of float64


@each()
def test_0d_parameter_equals_a_one_element_vector(subject):
    scalar = parameters(shapes=((),))
    vector = [scalar[0].detach().reshape(1).requires_grad_()]
    first, second = subject.make(scalar), subject.make(vector)
    for step in range(3):
        scalar[0].grad = gradient(scalar[0], step)
        vector[0].grad = gradient(scalar[0], step).reshape(1)
        first.step()
        second.step()
    assert scalar[0].shape == ()
    assert identical([scalar[0].reshape(1)], vector)


@each()
def test_empty_parameter_does_not_affect_others(subject):
    shape = (0, 3)
    straight = parameters()
    run(subject.make(straight), straight, 4)
    params, empty = parameters(), torch.empty(shape, dtype=torch.float64, requires_grad=True)
    first = subject.make([*params, empty])
    run(first, [*params, empty], 2)
    others = [p.detach().clone().requires_grad_() for p in [*params, empty]]
    second = subject.make(others)
    second.load_state_dict(first.state_dict())
    run(second, others, range(2, 4))
    assert identical(others[:-1], straight)
    assert others[-1].shape == shape
    assert all(torch.isfinite(value).all() for value in second.state[others[-1]].values())


def ignores_shape(subject):
    """Exclude averages over kernel windows, because real views of complex parameters have an additional dimension."""
    return not subject.spatial


@each(ignores_shape)
def test_complex_parameter_equals_a_pair_of_reals(subject):
    params = parameters(torch.complex128)
    reals = [torch.view_as_real(p.detach()).clone().requires_grad_() for p in params]
    first, second = subject.make(params), subject.make(reals)
    for step in range(3):
        for index, (p, real) in enumerate(zip(params, reals, strict=True)):
            p.grad = gradient(p, step, index)
            real.grad = torch.view_as_real(gradient(p, step, index))
        first.step()
        second.step()
    assert identical([torch.view_as_real(p) for p in params], reals)
    slots = {slot.key: slot.shape for slot in first.recipe.slots}
    for p in params:
        assert all(first.state[p][key].is_complex() is (shape == "elementwise") for key, shape in slots.items())


@each(lambda subject: subject.counterpart)
def test_complex_parameter_equals_torch(subject):
    torch.set_default_dtype(torch.float64)  # torch stores NAdam's running product in this dtype
    try:
        params, others = parameters(torch.complex128), parameters(torch.complex128)
        run(subject.make(params), params, 10)
        run(subject.make_torch(others), others, 10)
    finally:
        torch.set_default_dtype(torch.float32)
    assert distance(params, others) < 1e-11  # the documented bound for parity with torch.optim in float64


@each()
def test_conjugate_view_gradient_is_resolved(subject):
    """torch conjugates lazily, so the memory does not contain the actual values."""
    params, others = parameters(torch.complex64), parameters(torch.complex64)
    first, second = subject.make(params), subject.make(others)
    for index, (p, q) in enumerate(zip(params, others, strict=True)):
        p.grad = gradient(p, 0, index).conj()
        q.grad = gradient(q, 0, index).conj().resolve_conj()
    first.step()
    second.step()
    assert identical(params, others)


LAYOUTS = {
    "transposed": ((3, 5), lambda x: x.t().contiguous().t()),
    "channels last": ((2, 3, 4, 5), lambda x: x.contiguous(memory_format=torch.channels_last)),
    "strided": ((4, 6), lambda x: torch.stack([x, x], dim=-1)[..., 0]),
}


@pytest.mark.diagonal
@each()
@pytest.mark.parametrize("layout", LAYOUTS)
def test_result_is_independent_of_memory_layout(subject, layout):
    shape, arrange = LAYOUTS[layout]
    plain, arranged, fed = parameters(shapes=(shape,) * 3)
    with torch.no_grad():
        fed.copy_(plain)
    arranged = arrange(plain.detach().clone()).requires_grad_()
    stride = arranged.stride()
    optimizers = [subject.make([p]) for p in (plain, arranged, fed)]
    for step in range(3):
        plain.grad = gradient(plain, step)
        arranged.grad = gradient(plain, step)
        fed.grad = arrange(gradient(plain, step))
        for optimizer in optimizers:
            optimizer.step()
    assert distance([arranged, fed], values([plain, plain])) < SUMMATION
    assert arranged.stride() == stride
    assert fed.is_contiguous()


@each()
def test_view_parameter_leaves_its_buffer_unchanged(subject):
    """Parameters may be views into one flat buffer."""
    buffer = torch.ones(10, dtype=torch.float64)
    p = buffer[3:7].requires_grad_()
    optimizer = subject.make([p])
    p.grad = gradient(p, 0)
    optimizer.step()
    moved = values([buffer])[0] != 1
    assert moved.tolist() == [False] * 3 + [True] * 4 + [False] * 3
