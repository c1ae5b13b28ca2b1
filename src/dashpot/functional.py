"""Functional form of the optimizers, as pure functions of recipe, parameters, gradients and state.

The functions can be combined with `torch.func.vmap`, for example to train with many learning rates in one process, and
with `torch.func.grad`, for example to differentiate a whole training run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dashpot.constraints import Interval, check, shown
from dashpot.engine.dry_run import dry_run_stages
from dashpot.engine.eager import new_slots
from dashpot.engine.program import StepScalars, advance, compute_dtype, observe_product
from dashpot.errors import ArgumentError
from dashpot.recipes.recipe import Recipe
from dashpot.stages.base import Clock, Observation
from dashpot.utils.scalars import scalar_dtype

__all__ = ["init", "observe", "update"]


def init(recipe: Recipe, params: Mapping[str, Tensor] | Sequence[Tensor] | Tensor) -> Any:
    """Return the initial state, which has the structure of `params` and contains a dict of slots for each tensor.

    Args:
        recipe: The recipe of the method.
        params: A real tensor, a sequence of real tensors, or a mapping from names to real tensors. Half-precision
            tensors are updated in float32 and rounded once.

    Raises:
        ArgumentError: If a tensor is complex.

    >>> import torch, dashpot as dp
    >>> recipe = dp.Recipe(dp.Filter(pole=0.9), lr=0.1)
    >>> init(recipe, {"w": torch.zeros(2)})
    {'w': {'momentum_buffer': tensor([0., 0.])}}
    """
    if isinstance(params, Mapping):
        return {name: init(recipe, p) for name, p in params.items()}
    if not isinstance(params, Tensor):
        return [init(recipe, p) for p in params]
    if params.is_complex():
        raise ArgumentError("init: params must be real, got a complex tensor; use torch.view_as_real.")
    dry_run_stages(recipe, params)
    return new_slots(recipe, params)


def update(recipe: Recipe, params: Any, grads: Any, state: Any, step: int | Tensor) -> tuple[Any, Any]:
    """Return the pair (new params, new state) after one step, without modifying the arguments.

    Args:
        recipe: The recipe of the method. `lr` and other settings may be tensors that are vmapped or differentiated.
        params: A tensor, or a sequence or mapping of tensors.
        grads: Gradients, with the structure of `params`.
        state: The state returned by `init` or `update`.
        step: Number of completed steps: 0, 1, 2, ... With a 0-d tensor, `torch.compile` compiles the update only once
            for all steps, but schedules are not supported, because they are functions of a Python number.

    Raises:
        ArgumentError: If the structures or shapes differ, or if `step` is not a nonnegative integer.

    Example: one step with sixteen learning rates in parallel.

    >>> import torch, dashpot as dp
    >>> recipe = dp.AdamW.recipe_for(lr=1e-3)
    >>> w = torch.ones(3)
    >>> def first_step(lr):
    ...     return update(recipe.with_settings(lr=lr), w, 2 * w, init(recipe, w), 0)[0]
    >>> torch.func.vmap(first_step)(torch.linspace(0.1, 0.3, 16)).shape
    torch.Size([16, 3])
    """
    return _update(*_at("update", recipe, step), params, grads, state)


def observe(recipe: Recipe, state: Any, probes: Any, products: Any, step: int | Tensor) -> Any:
    """Return the state after observing a Hessian-vector product. Call this before `update` in the same step.

    Args:
        recipe: The recipe of a second-order method, which contains a stage such as `Curvature`. For other methods, the
            state is unchanged.
        state: The state returned by `init` or `update`.
        probes: Probe vectors v, with the structure of the parameters and independent entries of mean 0 and variance 1.
        products: Hessian-vector products H v, with the structure of the parameters.
        step: Number of completed steps, as in `update`.

    >>> import torch, dashpot as dp
    >>> recipe, w, v = dp.Sophia.recipe_for(lr=0.1), torch.ones(2), torch.tensor([1.0, -1.0])
    >>> product = 12 * w**2 * v  # of the Hessian of (w**4).sum()
    >>> observe(recipe, init(recipe, w), v, product, 0)["hess"]
    tensor([0.1200, 0.1200])
    """
    return _observe(*_at("observe", recipe, step), state, probes, products)


def _at(owner: str, recipe: Recipe, step: int | Tensor) -> tuple[Recipe, StepScalars]:
    """Return the recipe with its schedules resolved, and the scalars of the step after `step` completed steps."""
    recipe = recipe.widened()
    if isinstance(step, Tensor):
        _check_step(owner, recipe, step)
        now, factor, t = recipe, 1.0, step.to(scalar_dtype(step.device)) + 1
    else:
        check(owner, "step", step, Interval(0, math.inf, "left", integer=True))
        now, factor = recipe.at(step)
        t = step + 1
    clock = Clock(t=t, lr=now.lr, factor=factor, window=factor)
    return now, StepScalars(clock, now.scalars(clock))


def _observe(recipe: Recipe, scalars: StepScalars, state: Any, probes: Any, products: Any) -> Any:
    if isinstance(probes, Mapping):
        return {k: _observe(recipe, scalars, state[k], probes[k], products[k]) for k in probes}
    if not isinstance(probes, Tensor):
        return [_observe(recipe, scalars, *item) for item in zip(state, probes, products, strict=True)]
    compute = compute_dtype(probes.dtype)
    seen = Observation(probes.to(compute), products.to(compute), probes.dim())
    slots = observe_product(
        recipe.bound_stages, scalars, seen, {key: value.to(compute) for key, value in state.items()}
    )
    return {**state, **{key: value.to(state[key].dtype) for key, value in slots.items()}}


def _check_step(owner: str, recipe: Recipe, step: Tensor) -> None:
    """Validate the type of a tensor `step`, whose value may be unknown during tracing."""
    if step.dim() != 0 or step.is_complex() or step.dtype == torch.bool:
        raise ArgumentError(f"{owner}: step must be an integer or a 0-d tensor, got {shown(step)}.")
    if recipe.schedule:
        raise ArgumentError(
            f"{owner}: step must be an int for a recipe with schedules, got a tensor; "
            "alternatively pass a tensor lr without a schedule."
        )


def _update(recipe: Recipe, scalars: StepScalars, params: Any, grads: Any, state: Any) -> Any:
    if isinstance(params, Mapping):
        if (
            not isinstance(grads, Mapping)
            or not isinstance(state, Mapping)
            or not params.keys() == grads.keys() == state.keys()
        ):
            raise ArgumentError(f"update: grads and state must have the keys of params, {', '.join(map(str, params))}.")
        both = {k: _update(recipe, scalars, params[k], grads[k], state[k]) for k in params}
        return {k: v[0] for k, v in both.items()}, {k: v[1] for k, v in both.items()}
    if not isinstance(params, Tensor):
        pairs = [_update(recipe, scalars, *item) for item in zip(params, grads, state, strict=True)]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if not isinstance(grads, Tensor) or grads.shape != params.shape:
        got = tuple(grads.shape) if isinstance(grads, Tensor) else grads
        raise ArgumentError(
            f"update: a gradient must be a tensor of its parameter's shape {tuple(params.shape)}, got {shown(got)}."
        )
    if params.numel() == 0:
        return params, state
    compute = compute_dtype(params.dtype)
    new, slots = advance(recipe.bound_stages, scalars, params.to(compute), grads.to(compute), state)
    kept = {key: value.to(state[key].dtype) for key, value in slots.items()}
    return new.to(params.dtype), {**state, **kept}
