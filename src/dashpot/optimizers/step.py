"""One step of an optimizer's groups: planned, checked, judged, run.

The optimizer says what the settings are and which gradients it takes; here is which tensors step together and in which
order things happen, so that whatever can be refused is refused before anything is written.
"""

from __future__ import annotations

import operator
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from dashpot.engine import dtensor
from dashpot.engine.dry_run import dry_run_stages
from dashpot.engine.eager import new_slots
from dashpot.engine.group_step import GroupStep, Kind, Step
from dashpot.engine.native.kernel import active_stages, structure
from dashpot.engine.program import StepScalars, StorageFormat
from dashpot.engine.rollback import Undo, has_custom_stages, restore_on_error
from dashpot.engine.rounding import seed_word, stream
from dashpot.engine.sharding import Sharding
from dashpot.engine.tensor_table import TensorTable, step_count
from dashpot.errors import ArgumentError
from dashpot.optimizers import cuda_graph
from dashpot.optimizers.grad_check import StepDecision, check_gradients
from dashpot.optimizers.state_dict.counts import checked_count
from dashpot.recipes.recipe import Recipe
from dashpot.stages.base import Clock, Slot, Stage

if TYPE_CHECKING:
    from dashpot.optimizers.base import Optimizer

__all__ = ["Stepper", "complete_state", "ordinals", "reject_state_init_in_graph", "with_gradients"]


_UNSHARDED = Sharding()
_NONE = type(None)


class _Settled(NamedTuple):
    """What was in force for a group, and the values that it follows from."""

    names: tuple[str, ...]
    values: list[Any]
    found: tuple[Recipe, Any, Any]


class Stepper:
    """Takes the steps of one optimizer; `roster` holds what is known about its tensors."""

    def __init__(self) -> None:
        self.tensor_table = TensorTable()
        self._settled: dict[int, _Settled] = {}
        self._kinds: dict[int, tuple[tuple[Stage, ...], Kind]] = {}
        self._recent: dict[Any, tuple[tuple[Stage, ...], StepScalars]] = {}
        """The numbers of the last step, where counts differ: most of the counts come again."""

    def take(self, optimizer: Optimizer, done: int) -> StepDecision:
        """One step of every parameter with a gradient. What can be refused is refused before anything is written."""
        if cuda_graph.capturing():
            raise ArgumentError(
                f"{type(optimizer).__name__}: a CUDA graph can record a step with capturable=True only."
            )
        step, undo = self._gathered(optimizer, done), Undo(optimizer.state)
        try:
            self._made_ready(optimizer, step, undo)
            decision = check_gradients(
                optimizer.options, optimizer._backend, step, self.tensor_table, optimizer._scaler()
            )
            if not decision.skip:
                self._run(optimizer, step, decision)
        except BaseException:
            undo()
            raise
        if decision.skip:
            undo()
            return decision
        for group in optimizer.param_groups if step.parts else ():
            group["steps_done"] = done + 1
        return decision

    def _gathered(self, optimizer: Optimizer, done: int) -> Step:
        """The parameters with gradients, and the recipes in force."""
        groups = optimizer.param_groups
        parts: list[GroupStep] = []
        owners: list[Tensor] = []
        wholes: list[Any] = []
        numbers: list[int] = []
        before = 0
        for place, group in enumerate(groups):
            params = group["params"]
            grads = [p.grad for p in params]
            at = range(len(grads))
            if _NONE in map(type, grads):  # `None in grads` would compare tensors
                at = [i for i in at if grads[i] is not None]
            if at:
                start = len(owners)
                owners += params if len(at) == len(params) else [params[i] for i in at]
                wholes += grads if len(at) == len(params) else [grads[i] for i in at]
                numbers += [before + i for i in at]
                parts.append(self._part(optimizer, place, group, start, len(owners), done))
            before += len(params)
        params, grads = dtensor.to_local(type(optimizer).__name__, owners, wholes)
        return Step(
            parts,
            owners,
            params,
            grads,
            numbers,
            self._states(optimizer, owners),
            optimizer.options.storage,
            Sharding(owners, [part.recipe for part in parts for _ in range(part.start, part.stop)])
            if params is not owners
            else _UNSHARDED,
            np.zeros(len(owners), dtype=np.int64),
        )

    def _part(
        self, optimizer: Optimizer, place: int, group: dict[str, Any], start: int, stop: int, done: int
    ) -> GroupStep:
        recipe, factor, window = self._resolve_group(optimizer, place, group, done)
        return GroupStep(
            place, group, start, stop, recipe, self._kind(place, recipe), factor, window, optimizer._maximizes(group)
        )

    def _resolve_group(
        self, optimizer: Optimizer, place: int, group: dict[str, Any], done: int
    ) -> tuple[Recipe, Any, Any]:
        """What `optimizer._in_force` gives, looked up where the group holds the very values of the last step."""
        known = self._settled.get(place)
        if known is not None and all(map(operator.is_, known.values, map(group.get, known.names))):
            return known.found
        optimizer._check_settings({name: group[name] for name in optimizer._FLAGS if name in group})
        found = optimizer._resolve_group(group, done)
        names = (*optimizer._settings(group), *optimizer._FLAGS, "max_lr", "initial_lr")
        values = [group.get(name) for name in names]
        self._settled.pop(place, None)
        if not optimizer._schedule and all(map(_is_fixed, values)):
            self._settled[place] = _Settled(names, values, found)
        return found

    def _kind(self, place: int, recipe: Recipe) -> Kind:
        known = self._kinds.get(place)
        if known is None or known[0] is not recipe.stages:
            kind = Kind(structure(recipe), active_stages(recipe))
            if known is not None and known[1] == kind:
                kind = known[1]
            known = self._kinds[place] = recipe.stages, kind
        return known[1]

    def _states(self, optimizer: Optimizer, owners: list[Tensor]) -> list[dict[str, Any]]:
        """The state of each parameter, an empty one where there is none yet."""
        states = optimizer.state
        if len(states) == len(owners) and list(map(id, states)) == list(map(id, owners)):
            found = list(states.values())
        else:
            by_identity = dict(zip(map(id, states), states.values(), strict=True))
            found = [by_identity.get(id(p), {}) for p in owners]
        return dtensor.local_states(owners, found) if dtensor.has_dtensor(owners) else found

    def _made_ready(self, optimizer: Optimizer, step: Step, undo: Undo) -> None:
        """Check every parameter, complete its state, and number the step."""
        owner, parts = type(optimizer).__name__, step.part_of()
        is_divided = step.params is not step.owners

        def make(i: int) -> None:
            p = step.owners[i]
            optimizer._check_gradient(p)
            before = optimizer.state.get(p, {})
            dtensor.check_sharding(owner, p, before)
            dry_run_stages(parts[i].recipe, step.params[i], step.grads[i])
            undo.remember(p)
            count = _checked_count(owner, before["step"]) if "step" in before else step_count(before)
            state = complete_state(optimizer, parts[i].recipe, p, step.storage(step.params[i].dtype))
            step.states[i] = dtensor.local_states([p], [state])[0] if is_divided else state
            _keep_count(state, count)

        recorded = "the step is recorded for autograd" if torch.is_grad_enabled() else None
        self.tensor_table.update(step, make, recorded or optimizer._backend.fallback_reason())
        self._number(optimizer, step)
        optimizer._backend.check(step, self.tensor_table)

    def _number(self, optimizer: Optimizer, step: Step) -> None:
        """Each part's numbers, one set for each count of steps among its parameters."""
        found, everywhere = self._counts(step)
        for count in everywhere:
            _checked_count(type(optimizer).__name__, count)
        known: dict[Any, list[StepScalars]] = {}
        recent: dict[Any, tuple[tuple[Stage, ...], StepScalars]] = {}
        for part in step.parts:
            distinct = everywhere
            if len(everywhere) > 1:
                counts = found[part.start : part.stop].tolist()
                distinct = list(dict.fromkeys(counts))
                number = {count: n for n, count in enumerate(distinct)}
                step.which[part.start : part.stop] = list(map(number.__getitem__, counts))
            seed = part.group.get("seed")
            key = id(part.recipe.stages), part.recipe.lr, part.factor, part.window, part.ascends, seed, *distinct
            if key not in known:
                known[key] = [
                    self._numbered(optimizer, part, (*key[:6], optimizer.options.clip_value, count), recent)
                    for count in distinct
                ]
            part.scalars = known[key]
        self._recent = recent if len(everywhere) > 1 else {}

    def _numbered(
        self, optimizer: Optimizer, part: GroupStep, key: tuple[Any, ...], recent: dict[Any, Any]
    ) -> StepScalars:
        """The numbers of one count, those of the last step where they follow from the same values."""
        stages, seed, count = part.recipe.stages, key[5], key[-1]
        held = self._recent.get(key)
        if held is None:
            held = stages, _numbers(optimizer, part, int(count) + 1, seed)
            if not _is_pure(part.recipe):
                return held[1]
        recent[key] = held
        return held[1]

    def _counts(self, step: Step) -> tuple[np.ndarray, list[float]]:
        """(each parameter's count of steps, the different ones); nearly always they are all the same."""
        others = {i: float(step_count(step.states[i])) for i in self.tensor_table.fallbacks}
        everywhere = set(others.values()).union(*(table.counts.tolist() for table in self.tensor_table.kernel_args))
        counts = np.zeros(len(step.params))
        if len(everywhere) > 1:
            for table in self.tensor_table.kernel_args:
                counts[table.positions] = table.counts
            counts[list(others)] = list(others.values())
        return counts, list(everywhere)

    def _run(self, optimizer: Optimizer, step: Step, decision: StepDecision) -> None:
        """Write: first what can still fail, which is then taken back."""
        left = self.tensor_table.left()
        observing = optimizer._has_products()
        with restore_on_error(step, range(len(step.params)) if observing else left):
            if observing:
                optimizer._observe_products(step)
            _scale(step, decision.scale)
            if left:
                optimizer._backend.run_eager(step, left)
        optimizer._backend.run_kernels(self.tensor_table, step)
        if step.params is not step.owners:
            dtensor.increment_versions(step.owners)


def _is_fixed(value: Any) -> bool:
    """True for a value that nobody can change in place."""
    return isinstance(value, (int, float, str, NoneType)) or (isinstance(value, tuple) and all(map(_is_fixed, value)))


def _is_pure(recipe: Recipe) -> bool:
    """True where a recipe's scalars follow from the clock alone: stages of ours, with settings that are numbers."""
    values = (recipe.lr, *(value for line in recipe.bound_stages for value in line.settings))
    return all(map(_is_fixed, values)) and not has_custom_stages(recipe)


def _scale(step: Step, scale: Any) -> None:
    """Multiply the gradients of every part by `scale`, or by its negative to ascend."""
    plain = type(scale) is float and scale == 1.0
    for part in {id(part.scalars): part for part in step.parts if part.ascends or not plain}.values():
        part.scalars[:] = [n._replace(scale=-scale if part.ascends else scale) for n in part.scalars]


def _numbers(optimizer: Optimizer, part: GroupStep, t: int, seed: int | None) -> StepScalars:
    clock = Clock(t, part.recipe.lr, part.factor, part.window)
    rng_key = 0 if seed is None else int(stream(seed_word(seed), t))
    return StepScalars(clock, part.recipe.scalars(clock), clip_value=optimizer.options.clip_value, rng_key=rng_key)


def ordinals(optimizer: Optimizer, index: int) -> list[int]:
    """The number of each of a group's parameters with a gradient among all parameters of the optimizer."""
    before = sum(len(group["params"]) for group in optimizer.param_groups[:index])
    return [before + i for i, p in enumerate(optimizer.param_groups[index]["params"]) if p.grad is not None]


def complete_state(optimizer: Optimizer, recipe: Recipe, p: Tensor, storage: StorageFormat) -> dict[str, Any]:
    """The state of a parameter, with what it lacks of the recipe's slots made.

    Raises `ArgumentError` for what was put in a slot's place and cannot be stepped.
    """
    state = optimizer.state[p]
    for slot in storage.slots(recipe):
        if slot.key in state:
            _check_kept(type(optimizer).__name__, slot, state[slot.key], p)
    if any(slot.key not in state for slot in storage.slots(recipe)):
        reject_state_init_in_graph(optimizer)
        with torch.inference_mode(False):  # state outlives the mode it is made in
            for key, value in new_slots(recipe, p, storage).items():
                state.setdefault(key, value)
    return state


def _check_kept(owner: str, slot: Slot, value: Any, p: Tensor) -> None:
    """Refuse a slot's value that the step could not read or write."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        got = f"layout {value.layout}" if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(f"{owner}: state {slot.key!r} must be a dense tensor, got {got}; clear it to start anew.")
    if slot.shape == "elementwise" and value.shape != p.shape:
        raise ArgumentError(
            f"{owner}: state {slot.key!r} must have its parameter's shape {tuple(p.shape)}, "
            f"got {tuple(value.shape)}; reshape the state as well, or clear it."
        )
    if value.device != p.device:
        raise ArgumentError(
            f"{owner}: state {slot.key!r} must be on its parameter's device, {p.device}, got {value.device}."
        )
    is_complex = slot.shape == "elementwise" and p.is_complex()
    if not (value.is_complex() if is_complex else value.is_floating_point()):
        kind = "complex" if is_complex else "real"
        raise ArgumentError(f"{owner}: state {slot.key!r} must be a {kind} floating tensor, got {value.dtype}.")
    if (is_complex and value.is_conj()) or _repeats(value):
        raise ArgumentError(
            f"{owner}: state {slot.key!r} must have elements of its own, got a conjugated or expanded view; "
            "put a clone in its place."
        )


def _repeats(x: Tensor) -> bool:
    """True where several elements lie at one address."""
    return not x.is_contiguous() and any(s == 0 and n > 1 for s, n in zip(x.stride(), x.shape, strict=True))


def _checked_count(owner: str, count: Any) -> int:
    return checked_count(owner, "state 'step'", count)


def _keep_count(state: dict[str, Any], count: int) -> None:
    """Keep the count of steps as torch does: a 0-d float32 tensor on the CPU, with memory of its own."""
    step = state.get("step")
    fits = type(step) is Tensor and step.dim() == 0 and step.dtype == torch.float32 and step.device.type == "cpu"
    if not fits or step.is_inference() or step.untyped_storage().nbytes() > step.nbytes:  # pyright: ignore[reportOptionalMemberAccess]
        with torch.inference_mode(False):
            state["step"] = torch.tensor(float(count), dtype=torch.float32, device="cpu")


def reject_state_init_in_graph(optimizer: Optimizer) -> None:
    """Raise `ArgumentError` where a CUDA graph records: state must be there before."""
    if cuda_graph.capturing():
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
