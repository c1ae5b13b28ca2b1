"""Tensors that share memory, which the eager engine steps in order."""

import pytest
import torch
from contracts.trajectories import distance, gradient, parameters, values
from engine_support import (
    eager_and_compiled,
    explanation,
    is_compiled,
    run_steps,
    set_gradients,
    state_of,
)

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


def _identical(buffer):
    return [buffer[:6], buffer[:6]]


def _nested(buffer):
    return [buffer[:6], buffer[2:4]]


def _overlapping_slices(buffer):
    return [buffer[:6], buffer[4:9], buffer[10:12]]


def _adjacent(buffer):
    return [buffer[:6], buffer[6:9], buffer[9:]]


def _strided_first(buffer):
    return [buffer[::2], buffer[:6]]


@pytest.mark.parametrize(
    "cut", [_identical, _nested, _overlapping_slices, _strided_first], ids=lambda cut: cut.__name__[1:]
)
def test_overlapping_parameters_use_eager_engine_in_order(cut):
    pairs = []
    for engine in ("eager", "compiled"):
        buffer = torch.linspace(-1, 1, 12, dtype=torch.float64)
        params = [part.detach().requires_grad_() for part in cut(buffer)]
        pairs.append((params, adamw(params, engine=engine)))
    run_steps(pairs, range(5))
    assert_agree(*pairs)
    assert "shares memory with another tensor" in explanation(pairs[1][1])


def test_adjacent_parameters_in_one_buffer_are_compiled():
    buffer = torch.linspace(-1, 1, 12, dtype=torch.float64)
    params = [part.detach().requires_grad_() for part in _adjacent(buffer)]
    optimizer = adamw(params, engine="compiled")
    run_steps([(params, optimizer)], range(2))
    assert is_compiled(optimizer)


ALIASES = {
    "own weight": lambda params, state: params[1].detach(),
    "other weight": lambda params, state: params[0].detach().view(-1)[5:],
    "own state": lambda params, state: state[params[1]]["exp_avg"],
    "other state": lambda params, state: state[params[0]]["exp_avg_sq"].view(-1)[:4],
}


@pytest.mark.parametrize("name", ALIASES)
def test_gradient_that_aliases_written_memory(name):
    """The address of the gradient changes between steps, and changes back."""
    first, second = eager_and_compiled(adamw, parameters(shapes=SHAPES))
    run_steps((first, second), range(2))
    for step in range(2, 8):
        for params, optimizer in (first, second):
            set_gradients(params, step)
            if step % 3:
                params[1].grad = ALIASES[name](params, optimizer.state)
            optimizer.step()
        assert_agree(first, second)
    assert "compiled" in explanation(second[1])


def test_two_parameters_with_shared_gradient():
    first, second = eager_and_compiled(adamw, parameters(shapes=((4,), (4,))))
    for step in range(4):
        for params, optimizer in (first, second):
            params[0].grad = params[1].grad = gradient(params[0], step)
            optimizer.step()
    assert_agree(first, second)
    assert is_compiled(second[1])
