"""Sets of parameters with gradients that change at each step, as with mixtures of experts, dropped layers or GANs."""

import pytest
import torch
from contracts.trajectories import distance, gradient, parameters, values
from engine_support import eager_and_compiled, explanation, is_compiled, run_steps

import dashpot as dp

pytestmark = pytest.mark.needs_compiler

SHAPES = tuple((n % 5 + 1, 3) for n in range(12))


def adamw(params, **options):
    halves = [{"params": params[:6], "weight_decay": 0.0}, {"params": params[6:], "lr": 0.01}]
    return dp.AdamW(halves, lr=0.02, weight_decay=0.1, **options)


def rotating(step, index):
    return (index - 5 * step) % 12 >= 7


def alternating(step, index):
    return (index < 6) is (step % 2 == 0)


def growing(step, index):
    return index > step


@pytest.mark.parametrize("missing", [rotating, alternating, growing])
@pytest.mark.parametrize("options", [{}, {"max_norm": 0.5}], ids=["plain", "max_norm"])
def test_engines_agree_for_changing_sets(missing, options):
    first, second = eager_and_compiled(lambda params, **how: adamw(params, **how, **options), parameters(shapes=SHAPES))
    for step in range(15):
        run_steps((first, second), [step], missing=missing)
        assert distance(second[0], values(first[0])) < 1e-12  # float64, as in test_engine_equality
        assert is_compiled(second[1])
    counts = [[int(opt.state[p]["step"]) for p in params if p in opt.state] for params, opt in (first, second)]
    assert counts[0] == counts[1]


def test_gradient_in_memory_of_parameter_without_gradient():
    """Kernels may read memory in a step that does not write to this memory."""
    params = parameters(shapes=((4,), (4,)))
    optimizer = dp.SGD(params, lr=0.1, engine="compiled")
    run_steps([(params, optimizer)], range(2))
    before = params[1].detach().clone()
    params[0].grad, params[1].grad = params[1].detach(), None
    expected = params[0].detach() - 0.1 * before
    optimizer.step()
    assert torch.equal(params[0], expected)
    assert torch.equal(params[1], before)
    assert is_compiled(optimizer)


def test_parameters_that_start_to_overlap_use_eager_engine():
    pairs = []
    for engine in ("eager", "compiled"):
        params = parameters(shapes=((6,), (3,), (3,)))
        optimizer = dp.SGD(params, lr=0.1, momentum=0.9, engine=engine)
        run_steps([(params, optimizer)], range(2), missing=lambda step, index: index == step)
        params[1].data = params[0].data[2:5]
        for p, index in zip(params, range(3), strict=True):
            p.grad = gradient(p, 2, index)
        optimizer.step()
        pairs.append((params, optimizer))
    assert distance(pairs[1][0], values(pairs[0][0])) < 1e-12
    assert "shares memory with another tensor" in explanation(pairs[1][1])
