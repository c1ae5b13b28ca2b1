"""One step of an optimizer: planning, checks, the decision whether to skip, and the update.

The optimizer provides the settings of its groups. This module collects the tensors, completes their state, and runs
everything that can raise an exception before the first write.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from dashpot.engine import dtensor
from dashpot.engine.dry_run import dry_run_stages
from dashpot.engine.group_step import GroupStep, Step
from dashpot.engine.program import StepScalars
from dashpot.engine.rollback import Rollback
from dashpot.engine.rounding import seed_word, stream
from dashpot.engine.sharding import Sharding
from dashpot.engine.stage_errors import has_custom_stages
from dashpot.engine.tensor_table import step_count
from dashpot.errors import ArgumentError
from dashpot.optimizers import cuda_graph
from dashpot.optimizers.grad_check import StepDecision, check_gradients
from dashpot.optimizers.initial_state import complete_state, set_step_count
from dashpot.optimizers.state_dict.counts import checked_count
from dashpot.optimizers.steppable import Steppable
from dashpot.recipes.recipe import Recipe
from dashpot.stages.base import Clock, Stage
from dashpot.utils.scalars import is_immutable

UNSHARDED = Sharding()
_NONE = type(None)


class Stepper:
    """The step of one optimizer, with a cache of the scalars of the last step."""

    def __init__(self) -> None:
        self._recent: dict[Any, tuple[tuple[Stage, ...], StepScalars]] = {}  # from the last step: most counts recur

    def take(self, optimizer: Steppable, done: int) -> StepDecision:
        """Step every parameter that has a gradient. If the step raises or is skipped, nothing is changed.

        Args:
            optimizer: The optimizer.
            done: Number of steps taken before this one.
        """
        if cuda_graph.capturing():
            raise ArgumentError(f"{type(optimizer).__name__}: a CUDA graph can record a step only if capturable=True.")
        step, rollback = self._collect(optimizer, done), Rollback(optimizer.state)
        try:
            self._prepare(optimizer, step, rollback)
            decision = check_gradients(optimizer.options, optimizer._backend, step, optimizer._scaler())
            if not decision.skip:
                self._run(optimizer, step, decision, rollback)
        except BaseException:
            rollback()
            raise
        if decision.skip:
            rollback()
            return decision
        for group in optimizer.param_groups if step.groups else ():
            group["steps_done"] = done + 1
        return decision

    def _collect(self, optimizer: Steppable, done: int) -> Step:
        """Collect the parameters that have a gradient and the plans of their groups."""
        groups: list[GroupStep] = []
        owners: list[Tensor] = []
        wholes: list[Any] = []
        indices: list[int] = []
        before = 0
        for index, group in enumerate(optimizer.param_groups):
            params = group["params"]
            grads = [p.grad for p in params]
            at = range(len(grads))
            if _NONE in map(type, grads):  # `None in grads` would compare tensors
                at = [i for i in at if grads[i] is not None]
            if at:
                start = len(owners)
                owners += params if len(at) == len(params) else [params[i] for i in at]
                wholes += grads if len(at) == len(params) else [grads[i] for i in at]
                indices += [before + i for i in at]
                groups.append(GroupStep(index, group, start, len(owners), optimizer._plan_group(index, done)))
            before += len(params)
        params, grads = dtensor.to_local(type(optimizer).__name__, owners, wholes)
        recipes = [group.plan.recipe for group in groups for _ in range(group.start, group.stop)]
        return Step(
            groups,
            owners,
            params,
            grads,
            indices,
            self._states(optimizer, owners),
            optimizer.options.storage,
            UNSHARDED if params is owners else Sharding(owners, recipes),
            np.zeros(len(owners), dtype=np.int64),
        )

    def _states(self, optimizer: Steppable, owners: list[Tensor]) -> list[dict[str, Any]]:
        """Return the state of each parameter, or an empty dict if it has none."""
        states = optimizer.state
        if len(states) == len(owners) and list(map(id, states)) == list(map(id, owners)):
            found = list(states.values())
        else:
            by_identity = dict(zip(map(id, states), states.values(), strict=True))
            found = [by_identity.get(id(p), {}) for p in owners]
        return dtensor.local_states(owners, found) if dtensor.has_dtensor(owners) else found

    def _prepare(self, optimizer: Steppable, step: Step, rollback: Rollback) -> None:
        """Check the parameters, complete their state, and compute the scalars."""
        owner, is_sharded = type(optimizer).__name__, step.params is not step.owners

        def complete(i: int) -> None:
            p, recipe = step.owners[i], step.group_of()[i].plan.recipe
            optimizer._check_gradient(p)
            before = optimizer.state.get(p, {})
            dtensor.check_sharding(owner, p, before)
            dry_run_stages(recipe, step.params[i], step.grads[i])
            rollback.save_state(p)
            count = _checked_count(owner, before["step"]) if "step" in before else step_count(before)
            state = complete_state(optimizer, recipe, p, step.storage(step.params[i].dtype))
            step.states[i] = dtensor.local_states([p], [state])[0] if is_sharded else state
            set_step_count(state, count)

        optimizer._backend.prepare(step, complete)
        self._compute_scalars(optimizer, step)
        optimizer._backend.check(step)

    def _compute_scalars(self, optimizer: Steppable, step: Step) -> None:
        """Compute the scalars of each group, with one set for each distinct step count."""
        counts, everywhere = _step_counts(optimizer, step)
        for count in everywhere:
            _checked_count(type(optimizer).__name__, count)
        known: dict[Any, list[StepScalars]] = {}
        recent: dict[Any, tuple[tuple[Stage, ...], StepScalars]] = {}
        for group in step.groups:
            distinct = everywhere
            if len(everywhere) > 1:
                own = counts[group.start : group.stop].tolist()
                distinct = list(dict.fromkeys(own))
                number = {count: n for n, count in enumerate(distinct)}
                step.scalars_index[group.start : group.stop] = list(map(number.__getitem__, own))
            recipe, plan = group.plan.recipe, group.plan
            values = id(recipe.stages), recipe.lr, plan.factor, plan.window, plan.maximize, group.group.get("seed")
            key = *values, *distinct
            if key not in known:
                limit = optimizer.options.clip_value
                known[key] = [self._scalars(group, (*values, limit, count), recent) for count in distinct]
            group.scalars = known[key]
        self._recent = recent if len(everywhere) > 1 else {}

    def _scalars(self, group: GroupStep, key: tuple[Any, ...], recent: dict[Any, Any]) -> StepScalars:
        """Return the scalars for one step count. The scalars of the last step are reused if all inputs are equal."""
        found = self._recent.get(key)
        if found is None:
            recipe, (seed, limit, count) = group.plan.recipe, key[-3:]
            clock = Clock(int(count) + 1, recipe.lr, group.plan.factor, group.plan.window)
            rng_key = 0 if seed is None else int(stream(seed_word(seed), clock.t))
            found = recipe.stages, StepScalars(clock, recipe.scalars(clock), clip_value=limit, rng_key=rng_key)
            if not _is_pure(recipe):
                return found[1]
        recent[key] = found  # keeps the stages alive, so that no other object gets the same id
        return found[1]

    def _run(self, optimizer: Steppable, step: Step, decision: StepDecision, rollback: Rollback) -> None:
        """Update the tensors: first by the steps that can raise an error, then by kernels."""
        backend, observes = optimizer._backend, optimizer._has_products()
        eager = backend.tensor_table.eager_positions()
        rollback.save_values(step, range(len(step.params)) if observes else eager)
        if observes:
            optimizer._observe_products(step)
        _scale(step, decision.scale)
        if eager:
            backend.run_eager(step, eager)
        backend.run_kernels(step)
        if step.params is not step.owners:
            dtensor.increment_versions(step.owners)


def _step_counts(optimizer: Steppable, step: Step) -> tuple[np.ndarray, list[float]]:
    """Return the step count of each parameter, which is only valid if counts differ, and the distinct step counts."""
    table = optimizer._backend.tensor_table
    others = {i: float(step_count(step.states[i])) for i in table.fallbacks}
    everywhere = set(others.values()).union(*(args.counts.tolist() for args in table.kernel_args))
    counts = np.zeros(len(step.params))
    if len(everywhere) > 1:
        for args in table.kernel_args:
            counts[args.positions] = args.counts
        counts[list(others)] = list(others.values())
    return counts, list(everywhere)


def _is_pure(recipe: Recipe) -> bool:
    """Check that the scalars of a recipe depend only on the clock: no stage is custom, and no setting is a tensor."""
    values = (recipe.lr, *(value for stage in recipe.bound_stages for value in stage.settings))
    return all(map(is_immutable, values)) and not has_custom_stages(recipe)


def _scale(step: Step, scale: Any) -> None:
    """Set the factor on the gradients of every group. The factor is negative if the group maximizes."""
    is_one = type(scale) is float and scale == 1.0
    for group in {id(g.scalars): g for g in step.groups if g.plan.maximize or not is_one}.values():
        group.scalars[:] = [s._replace(scale=-scale if group.plan.maximize else scale) for s in group.scalars]


def _checked_count(owner: str, count: Any) -> int:
    return checked_count(owner, "state 'step'", count)
