"""Replay of a recorded step in float64: the change as a linear function of the filter's output and of the weight.

    Dw = -kappa A y - shrink w

with the filter output y, the elementwise factor A of the stages after the filter (1/d, and factors of whole tensors),
and the rate kappa, which includes numerator and schedule. All values come from the stages of the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dashpot.analysis.step_forms import StepForm
from dashpot.engine.program import WHOLE_TENSOR, StepScalars, prepared_gradient
from dashpot.recipes.recipe import BoundStage, Recipe
from dashpot.stages import AdaptiveClip, ChangeDecay, HuberClip, Negate
from dashpot.stages.base import Signal


class StepInputs(NamedTuple):
    """Inputs of the step of one tensor.

    Attributes:
        recipe: The recipe of the step.
        scalars: The scalars of the step.
        w: Weight before the step, float64.
        g: Gradient before scaling and clipping, float64.
        state: Slots by key, float64, as the stages read them.
    """

    recipe: Recipe
    scalars: StepScalars
    w: Tensor
    g: Tensor
    state: Mapping[str, Tensor]


class Coefficients(NamedTuple):
    """A linear filter with memory m at one step: y = gain u + carry m, then m <- pole m + feed u."""

    gain: float
    carry: float
    pole: float
    feed: float


class LinearStep(NamedTuple):
    """The step of one tensor as a linear function.

    Attributes:
        u: Input of the filter: the gradient after clipping and coupled decay, and after denominators before the filter.
        y: Output of the filter.
        factor: A, with elements 0 where the denominator is zero or infinite.
        rate: kappa.
        shrink: Fraction of w that decay after the filter subtracts.
        published_shrink: `shrink` with change-level decay that lacks its factor.
        w: Weight before the step.
        coefficients: Coefficients of the filter.
    """

    u: Tensor
    y: Tensor
    factor: Tensor
    rate: float
    shrink: Tensor
    published_shrink: Tensor
    w: Tensor
    coefficients: Coefficients


class _Affine(NamedTuple):
    """Direction after some stages: factor y + decay w. `published` is `decay` as in `published_shrink`."""

    factor: Tensor
    decay: Tensor
    published: Tensor

    def times(self, x: Any) -> _Affine:
        return _Affine(self.factor * x, self.decay * x, self.published * x)


def replay(inputs: StepInputs, form: StepForm) -> LinearStep:
    """Return the step of one tensor as a linear function, by applying the stages to the recorded inputs."""
    scalars, clock = inputs.scalars, inputs.scalars.clock
    g = prepared_gradient(inputs.g, scalars)
    x = Signal(w=inputs.w, g=g, d=1.0, v=g, rate=clock.lr, shrink=None)
    u = y = x.v
    coefficients = Coefficients(1.0, 0.0, 0.0, 0.0)
    affine = _Affine(torch.ones_like(g), torch.zeros_like(g), torch.zeros_like(g))
    for index, (line, c) in enumerate(zip(inputs.recipe.bound_stages, scalars.stages, strict=True)):
        before = x
        slots = line.state_type(*(inputs.state[key] for key in line.keys))
        x, _ = line.stage.apply(before, slots, c, WHOLE_TENSOR)
        if index < form.entry:
            u = y = x.v
        elif index == form.entry and form.filtered:
            u, y, coefficients = before.v, x.v, _coefficients(line, c, slots)
        else:
            affine = _followed(line, c, before, x, affine)
    rate = float(x.rate) * float(clock.factor)
    shrink = 0.0 if x.shrink is None else float(x.shrink)
    return LinearStep(
        u,
        y,
        affine.factor,
        rate,
        rate * affine.decay + shrink,
        rate * affine.published + shrink,
        x.w,
        coefficients,
    )


def _followed(line: BoundStage, c: Any, before: Signal, after: Signal, affine: _Affine) -> _Affine:
    """Return the direction after one more stage."""
    stage = line.stage
    if isinstance(stage, (AdaptiveClip, HuberClip)):
        return affine.times(_ratio(after.v, before.v))
    if isinstance(stage, Negate):
        return affine.times(-1.0)
    if isinstance(stage, ChangeDecay) and stage.scale == "lr":
        factor = float(stage.factor)
        published = float(c.decay) / factor if factor else 0.0
        return affine._replace(decay=affine.decay + float(c.decay), published=affine.published + published)
    if after.d is not before.d:
        ratio = before.d / torch.as_tensor(after.d)
        return affine.times(torch.where(ratio.isfinite(), ratio, 0.0))
    return affine


def _ratio(after: Tensor, before: Tensor) -> Tensor | float:
    """Return the number by which a stage multiplied all elements, from the largest of them."""
    largest = before.abs().argmax() if before.numel() else None
    if largest is None or before.flatten()[largest] == 0:
        return 1.0
    return after.flatten()[largest] / before.flatten()[largest]


def _coefficients(line: BoundStage, c: Any, slots: Any) -> Coefficients:
    """Return the coefficients of a filter, from its responses to an input and to a memory of 1."""
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)

    def response(u: Tensor, memory: Tensor) -> tuple[float, float]:
        x = Signal(w=zero, g=u, d=1.0, v=u, rate=0.0, shrink=None)
        x, s = line.stage.apply(x, slots._replace(memory=memory), c, WHOLE_TENSOR)
        return float(x.v), float(s.memory)

    gain, feed = response(one, zero)
    carry, pole = response(zero, one)
    return Coefficients(gain, carry, pole, feed)
