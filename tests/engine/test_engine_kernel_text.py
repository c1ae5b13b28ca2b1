"""The forms in which a kernel writes an operation where a quicker one is exact: bounds, and rounding to bfloat16."""

import math
from dataclasses import dataclass

import torch
from engine_support import fates, is_compiled, shared_cache

import dashpot as dp

__all__ = ["shared_cache"]


@dataclass(frozen=True)
class Bounded(dp.Stage):
    """Bounds that are one number for a whole tensor: a mean, which may be nan, and constants."""

    slots = (dp.elementwise("below"), dp.elementwise("above"), dp.elementwise("constant"))

    def apply(self, x, s, c, ctx):
        mean = ctx.mean(x.w)
        return x, type(s)(x.g.clamp_min(mean), x.g.clamp_max(mean), x.g.clamp(-0.5, 2.0))


def test_bounds_of_one_number_pass_nan_on_as_torch_does():
    g = torch.tensor([-1.0, -0.0, 0.0, 0.25, 3.0, math.inf, -math.inf, math.nan, 1e-40])
    found = []
    for engine in ("eager", "compiled"):
        params = [torch.full_like(g, value).requires_grad_() for value in (0.25, math.nan, math.inf)]
        optimizer = dp.SGM.from_recipe(params, dp.Recipe(Bounded()), engine=engine)
        for p in params:
            p.grad = g.clone()
        optimizer.step()
        assert engine == "eager" or is_compiled(optimizer), fates(optimizer)
        found.append([value for p in params for key, value in optimizer.state[p].items() if key != "step"])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=0, atol=0, equal_nan=True)
