"""Recursion of the parameter change, one step at a time.

    Dw_{t+1} = pole r_t Dw_t + gain alpha_t e_t,        alpha_t = kappa_t A_t scale_t,    r_t = alpha_t/alpha_{t-1}
    e_t = (zero u_{t-1} - u_t) + (pole x_{t-1} - x_t)/gain,        x_t = shrink_t w_t/alpha_t

Notation of `step_replay`. Constant form: pole, zero and gain = (1 - pole)/(1 - zero) are those of the unit-DC-gain
filter, and `scale` is the ratio of the output to that of this filter. Varying form: `scale` is 1, and pole, zero and
gain are those of the step.

Source: Somefun, AutoSGM, learning dynamics; `scale`, the varying form and the restarts are added here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dashpot.analysis.step_replay import LinearStep
from dashpot.stages.filter import unit_gain

_LARGEST_RATIO = 1e4  # beyond, the rounding of the weight after the earlier step would exceed the change


class FilterForm(NamedTuple):
    """Filter of one step: y_t = pole y_{t-1} scale_t/scale_{t-1} + scale_t gain (input u_t - zero u_{t-1}).

    `input` is 1, or 0 if the filter ignores the input of the step; `gain` is then 1.
    """

    pole: float
    zero: float
    gain: float
    scale: float
    previous_scale: float
    constant: bool
    input: float = 1.0


class Bound(NamedTuple):
    """Bound on |Dw|/|alpha| per element: decayed + gain * input.

    Attributes:
        decayed: Remainder of the change with which the recursion started.
        gain: Sum of the absolute weights of all e so far.
        input: Largest |e| so far.
    """

    decayed: Tensor
    gain: Tensor
    input: Tensor

    def value(self) -> Tensor:
        return self.decayed + self.gain * self.input


class Carry(NamedTuple):
    """Values of a step that the recursion of the next one needs."""

    t: int
    step: LinearStep
    dw: Tensor
    settings: tuple[float, float] | None
    form: FilterForm | None = None
    bound: Bound | None = None


class Row(NamedTuple):
    """The recursion at one step. `error` and `published_error` are differences from the measured change."""

    form: FilterForm
    alpha: Tensor
    r: Tensor
    e: Tensor
    bound: Tensor
    error: Tensor
    published_error: Tensor | None
    restarted: Tensor


def recursion(
    t: int, step: LinearStep, dw: Tensor, settings: tuple[float, float] | None, last: Carry | None
) -> tuple[Row | None, Carry]:
    """Return the recursion at step `t`, and the values for the next step.

    Args:
        t: Step number of the parameter, 1 for its first step.
        step: The step.
        dw: Measured change of the weight.
        settings: Pole and zero of a filter whose pole is constant, otherwise None.
        last: The previous step, or None if it is unknown or this is the first one.

    Returns:
        A row, or None if `t` > 1 and the previous step is unknown.
    """
    carry = Carry(t, step, dw, settings)
    if last is not None and last.t != t - 1:
        last = None
    if last is None and t > 1:
        return None, carry
    form = _filter_form(t, step, settings, last)
    if form is None:  # the memory cannot be computed from the previous output
        return None, carry
    alpha = step.rate * step.factor * form.scale
    before = None if last is None else last.step.rate * last.step.factor * form.previous_scale
    r, restarted = _ratio(alpha, before)
    decay = _quotient(step.shrink * step.w, alpha)
    e = -form.input * step.u if last is None else form.zero * last.step.u - form.input * step.u
    e = e - decay / form.gain
    if last is not None and before is not None:
        past = _quotient(last.step.shrink * last.step.w, before)
        e = e + torch.where(restarted, 0.0, form.pole * past / form.gain)
    change = torch.zeros_like(dw) if last is None else last.dw
    predicted = form.pole * r * change + form.gain * alpha * e
    direct = -step.rate * step.factor * step.y - step.shrink * step.w
    error = dw - torch.where(restarted, direct, predicted)
    bound = _bound(form, e, restarted, _quotient(direct, alpha), last, before)
    limit = torch.where(alpha == 0, direct.abs(), alpha.abs() * bound.value())
    row = Row(form, alpha, r, e, limit, error, _published_error(step, dw, form, last), restarted)
    return row, carry._replace(form=form, bound=bound)


def _filter_form(
    t: int, step: LinearStep, settings: tuple[float, float] | None, last: Carry | None
) -> FilterForm | None:
    now = step.coefficients
    if settings is not None and (last is None or last.settings == settings):
        pole, zero = settings
        gain = float(unit_gain(pole, zero))
        previous = 1.0 if last is None else last.step.coefficients.gain / gain
        return FilterForm(pole, zero, gain, now.gain / gain, previous, True)
    pole, other = 0.0, 0.0  # y_t = pole y_{t-1} + now.gain u_t + other u_{t-1}
    if last is not None:
        old = last.step.coefficients
        if old.carry != 0:
            pole = now.carry * old.pole / old.carry
            other = now.carry * (old.feed - old.pole * old.gain / old.carry)
        elif old.pole == 0 or t == 2:  # the memory is proportional to the only input of the previous output
            pole = now.carry * old.feed / old.gain if old.gain else 0.0
        elif now.carry != 0:
            return None
    gain = now.gain if now.gain != 0 else 1.0
    return FilterForm(pole, -other / gain, gain, 1.0, 1.0, False, now.gain / gain)


def _ratio(alpha: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return r, which is 1 at the first step and where the recursion restarts, and the mask of restarted elements."""
    if before is None:
        return torch.ones_like(alpha), alpha == 0
    r = alpha / before
    restarted = (alpha == 0) | ~(r.abs() <= _LARGEST_RATIO)  # includes nan
    return torch.where(restarted, 1.0, r), restarted


def _quotient(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(alpha == 0, 0.0, x / torch.where(alpha == 0, 1.0, alpha))


def _bound(
    form: FilterForm, e: Tensor, restarted: Tensor, direct: Tensor, last: Carry | None, before: Tensor | None
) -> Bound:
    if last is None or before is None:
        zero = torch.zeros_like(e)
        continued = Bound(zero, zero + abs(form.gain), e.abs())
    else:
        old = last.bound
        if old is None or last.form is None or last.form.constant != form.constant:
            size = _quotient(last.dw, before).abs()
            old = Bound(size, torch.zeros_like(e), torch.zeros_like(e))
        gain = abs(form.pole) * old.gain + abs(form.gain)
        continued = Bound(abs(form.pole) * old.decayed, gain, torch.maximum(old.input, e.abs()))
    fresh = Bound(direct.abs(), torch.zeros_like(e), torch.zeros_like(e))
    return Bound(*(torch.where(restarted, new, kept) for new, kept in zip(fresh, continued, strict=True)))


def _published_error(step: LinearStep, dw: Tensor, form: FilterForm, last: Carry | None) -> Tensor | None:
    """Return the error of the published form, which has no `scale` and prints decay as rho/gain, with x = rho d w."""
    if not form.constant:
        return None
    alpha = step.rate * step.factor
    e = -step.u - _quotient(step.published_shrink * step.w, alpha) / form.gain
    if last is None:
        return dw - form.gain * alpha * e
    before = last.step.rate * last.step.factor
    past = _quotient(last.step.published_shrink * last.step.w, before)
    e = e + form.zero * last.step.u + form.pole * past / form.gain
    r, restarted = _ratio(alpha, before)
    return torch.where(restarted, 0.0, dw - form.pole * r * last.dw - form.gain * alpha * e)
