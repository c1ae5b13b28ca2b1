"""Recording of the parameter changes of a real run, through the step hooks of torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from typing_extensions import Self

from dashpot.analysis.step_forms import StepForm, has_constant_pole, step_form
from dashpot.analysis.step_recursion import Carry, Row, recursion
from dashpot.analysis.step_replay import StepInputs, replay
from dashpot.analysis.torch_counterpart import adopted
from dashpot.constraints import Interval, Optional, check, shown, unknown
from dashpot.engine.dtensor import is_dtensor
from dashpot.engine.eager import new_slots, real_view
from dashpot.engine.program import COMPENSATION, StepScalars, compute_dtype
from dashpot.engine.tensor_table import step_count
from dashpot.errors import ArgumentError
from dashpot.optimizers.base import Optimizer
from dashpot.stages.base import Clock

QUANTITIES = ("e", "r", "alpha", "dw")
STATISTICS = ("sup", "mean", "sd", "norm")
_COUNT = Interval(1, math.inf, "left", integer=True)


class StepRow(NamedTuple):
    """Recorded values of one tensor at one step.

    Attributes:
        step: Step number of the parameter, 1 for its first step.
        lr: Current rate: learning rate, schedule and numerator.
        pole, zero, gain, scale: Coefficients of the recursion.
        constant: Whether pole, zero and gain are those of the unit-DC-gain filter (constant form).
        statistics: `STATISTICS` of each of `QUANTITIES` over all elements.
        kept: Values of the kept elements: those of `QUANTITIES`, "bound" and "w" (before the step).
        error: Largest absolute difference between the recursion and the measured change.
        published_error: Largest absolute difference of the published form, or None for a varying form.
        excess: Largest |dw| - bound.
        resolution: Rounding of the measured changes.
        restarts: Number of elements at which the recursion restarts.
    """

    step: int
    lr: float
    pole: float
    zero: float
    gain: float
    scale: float
    constant: bool
    statistics: dict[str, tuple[float, ...]]
    kept: dict[str, np.ndarray]
    error: float
    published_error: float | None
    excess: float
    resolution: float
    restarts: int


class _Before(NamedTuple):
    w: Tensor
    state: dict[str, Tensor]
    steps: int
    group: int


class StepRecording:
    """Handle of a recording, created by `record_steps`; a context manager that removes the hooks.

    Attributes:
        owner: Class name of the optimizer.
        rows: Recorded rows by name of the tensor.
        shapes: Shape of each recorded tensor by name.
        precisions: Precision of arithmetic and state of each recorded tensor by name, the smallest relative difference.
        every: Number of steps between rows.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, chosen: Mapping[str, Tensor], every: int, elements: int | None
    ) -> None:
        self.owner, self.every = type(optimizer).__name__, every
        self.rows: dict[str, list[StepRow]] = {name: [] for name in chosen}
        self.shapes = {name: tuple(p.shape) for name, p in chosen.items()}
        self.precisions = {name: _precision(optimizer, p) for name, p in chosen.items()}
        self._params = dict(chosen)
        self._kept = {name: _kept_elements(_as_reals(p).numel(), elements) for name, p in chosen.items()}
        self._carry: dict[str, Carry] = {}
        self._before: dict[str, _Before] = {}
        self._plans: dict[int, Any] = {}
        self._calls = 0
        self._first: dict[str, int] = {}  # steps before the recording
        self._view: Any = None
        self._handles = [
            optimizer.register_step_pre_hook(lambda opt, args, kwargs: self._before_step(opt)),
            optimizer.register_step_post_hook(lambda opt, args, kwargs: self._after_step(opt)),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hooks. The recorded rows remain available."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._carry, self._before = [], {}, {}

    def _scale(self, optimizer: Any) -> float:
        """Return the factor on gradients in the step; fused steps of torch divide them by a loss scale in place."""
        return float(optimizer._decision.scale) if optimizer is self._view else 1.0

    def _is_needed(self) -> bool:
        """Return True if this step has a row, or the next one needs its values."""
        return self._calls % self.every in (0, self.every - 1)

    @torch.no_grad()
    def _before_step(self, optimizer: Any) -> None:
        self._before, self._plans = {}, {}
        if not self._is_needed():
            return
        self._view = optimizer = adopted(optimizer)
        done = optimizer.steps_done()
        for index, group in enumerate(optimizer.param_groups):
            members = {id(p) for p in group["params"]}
            chosen = [name for name, p in self._params.items() if id(p) in members]
            if chosen:
                self._plans[index] = optimizer._plan_group(index, done)
            for name in chosen:
                p = self._params[name]
                state = optimizer.state.get(p, {})
                first = self._first.setdefault(name, step_count(state))
                steps = step_count(state) if "step" in state else first + self._calls  # torch.optim.SGD has no count
                self._before[name] = _Before(_weight(p, state), _copies(state), steps, index)

    @torch.no_grad()
    def _after_step(self, optimizer: Any) -> None:
        is_row = self._calls % self.every == 0
        took_step = False
        for name, before in self._before.items():
            p = self._params[name]
            state = optimizer.state.get(p, {})
            if p.grad is None or not _took_step(state, before.steps):
                continue
            took_step = True
            inputs = self._inputs(optimizer, p, p.grad, before, state)
            self._add(name, before.steps + 1, inputs, _weight(p, state), is_row)
        if took_step or not self._before:
            self._calls += 1

    def _inputs(self, optimizer: Any, p: Tensor, grad: Tensor, before: _Before, after: Mapping[str, Any]) -> StepInputs:
        plan = self._plans[before.group]
        recipe = plan.recipe
        slots = {key: before.state.get(key, value) for key, value in new_slots(recipe, p).items()}
        for line in recipe.bound_stages:  # Hessian-vector products are observed within the step, before the stages
            if line.stage.observes:
                slots |= {key: after[key] for key in line.keys}
        shapes = {slot.key: slot.shape for slot in recipe.slots}
        slots = {key: (_wide if shapes[key] == "per_tensor" else _as_reals)(value) for key, value in slots.items()}
        clock = Clock(before.steps + 1, recipe.lr, plan.factor, plan.window)
        scale = self._scale(optimizer) * (-1.0 if plan.maximize else 1.0)
        scalars = StepScalars(clock, recipe.scalars(clock), scale, self._view.options.clip_value)
        return StepInputs(recipe, scalars, before.w, _as_reals(grad), slots)

    def _add(self, name: str, t: int, inputs: StepInputs, after: Tensor, is_row: bool) -> None:
        form = step_form(inputs.recipe)
        step = replay(inputs, form)
        dw = after - step.w
        row, carry = recursion(t, step, dw, constant_settings(inputs, form), self._carry.get(name))
        if not bool(dw.isfinite().all()):
            raise ArgumentError(f"record_steps: the changes must be finite, got nan or inf in {name} at step {t}.")
        self._carry[name] = carry
        if is_row and row is not None:
            precision = torch.finfo(self._params[name].dtype).eps
            self.rows[name].append(_row(t, step.rate, row, step.w, dw, self._kept[name], precision))


def record_steps(
    optimizer: torch.optim.Optimizer,
    names: Iterable[str] | Mapping[str, Tensor] | None = None,
    *,
    every: int = 1,
    elements: int | None = None,
) -> StepRecording:
    """Record the parameter changes of an optimizer, for `dynamics`.

    Hooks before and after each step copy weights, gradient and state, and replay the stages of the recipe in float64 on
    the CPU. The recording does not change the run. It can start at any step; if it does not start at the first step of
    a parameter, the first recorded step only provides initial values.

    Args:
        optimizer: An optimizer of dashpot, or one of torch that has a counterpart, in any training loop.
        names: Names of the parameters to record, or their indices as strings if the optimizer was created without
            names; or a mapping from names to parameters, such as `dict(model.named_parameters())`. Default: all.
        every: Number of steps between recorded steps, an integer >= 1.
        elements: Number of elements per tensor whose values are kept, evenly spaced, an integer >= 1. Default: all.
            Statistics always cover all elements.

    Returns:
        A context manager, whose exit removes the hooks; `close()` does the same.

    Raises:
        ArgumentError: If the update rule of `optimizer` is unknown, its method has no first-order recursion, its
            parameters are sharded, `capturable` or `differentiable` is set, or an argument is out of range.

    Example:
        >>> import torch, dashpot as dp
        >>> w = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
        >>> opt = dp.AdamW([w], lr=0.1)
        >>> with record_steps(opt) as recording:
        ...     for _ in range(3):
        ...         opt.zero_grad(); (w**2).sum().backward(); opt.step()
        >>> [row.step for row in recording.rows["0"]]
        [1, 2, 3]
    """
    owner = "record_steps"
    view = adopted(optimizer) if isinstance(optimizer, torch.optim.Optimizer) else None
    if view is None:
        raise ArgumentError(
            f"{owner}: optimizer must be of dashpot, or of torch.optim with a counterpart, got {shown(optimizer)}."
        )
    check(owner, "every", every, _COUNT)
    check(owner, "elements", elements, Optional(_COUNT))
    for group in optimizer.param_groups:
        for flag in ("capturable", "differentiable"):
            if group.get(flag, False):
                raise ArgumentError(f"{owner}: optimizer must have {flag}=False, got {flag}=True.")
    for group in view.param_groups:
        reason = step_form(view._recipe_of(group)).reason
        if reason:
            raise ArgumentError(f"{owner}: {type(optimizer).__name__} has no first-order recursion: {reason}.")
    return StepRecording(optimizer, _chosen(optimizer, names), every, elements)


def _chosen(optimizer: torch.optim.Optimizer, names: Iterable[str] | Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Return the chosen parameters by name, in the order of the optimizer."""
    if isinstance(names, Mapping):
        params = _given(optimizer, names)
    else:
        params = _named(optimizer)
        if names is not None:
            params = _selected(params, names)
    if not params:
        raise ArgumentError("record_steps: names must contain at least one parameter, got none.")
    for name, p in params.items():
        if is_lazy(p):
            raise ArgumentError(f"record_steps: parameters must be initialized, got the uninitialized {name}.")
        if is_dtensor(p):
            raise ArgumentError(f"record_steps: parameters must not be sharded, got the DTensor {name}.")
    return params


def _given(optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    members = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, p in names.items():
        if id(p) not in members:
            raise ArgumentError(f"record_steps: names must map to parameters of the optimizer, got {name!r}.")
    return dict(names)


def _named(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    params: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        start = len(params)
        known = group.get("param_names") or [str(start + i) for i in range(len(group["params"]))]
        params |= dict(zip(known, group["params"], strict=True))
    return params


def _selected(params: Mapping[str, Tensor], names: Any) -> dict[str, Tensor]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ArgumentError(f"record_steps: names must be a sequence of names, got {shown(names)}.")
    wanted = list(names)
    for name in wanted:
        if name not in params:
            raise unknown("parameter", name, params)
    return {name: p for name, p in params.items() if name in wanted}


def constant_settings(inputs: StepInputs, form: StepForm) -> tuple[float, float] | None:
    """Return pole and zero if the recursion has the constant form."""
    if not form.filtered:
        return 0.0, 0.0
    line = inputs.recipe.bound_stages[form.entry]
    if not has_constant_pole(line):
        return None
    return float(line.stage.pole), float(line.stage.zero)  # pyright: ignore[reportAttributeAccessIssue]


def _row(t: int, lr: float, row: Row, w: Tensor, dw: Tensor, kept: Tensor, precision: float) -> StepRow:
    values = {"e": row.e, "r": row.r, "alpha": row.alpha, "dw": dw}
    form = row.form
    statistics = {name: statistics_of(value) for name, value in values.items()}
    growth = 1 + abs(form.pole) * statistics["r"][0]
    return StepRow(
        t,
        lr,
        form.pole,
        form.zero,
        form.gain,
        form.scale,
        form.constant,
        statistics,
        {name: value.flatten()[kept].numpy() for name, value in {**values, "bound": row.bound, "w": w}.items()},
        _largest(row.error),
        None if row.published_error is None else _largest(row.published_error),
        float((dw.abs() - row.bound).max()) if dw.numel() else 0.0,
        precision * growth * _largest(w),
        int(row.restarted.sum()),
    )


def statistics_of(x: Tensor) -> tuple[float, ...]:
    """Return the values of `STATISTICS`, with divisor n for the standard deviation."""
    if x.numel() == 0:
        return (0.0,) * len(STATISTICS)
    return _largest(x), float(x.mean()), float(x.std(correction=0)), float(torch.linalg.vector_norm(x))


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def _precision(optimizer: torch.optim.Optimizer, p: Tensor) -> float:
    """Return the coarsest precision in which the optimizer computes the change of a parameter, or stores its state."""
    if not isinstance(optimizer, Optimizer):
        return torch.finfo(p.dtype).eps
    stored = optimizer.options.storage(p.dtype).state_dtype
    return max(torch.finfo(dtype).eps for dtype in (compute_dtype(p.dtype), stored) if dtype is not None)


def _kept_elements(count: int, elements: int | None) -> Tensor:
    """Return the indices of at most `elements` evenly spaced elements."""
    if elements is None or elements >= count:
        return torch.arange(count)
    return (torch.arange(elements) * count) // elements


def _weight(p: Tensor, state: Mapping[str, Any]) -> Tensor:
    """Return a weight in float64, including its stored rounding error."""
    w = _as_reals(p)
    return w + _as_reals(state[COMPENSATION]) if COMPENSATION in state else w


def _took_step(state: Mapping[str, Any], before: int) -> bool:
    """Return whether the step count has increased. A state without a count is that of a method that skips no steps."""
    return "step" not in state or int(step_count(state)) == before + 1


def _copies(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: _wide(value) for key, value in state.items() if isinstance(value, Tensor) and key != COMPENSATION}


def _wide(x: Tensor) -> Tensor:
    """Return a copy of a slot in float64 on the CPU, with the shape that stages expect."""
    return real_view(x.detach()).cpu().to(torch.float64, copy=True)


def _as_reals(x: Tensor) -> Tensor:
    """Return a copy of a weight or gradient in float64 on the CPU, with at least one dimension."""
    x = _wide(x.resolve_conj())
    return x.view(1) if x.dim() == 0 else x
