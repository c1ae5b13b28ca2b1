"""The gradient norm at extreme magnitudes, and options that change between steps."""

import pytest
import torch
from engine_support import explanation  # noqa: F401 - a fixture for every test here

import dashpot as dp
from dashpot.errors import ArgumentError

ENGINES = ("eager", "compiled")


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_norm_with_squares_beyond_float32_clips(engine, capturable):
    w = torch.zeros(2, requires_grad=True)
    w.grad = torch.tensor([3e30, 4e30])
    optimizer = dp.SGD([w], lr=1.0, max_norm=1.0, engine=engine, capturable=capturable)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.tensor([-0.6, -0.8]))
    assert optimizer.last_grad_norm.item() == pytest.approx(5e30, rel=1e-6)  # float32 gradients


def test_set_options_of_an_option_fixed_at_construction_raises():
    optimizer = dp.SGD([torch.zeros(1, requires_grad=True)], max_norm=1.0)
    with pytest.raises(ArgumentError, match=r"SGD: set_options must be given max_norm, .*, got engine"):
        optimizer.set_options(engine="compiled")
    with pytest.raises(ArgumentError, match="SGD: max_norm must be"):
        optimizer.set_options(max_norm=-1.0)
    optimizer.set_options(max_norm=0.5)
    assert optimizer.options.max_norm == 0.5


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_set_options_of_adaptive_clip_applies_to_the_next_step(engine):
    w = torch.ones(3, requires_grad=True)
    optimizer = dp.SGD([w], lr=1.0, engine=engine)
    w.grad = torch.ones(3)
    optimizer.step()
    optimizer.set_options(adaptive_clip=0.001)
    with torch.no_grad():
        w.fill_(1.0)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.full((3,), 0.999))


@pytest.mark.needs_compiler
@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_of_extreme_gradients_matches_float64(dtype, scale):
    """Blocks of 256 squares are summed in float32 where this is safe: 16 additions per lane, error at most 1e-6."""
    params = [torch.zeros(n, dtype=dtype, requires_grad=True) for n in (1, 255, 256, 257, 20000)]
    for p in params:
        p.grad = torch.randn_like(p) * scale
    optimizer = dp.SGD(params, max_norm=1.0, engine="compiled")
    optimizer.step()
    expected = torch.cat([p.grad.double() for p in params]).norm().item()
    assert optimizer.last_grad_norm.item() == pytest.approx(expected, rel=1e-6)
    params[-1].grad[-1] = float("inf")
    optimizer.set_options(nonfinite="skip")
    optimizer.step()
    assert optimizer.last_step == "skipped"
