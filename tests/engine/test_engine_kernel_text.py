"""Fast and exact forms of operations in kernels: clamping, rounding to bfloat16, gradient scaling and norms."""

import math
from dataclasses import dataclass

import pytest
import torch
from engine_support import explanation, is_compiled

import dashpot as dp


@dataclass(frozen=True)
class Bounded(dp.Stage):
    """A stage whose bounds are scalars for a whole tensor: a mean, which may be nan, and constants."""

    slots = (dp.elementwise("below"), dp.elementwise("above"), dp.elementwise("constant"))

    def apply(self, x, s, c, ctx):
        mean = ctx.mean(x.w)
        return x, type(s)(x.g.clamp_min(mean), x.g.clamp_max(mean), x.g.clamp(-0.5, 2.0))


@pytest.mark.needs_compiler
def test_clamp_by_scalar_propagates_nan_like_torch():
    g = torch.tensor([-1.0, -0.0, 0.0, 0.25, 3.0, math.inf, -math.inf, math.nan, 1e-40])
    found = []
    for engine in ("eager", "compiled"):
        params = [torch.full_like(g, value).requires_grad_() for value in (0.25, math.nan, math.inf)]
        optimizer = dp.SGM.from_recipe(params, dp.Recipe(Bounded()), engine=engine)
        for p in params:
            p.grad = g.clone()
        optimizer.step()
        assert engine == "eager" or is_compiled(optimizer), explanation(optimizer)
        found.append([value for p in params for key, value in optimizer.state[p].items() if key != "step"])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=0, atol=0, equal_nan=True)


@dataclass(frozen=True)
class Kept(dp.Stage):
    """A stage with a slot stored as loaded and a slot computed by arithmetic."""

    slots = (dp.elementwise("loaded"), dp.elementwise("sum"))

    def apply(self, x, s, c, ctx):
        return x, type(s)(x.w, x.w + x.g)


def floats_of_every_kind():
    """Return floats of every exponent and sign, both bfloat16 numbers and others between them, and all kinds of nan."""
    fractions = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x18000, 0x3FFFFF, 0x400000, 0x7F7FFF, 0x7FFFFF])
    positive = (torch.arange(256)[:, None] << 23) + fractions
    return torch.cat([positive, positive - 2**31]).flatten().to(torch.int32).view(torch.float32)


def same_numbers(a, b):
    nan = a.isnan()
    kind = {2: torch.int16, 4: torch.int32}[a.element_size()]
    return torch.equal(nan, b.isnan()) and torch.equal(a.view(kind)[~nan], b.view(kind)[~nan])


def stepped(dtype, **options):
    """Return all tensors that a step writes, in pairs from the two engines."""
    found = []
    for engine in ("eager", "compiled"):
        w = floats_of_every_kind().to(dtype)
        p = w.clone().requires_grad_()
        p.grad = w.flip(0).clone()
        optimizer = dp.SGM.from_recipe([p], dp.Recipe(Kept(), lr=0.75), engine=engine, **options)
        optimizer.step()
        assert engine == "eager" or is_compiled(optimizer), explanation(optimizer)
        found.append([p.detach(), *(value for key, value in optimizer.state[p].items() if key != "step")])
    return zip(*found, strict=True)


@pytest.mark.needs_compiler
@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {"state_dtype": torch.bfloat16}),
        (torch.bfloat16, {}),
        (torch.bfloat16, {"state_dtype": torch.bfloat16, "rounding": "kahan"}),
        (torch.bfloat16, {"state_dtype": torch.bfloat16, "rounding": "stochastic"}),
    ],
    ids=str,
)
def test_both_engines_round_every_float_equally(dtype, options):
    for eager, compiled in stepped(dtype, **options):
        assert same_numbers(eager, compiled)


SIZES = (1, 63, 64, 65, 1023, 1024, 1025, 16385)  # around vector, block and chunk sizes of the sum of squares


@pytest.mark.parametrize("scale", [0.0, 1e-25, 1.0, 1e25, "mixed"])
def test_gradient_norm_matches_float64(scale):
    generator = torch.Generator().manual_seed(0)
    params = [torch.zeros(size, requires_grad=True) for size in SIZES]
    for number, p in enumerate(params):
        factor = 10.0 ** (number * 6 - 24) if scale == "mixed" else scale
        p.grad = torch.randn(p.shape, generator=generator) * factor
    optimizer = dp.SGD(params, lr=1.0, max_norm=1.0, engine="compiled")
    optimizer.step()
    expected = torch.cat([p.grad.double() for p in params]).norm()
    torch.testing.assert_close(torch.as_tensor(optimizer.last_grad_norm).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_single_nonfinite_element_is_detected_anywhere(bad):
    params = [torch.zeros(size, requires_grad=True) for size in SIZES]
    optimizer = dp.SGD(params, lr=1.0, nonfinite="skip", engine="compiled")
    for p in params:
        for place in {0, p.numel() // 2, p.numel() - 1}:
            for q in params:
                q.grad = torch.full_like(q, 1e-30)
            p.grad[place] = bad
            optimizer.step()
            assert optimizer.last_step == "skipped"


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {}),
        (torch.float32, {"state_dtype": torch.bfloat16}),
        (torch.bfloat16, {"state_dtype": torch.bfloat16}),
        (torch.bfloat16, {"rounding": "kahan"}),
        (torch.bfloat16, {"rounding": "kahan", "state_dtype": torch.bfloat16}),
    ],
    ids=str,
)
def test_both_engines_scale_and_clip_gradients_equally(dtype, options):
    """Kernels do this before the loop, in blocks of 512. Decay reads weights, and momentum reads gradients."""
    found = []
    for engine in ("eager", "compiled"):
        generator = torch.Generator().manual_seed(0)
        sizes = (1, 2, 511, 512, 513, 16385)
        params = [torch.randn(size, generator=generator).to(dtype).requires_grad_() for size in sizes]
        optimizer = dp.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1, maximize=True, engine=engine, **options)
        for clip_value, value in ((None, 1.0), (0.5, 1.0), (None, math.nan), (0.25, math.inf)):
            optimizer.set_options(clip_value=clip_value)
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator).to(dtype)
                p.grad[-1] *= value
            optimizer.step()
        found.append([*params, *(optimizer.state[p]["momentum_buffer"] for p in params)])
    assert all(same_numbers(a.detach(), b.detach()) for a, b in zip(*found, strict=True))
