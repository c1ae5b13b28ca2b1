"""One step of an optimizer's groups: planned, checked, judged, run.

The optimizer says what the settings are and which gradients it takes; here is which tensors step together and in which
order things happen, so that whatever can be refused is refused before anything is written.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from dashpot.engine import capture, mesh
from dashpot.engine.division import Division, numbered
from dashpot.engine.eager import new_slots
from dashpot.engine.gate import Verdict, judge
from dashpot.engine.parts import Part
from dashpot.engine.program import Numbers, Storage
from dashpot.engine.rehearsal import rehearse
from dashpot.engine.roster import Roster, step_count
from dashpot.engine.rounding import seed_word, stream
from dashpot.errors import ArgumentError, NonFiniteError
from dashpot.recipe import Recipe
from dashpot.stages.base import Clock

if TYPE_CHECKING:
    from dashpot.optim import Optimizer

__all__ = ["Stepper", "ordinals", "refuse_first_step_in_a_graph", "with_gradients", "with_slots"]


class _Plan(NamedTuple):
    """What a step will do to a group, settled before anything is written; `roster` where the last one still fits.

    `params` and `grads` are what is in this process: of the `owners`, or of their gradients, where those are DTensors.
    """

    place: int
    group: dict[str, Any]
    recipe: Recipe
    owners: list[Tensor]
    params: list[Tensor]
    grads: list[Tensor]
    counts: np.ndarray
    numbers: list[Numbers]
    which: np.ndarray
    roster: Roster | None


class Stepper:
    """Takes the steps of one optimizer; `rosters` holds what was looked up about each group's tensors."""

    def __init__(self) -> None:
        self.rosters: dict[int, Roster] = {}
        self._states: list[dict[str, Any]] = []

    def take(self, optimizer: Optimizer, done: int) -> Verdict:
        """One step of every parameter with a gradient. What can be refused is refused before anything is written."""
        if capture.capturing():
            raise ArgumentError(
                f"{type(optimizer).__name__}: a CUDA graph can record a step with capturable=True only."
            )
        self._drop_strange_rosters(optimizer)
        plans = [
            plan
            for index, group in enumerate(optimizer.param_groups)
            if (plan := self._planned(optimizer, index, group, done))
        ]
        fresh = [p for plan in plans if plan.roster is None for p in plan.owners if not optimizer.state.get(p)]
        parts = [self._part(optimizer, plan) for plan in plans]
        optimizer._engine.prepare(parts, done)
        try:
            verdict = judge(optimizer.running, optimizer._engine, parts, optimizer._scaler())
        except NonFiniteError:
            self._undo(optimizer, fresh)
            raise
        if verdict.skip:
            self._undo(optimizer, fresh)
            return verdict
        for plan, part in zip(plans, parts, strict=True):
            optimizer._observe(plan.owners, part)
        for plan, part in zip(plans, parts, strict=True):
            optimizer._engine.run(part, verdict.scale)
            mesh.mark_written(plan.owners)
        for group in optimizer.param_groups if parts else ():
            group["steps_done"] = done + 1
        return verdict

    def _drop_strange_rosters(self, optimizer: Optimizer) -> None:
        """Forget what was looked up where the state of any parameter is another dictionary than then."""
        if len(optimizer.state) != len(self._states) or not all(
            map(operator.is_, optimizer.state.values(), self._states)
        ):
            self.rosters.clear()

    def _planned(self, optimizer: Optimizer, index: int, group: dict[str, Any], done: int) -> _Plan | None:
        """What the step will do to a group, or None where it has no gradients."""
        owners, whole = with_gradients(group["params"])
        if not owners:
            return None
        optimizer._check_settings({name: group[name] for name in optimizer._FLAGS if name in group})
        recipe, factor, window = optimizer._in_force(group, done)
        params, grads = mesh.localized(type(optimizer).__name__, owners, whole)
        roster = self.rosters.get(index)
        if roster is not None and roster.fits(recipe, params, grads):
            unchecked, counts = roster.others, roster.steps.numpy()
        else:
            roster, unchecked = None, range(len(params))
            counts = np.array([step_count(optimizer.state.get(p, {})) for p in owners])
        for i in unchecked:
            optimizer._check_gradient(owners[i])
            mesh.check_division(type(optimizer).__name__, owners[i], optimizer.state.get(owners[i], {}))
            rehearse(recipe, params[i], grads[i])
        distinct, which = _distinct(counts)
        numbers = [_numbers(optimizer, recipe, int(count) + 1, factor, window, group) for count in distinct]
        return _Plan(index, group, recipe, owners, params, grads, counts, numbers, which, roster)

    def _part(self, optimizer: Optimizer, plan: _Plan) -> Part:
        """The plan with state for every parameter and a roster that fits."""
        roster = plan.roster
        if roster is None:
            storages = [optimizer.running.storage(p.dtype) for p in plan.params]
            states = [with_slots(optimizer, plan.recipe, p, how) for p, how in zip(plan.owners, storages, strict=True)]
            states = mesh.local_states(plan.owners, states)
            reason = "the step is recorded for autograd" if torch.is_grad_enabled() else optimizer._engine.refusal()
            division = Division(plan.recipe, plan.owners)
            places = list(map(numbered, ordinals(optimizer, plan.place), division.spreads))
            roster = Roster(
                plan.recipe, storages, plan.params, plan.grads, states, plan.counts, places, division, reason
            )
            self.rosters[plan.place] = roster
            self._states = list(optimizer.state.values())
        return Part(
            plan.group,
            plan.recipe,
            plan.params,
            plan.grads,
            roster.states,
            plan.numbers,
            plan.which,
            optimizer._ascends(plan.group),
            roster,
        )

    def _undo(self, optimizer: Optimizer, fresh: list[Tensor]) -> None:
        """Take back the state that was made for a step which is not taken."""
        for p in fresh:
            del optimizer.state[p]
        if fresh:
            self.rosters.clear()


def _numbers(
    optimizer: Optimizer, recipe: Recipe, t: int, factor: Any, window: Any, group: Mapping[str, Any]
) -> Numbers:
    clock = Clock(t, recipe.lr, factor, window)
    seed = group.get("seed")
    word = 0 if seed is None else int(stream(seed_word(seed), t))
    return Numbers(clock, recipe.scalars(clock), limit=optimizer.running.clip_value, word=word)


def ordinals(optimizer: Optimizer, index: int) -> list[int]:
    """The number of each of a group's parameters with a gradient among all parameters of the optimizer."""
    before = sum(len(group["params"]) for group in optimizer.param_groups[:index])
    return [before + i for i, p in enumerate(optimizer.param_groups[index]["params"]) if p.grad is not None]


def with_slots(optimizer: Optimizer, recipe: Recipe, p: Tensor, storage: Storage) -> dict[str, Any]:
    """The state of a parameter, with what it lacks of the recipe's slots made."""
    state = optimizer.state[p]
    if any(slot.key not in state for slot in storage.slots(recipe)):
        refuse_first_step_in_a_graph(optimizer)
        for key, value in new_slots(recipe, p, storage).items():
            state.setdefault(key, value)
    return state


def refuse_first_step_in_a_graph(optimizer: Optimizer) -> None:
    """Raise `ArgumentError` where a CUDA graph records: state must be there before."""
    if capture.capturing():
        raise ArgumentError(
            f"{type(optimizer).__name__}: a CUDA graph cannot record the step that makes the state: "
            "take one with the same parameters before the capture."
        )


def with_gradients(params: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters that have a gradient, and the gradients."""
    grads = [p.grad for p in params]
    if type(None) in map(type, grads):  # `None in grads` would compare tensors
        params = [p for p, g in zip(params, grads, strict=True) if g is not None]
        grads = [g for g in grads if g is not None]
    return params, cast(list[Tensor], grads)


def _distinct(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the different counts, which of them each count is); nearly always they are all the same."""
    if (counts == counts[0]).all():
        return counts[:1], np.zeros(len(counts), dtype=np.int64)
    return np.unique(counts, return_inverse=True)
