"""Replay of the sampled elements of a step in float64, for the optimizers of dashpot and torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from dashpot.analysis.linear_form import linear_form
from dashpot.analysis.step_forms import step_form
from dashpot.analysis.step_recording import constant_settings
from dashpot.analysis.step_replay import LinearStep, StepInputs, replay
from dashpot.engine.program import COMPENSATION, StepScalars, advance, prepared_gradient
from dashpot.engine.tensor_table import step_count
from dashpot.recipes.recipe import Recipe
from dashpot.stages.base import Clock
from dashpot.watching.dynamics_samples import Bucket, buckets, measurable, unreplayable

if TYPE_CHECKING:
    from dashpot.watching.watcher import Watcher


class Snapshot(NamedTuple):
    """A bucket before its step.

    Attributes:
        bucket: The parameters.
        recipe: Recipe of the step.
        clock: Scalars of the step.
        sign: -1 if the group maximizes, otherwise 1.
        clip_value: Bound on the elements of the gradient, or None.
        w: Weights, including stored rounding errors.
        slots: State by key, with initial values where it does not exist yet.
        counts: Whether the state contains step counts.
        nominal: Learning rate times schedule.
        reason: Reason why the method has no first-order recursion, or None.
    """

    bucket: Bucket
    recipe: Recipe
    clock: Clock
    sign: float
    clip_value: Any
    w: Tensor
    slots: dict[str, Tensor]
    counts: bool
    nominal: float
    reason: str | None


class Replayed(NamedTuple):
    """The step of a bucket.

    Attributes:
        dw: Measured change of the stored weights.
        g: Gradient, without loss scale and `max_norm`.
        update: Exact change, before rounding.
        step: The step as a linear function, or None.
        settings: Pole and zero of a filter with a constant pole, or None.
        direction: Unit-gain filtered gradient over the denominators, or None.
        predicted: Learning rate times schedule, numerator and DC gain, or None.
        decay: Fraction of the weight that decay subtracts.
        clip: Factor of `max_norm`.
    """

    dw: Tensor
    g: Tensor
    update: Tensor
    step: LinearStep | None
    settings: tuple[float, float] | None
    direction: Tensor | None
    predicted: float | None
    decay: float
    clip: float


def snapshots(watcher: Watcher) -> list[Snapshot]:
    """Return the buckets of an optimizer before its step; empty for an unknown update rule."""
    view = watcher.rates().view
    found: list[Snapshot] = []
    if view is None:
        return found
    done = view.steps_done()
    for index, group in enumerate(view.param_groups):
        plan = view._plan_group(index, done)
        members = [p for p in group["params"] if measurable(p) is None and unreplayable(p, plan.recipe) is None]
        keys = [(step_count(view.state.get(p, {})), p.grad is None) for p in members]
        for bucket in buckets(index, plan.recipe, zip(members, keys, strict=True)):
            states = [view.state.get(p, {}) for p in bucket.params]
            clock = Clock(step_count(states[0]) + 1, plan.recipe.lr, plan.factor, plan.window)
            found.append(
                Snapshot(
                    bucket,
                    plan.recipe,
                    clock,
                    -1.0 if plan.maximize else 1.0,
                    view.options.clip_value,
                    _weights(bucket, states),
                    _slots(bucket, plan.recipe, states),
                    "step" in states[0],
                    float(plan.recipe.lr) * float(plan.factor),
                    step_form(plan.recipe).reason,
                )
            )
    return found


def omission(watcher: Watcher) -> str | None:
    """Return the reason why all parameters were omitted, that of the first one, or None."""
    view = watcher.rates().view
    if view is None:
        return None
    for index, group in enumerate(view.param_groups):
        recipe = view._plan_group(index, view.steps_done()).recipe
        for p in group["params"]:
            reason = measurable(p) or unreplayable(p, recipe)
            if reason is not None:
                return reason
    return None


def replayed(watcher: Watcher, item: Snapshot) -> Replayed | None:
    """Return the step of a bucket after it was taken; None if it was not, or if gradients are missing or sparse."""
    bucket, optimizer = item.bucket, watcher.optimizer
    states = [optimizer.state.get(p, {}) for p in bucket.params]
    grads = [p.grad for p in bucket.params if p.grad is not None and p.grad.layout == torch.strided]
    if len(grads) < len(bucket.params) or _skipped(optimizer, item, states):
        return None
    scale, clip = _scale(optimizer)
    scalars = StepScalars(item.clock, item.recipe.scalars(item.clock), scale * item.sign, item.clip_value)
    slots = {**item.slots, **_observed(bucket, item.recipe, states)}
    inputs = StepInputs(item.recipe, scalars, item.w, bucket.gather(grads), slots)
    dw = _weights(bucket, states) - item.w
    found = _result(item, inputs, dw, clip)
    return found._replace(g=found.g * (scale / clip) if clip else found.g)


def _result(item: Snapshot, inputs: StepInputs, dw: Tensor, clip: float) -> Replayed:
    recipe, scalars = inputs.recipe, inputs.scalars
    g = prepared_gradient(inputs.g, scalars)
    update = advance(recipe.bound_stages, scalars, inputs.w, g, inputs.state)[0] - inputs.w
    form = step_form(recipe)
    if item.reason is not None:
        return Replayed(dw, inputs.g, update, None, None, None, None, 0.0, clip)
    step = replay(inputs, form)
    gain = _dc_gain(recipe)
    direction = None if not gain else step.factor * step.y / gain
    decay = float(step.shrink.flatten()[0])
    predicted = step.rate * gain if gain else None
    return Replayed(dw, inputs.g, update, step, constant_settings(inputs, form), direction, predicted, decay, clip)


def _dc_gain(recipe: Recipe) -> float | None:
    section = linear_form(recipe).filter
    return None if section is None else section.dc_gain


def _weights(bucket: Bucket, states: list[Mapping[str, Any]]) -> Tensor:
    w = bucket.gather(bucket.params)
    if all(COMPENSATION in state for state in states):
        w = w + bucket.gather([state[COMPENSATION] for state in states])
    return w


def _slots(bucket: Bucket, recipe: Recipe, states: list[Mapping[str, Any]]) -> dict[str, Tensor]:
    return {slot.key: _slot(bucket, slot, states) for slot in recipe.slots}


def _slot(bucket: Bucket, slot: Any, states: list[Mapping[str, Any]]) -> Tensor:
    values = [state.get(slot.key) for state in states]
    present = [x for x in values if isinstance(x, Tensor)]
    if slot.shape == "per_tensor":
        value = present[0].detach() if present else torch.tensor(slot.initial)
        return value.cpu().to(torch.float64, copy=True)
    if len(present) < len(values):
        return torch.full((sum(bucket.sizes),), slot.initial, dtype=torch.float64)
    return bucket.gather(present)


def _observed(bucket: Bucket, recipe: Recipe, states: list[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return the slots of Hessian-vector products, which are observed within the step, before the stages."""
    keys = {key for line in recipe.bound_stages if line.stage.observes for key in line.keys}
    return {slot.key: _slot(bucket, slot, states) for slot in recipe.slots if slot.key in keys}


def _skipped(optimizer: Any, item: Snapshot, states: list[Mapping[str, Any]]) -> bool:
    if bool(getattr(optimizer, "found_inf", None)):
        return True
    return any("step" in state and int(step_count(state)) != item.clock.t for state in states)


def _scale(optimizer: Any) -> tuple[float, float]:
    """Return the factor on the gradients within the step, and that of `max_norm` in it."""
    loss_scale = getattr(optimizer, "grad_scale", None)
    inverse = 1.0 if loss_scale is None else 1.0 / float(loss_scale)
    decision = getattr(optimizer, "_decision", None)
    if decision is None:  # of torch, whose fused steps divide the gradients by the loss scale in place
        return 1.0, 1.0
    return float(decision.scale), float(decision.scale) / inverse
