"""Elementwise rates and exact predictions of the next step, from the stages of the method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dashpot.analysis.linear_form import LinearForm, linear_form
from dashpot.analysis.quadratic_stability import stability_of
from dashpot.analysis.torch_counterpart import adopted
from dashpot.engine.eager import new_slots, real_view
from dashpot.engine.program import COMPENSATION, WHOLE_TENSOR, StepScalars, prepared_gradient
from dashpot.engine.tensor_table import step_count
from dashpot.optimizers.base import Optimizer
from dashpot.recipes.recipe import Recipe
from dashpot.stages.base import Clock, Signal


class TensorRate(NamedTuple):
    """Step of one tensor at its current gradient and state: w' = w - scale * direction - shrink * w.

    Attributes:
        rate: Elementwise factor scale/d, >= 0, between the filtered gradient and the change; 0-d if d is 1. It excludes
            the bias correction of the filter.
        direction: Filtered gradient divided by the denominators.
        scale: Learning rate including schedule and numerator.
        shrink: Fraction of the weight subtracted by decoupled decay.
    """

    rate: Tensor
    direction: Tensor
    scale: float
    shrink: float


class GroupForm(NamedTuple):
    """Closed form of one parameter group at its current settings.

    Attributes:
        recipe: Recipe of the next step, with schedules applied; its `lr` excludes `factor`.
        factor: Factor of the schedule on the learning rate.
        form: Linear form of the recipe: filter and decay.
        edge: Largest stable value of rate/d times (curvature + coupled decay), or None if unknown.
        reasons: Reasons why the edge is None, as sentences.
    """

    recipe: Recipe
    factor: float
    form: LinearForm
    edge: float | None
    reasons: tuple[str, ...]


class RateView:
    """Rates of an optimizer of dashpot or torch. Valid only within a step, before the update.

    Args:
        optimizer: The optimizer.

    Attributes:
        view: The optimizer as dashpot's class, or None.
        reason: Reason why there are no rates, or None.
    """

    def __init__(self, optimizer: Any) -> None:
        self.view: Optimizer | None = adopted(optimizer)
        name = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
        self.reason = None if self.view is not None else f"The update rule of {name} is unknown."
        self.grad_scale = getattr(optimizer, "grad_scale", None)

    def groups(self) -> Iterator[tuple[int, GroupForm]]:
        """Yield the index and the closed form of each group."""
        for index in range(len(self.view.param_groups) if self.view is not None else 0):
            yield index, self.group(index)

    def group(self, index: int) -> GroupForm:
        """Return the closed form of a group."""
        assert self.view is not None
        plan = self.view._plan_group(index, self.view.steps_done())
        form = linear_form(plan.recipe)
        found = stability_of(form, None, None)
        return GroupForm(plan.recipe, float(plan.factor), form, found.largest_product, found.reasons)

    @torch.no_grad()
    def tensor(self, index: int, p: Tensor) -> TensorRate | None:
        """Return the next step of a parameter of group `index`; None without a dense gradient.

        The stages of the recipe are applied to the current gradient and state, in the dtype of the weight, without
        changing them.
        """
        if p.grad is None or p.grad.layout is not torch.strided or self.view is None:
            return None
        view, state = self.view, self.view.state.get(p, {})
        plan = view._plan_group(index, view.steps_done())
        clock = Clock(step_count(state) + 1, plan.recipe.lr, plan.factor, plan.window)
        loss_scale = 1.0 if self.grad_scale is None else float(self.grad_scale)
        scale = (-1.0 if plan.maximize else 1.0) / loss_scale
        scalars = StepScalars(clock, plan.recipe.scalars(clock), scale, view.options.clip_value)
        signal = _applied(plan.recipe, scalars, p, p.grad, state)
        kappa = float(signal.rate) * float(plan.factor)
        d = torch.as_tensor(signal.d, dtype=signal.w.dtype, device=signal.w.device)
        rate = torch.where(d > 0, kappa / d, 0.0)
        shrink = 0.0 if signal.shrink is None else float(signal.shrink)
        return TensorRate(rate, signal.v, kappa, shrink)


def _applied(recipe: Recipe, scalars: StepScalars, p: Tensor, grad: Tensor, state: Any) -> Signal:
    """Return the signal after all stages."""
    fresh = new_slots(recipe, p)
    slots = {key: real_view(state.get(key, value)) for key, value in fresh.items() if key != COMPENSATION}
    w = _at_least_1d(real_view(p.detach()))
    g = prepared_gradient(_at_least_1d(real_view(grad.detach())), scalars)
    x = Signal(w=w, g=g, d=1.0, v=g, rate=scalars.clock.lr, shrink=None)
    for line, c in zip(recipe.bound_stages, scalars.stages, strict=True):
        x, _ = line.stage.apply(x, line.state_type(*(slots[key] for key in line.keys)), c, WHOLE_TENSOR)
    return x


def _at_least_1d(x: Tensor) -> Tensor:
    return x.view(1) if x.dim() == 0 else x
