"""Gradients whose squares or sums overflow in float32, because means and norms accumulate in float64."""

import pytest
import torch

import dashpot as dp
from dashpot.engine.program import WHOLE_TENSOR

ENGINES = pytest.mark.parametrize("engine", ["eager", "compiled"])
SIZES = [1e15, 1e19, 1e20, 1e25, 1e30, 1e37]
LARGEST = {torch.float32: 1e37, torch.bfloat16: 1e37, torch.float16: 1e4}
CLIPPED = {
    "adaptive": dp.Recipe(dp.AdaptiveClip(0.01), lr=0.9),
    "moment": dp.Recipe(dp.AdaptiveClip(0.5), dp.SecondMoment(0.9), dp.MomentRate(0.9), lr=0.1),
    "parcor": dp.Recipe(dp.AdaptiveClip(0.5), dp.HuberClip(0.9), dp.Parcor(0.9), lr=0.1),
    "huber-parcor": dp.Recipe(dp.AdaptiveClip(0.5), dp.HuberClip(0.9), dp.HuberParcor(0.9), lr=0.1),
}


def trained(recipe, size, dtype, work, engine, steps=3):
    """Return the weights after steps with gradients of magnitude `size`, rounded to `dtype` and stored as `work`."""
    draw = torch.Generator().manual_seed(0)
    w = torch.randn(37, generator=draw, dtype=torch.float64).to(dtype).to(work).requires_grad_()
    optimizer = dp.SGM.from_recipe([w], recipe, engine=engine)
    for _ in range(steps):
        w.grad = (size * torch.randn(37, generator=draw, dtype=torch.float64)).to(dtype).to(work)
        optimizer.step()
    return w.detach().double()


def cases():
    """Return all combinations of recipe, dtype and engine. All but one with the compiled engine are slow tests."""
    for name, recipe in CLIPPED.items():
        for dtype in LARGEST:
            for engine in ("eager", "compiled"):
                dear = engine == "compiled" and (name, dtype) != ("huber-parcor", torch.float32)
                yield pytest.param(
                    recipe, dtype, engine, marks=pytest.mark.slow if dear else (), id=f"{name}-{dtype}-{engine}"
                )


@pytest.mark.parametrize(("recipe", "dtype", "engine"), list(cases()))
def test_clipped_huge_gradient_matches_float64(recipe, dtype, engine):
    steps, unit = 3, torch.finfo(dtype).eps
    for size in (size for size in [1.0, 1e4, *SIZES] if size <= LARGEST[dtype]):
        expected = trained(recipe, size, dtype, torch.float64, "eager", steps)
        got = trained(recipe, size, dtype, dtype, engine, steps)
        # A denormal factor has fewer significant digits: at 1e-40 its relative error is 1e-5.
        torch.testing.assert_close(got, expected, rtol=steps * unit, atol=steps * unit + (1e-5 if size > 1e30 else 0))


@ENGINES
def test_sgd_with_adaptive_clip(engine):
    """The norm of the step is 0.9 * 0.01 times the norm of the weight."""
    for size in SIZES:
        p = torch.ones(4, requires_grad=True)
        optimizer = dp.SGD([p], lr=0.9, adaptive_clip=0.01, engine=engine)
        p.grad = torch.full_like(p, size)
        optimizer.step()
        assert (1 - p).norm().item() == pytest.approx(0.9 * 0.01 * 2, rel=1e-5)


@ENGINES
def test_huber_clip_of_first_direction_matches_float64(engine):
    recipe, single = dp.Recipe(dp.HuberClip(0.99), lr=1.0), torch.float32
    for size in SIZES:
        got = trained(recipe, size, single, single, engine, 1)
        expected = trained(recipe, size, single, torch.float64, "eager", 1)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)


@ENGINES
def test_huber_clip_recovers_from_huge_gradient(engine):
    """The stored average is at most the largest float32 number and decays, whereas an infinity would persist."""
    w = torch.zeros(5, requires_grad=True)
    optimizer = dp.SGM.from_recipe([w], dp.Recipe(dp.HuberClip(0.5), lr=0.0), engine=engine)
    for size in (1e37, 1e37, *[1.0] * 300):
        w.grad = torch.full_like(w, size)
        optimizer.step()
        assert all(torch.isfinite(value) for value in optimizer.state[w].values())
    assert optimizer.state[w]["norm_avg"] < 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_mean_and_norm_overflow_only_if_result_does(dtype):
    x = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    if dtype != torch.float64:
        torch.testing.assert_close(WHOLE_TENSOR.mean(x), x[0])
        torch.testing.assert_close(WHOLE_TENSOR.norm(x / 64), x[0] / 64 * 1000**0.5)
    assert WHOLE_TENSOR.mean(x / 1000).dtype == WHOLE_TENSOR.norm(x).dtype == dtype
    assert WHOLE_TENSOR.norm(x).isinf()
