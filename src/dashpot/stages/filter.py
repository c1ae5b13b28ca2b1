"""The gradient filter: one pole, one zero, one gain. Momentum in all its forms.

    H(z) = gain (1 - zero z^-1) / (1 - pole z^-1)

The filter keeps one tensor m, the pole-only filter of the same DC gain, and reads the output beside it:

    v_t = gain x_t + carry m_{t-1},        carry = (pole - zero)/(1 - zero)
    m_t = pole m_{t-1} + gain (1 - zero) x_t

This form was chosen because m is exactly torch's buffer: `momentum_buffer` of SGD (heavy ball and Nesterov alike) and
`exp_avg` of Adam, so checkpoints pass both ways. It has no subtraction of nearly equal numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dashpot.constraints import ARGUMENTS, OneOf, Scalar, field, shown
from dashpot.errors import ArgumentError
from dashpot.stages.averages import running_pole
from dashpot.stages.base import Clock, Context, Signal, Slot, Stage, elementwise, per_tensor
from dashpot.utils.scalars import is_number, where

__all__ = ["Filter", "NesterovMoment", "carry", "step_response", "unit_gain"]


def unit_gain(pole: Scalar, zero: Scalar) -> Scalar:
    """The gain that makes the DC gain 1: (1 - pole)/(1 - zero).

    >>> unit_gain(0.9, 0.0), unit_gain(0.9, 0.9)
    (0.09999999999999998, 1.0)
    """
    return (1 - pole) / (1 - zero)


def carry(pole: Scalar, zero: Scalar) -> Scalar:
    """The weight of the memory in the output, (pole - zero)/(1 - zero); nu beta in the words of QHM."""
    return (pole - zero) / (1 - zero)


def step_response(pole: Scalar, zero: Scalar, t: Any) -> Scalar:
    """Output at step `t` = 1, 2, ... of the unit-DC-gain filter for a constant input 1: 1 - carry pole^(t-1).

    >>> step_response(0.9, 0.0, 1), step_response(0.9, 0.9, 1)
    (0.09999999999999998, 1.0)
    """
    return 1 - carry(pole, zero) * pole ** (t - 1)


@dataclass(frozen=True)
class Filter(Stage):
    """First-order lowpass filter of the direction.

    Args:
        pole: In [0, 1): how long gradients are remembered, about 1/(1 - pole) steps. 0 is no memory.
        zero: Below 1, normally at most `pole`: 0 is heavy ball, pole/(1 + pole) Nesterov, `pole` itself no filter at
            all.
        gain: Weight of the newest gradient; None is unit DC gain, (1 - pole)/(1 - zero). 1 is torch's heavy ball. Only
            with `normalise="none"`: the other two fix the gain.
        normalise: "exact": divided by the step response, so that a constant gradient comes out unchanged from the first
            step (Adam's and QHM's bias correction); "none": the plain linear filter; "autosgm": divided by 1 - pole^t
            whatever the zero, first output equal to the first input, as AutoSGM does (too large by up to 1/(1 - pole^2)
            at t = 2); "memory": the memory is debiased by 1 - pole^t, the direct path is not (QHAdam); "running": pole
            1 - 1/min(t, N) with N = 1/(1 - pole), an arithmetic mean until t = N (zero must be 0).
        start: "zero": the memory starts at 0; "first": memory and output start as the first input (torch's dampening);
            "unscaled": the first output is multiplied by 1 - zero (AutoSGM without debias).
        slot: Key of the memory in the optimizer's state.

    Source: Somefun, AutoSGM; Ma and Yarats, arXiv 1810.06801 (QHM); torch.optim.SGD and Adam.

    >>> Filter(pole=0.9, gain=1.0, normalise="none").scalars(Clock(t=1, lr=0.1))
    {'pole': 0.9, 'carry': 0.9, 'gain': 1.0, 'feed': 1.0}
    """

    pole: Scalar = field(0.9, ARGUMENTS["pole"])
    zero: Scalar = field(0.0, ARGUMENTS["zero"])
    gain: Scalar | None = field(None, ARGUMENTS["gain"])
    normalise: str = field("exact", OneOf(("exact", "none", "autosgm", "memory", "running")))
    start: str = field("zero", OneOf(("zero", "first", "unscaled")))
    slot: str = "momentum_buffer"
    position = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalise != "none" and self.gain is not None:
            raise ArgumentError(
                f"Filter: gain must be None with normalise={self.normalise!r}, which fixes it, got {shown(self.gain)}."
            )
        if self.normalise == "running" and is_number(self.zero) and self.zero != 0:
            raise ArgumentError(f"Filter: zero must be 0 with normalise='running', got {shown(self.zero)}.")

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (elementwise("memory", self.slot),)

    def warning(self) -> str | None:
        if is_number(self.pole) and is_number(self.zero) and self.zero > self.pole:
            return (
                f"Filter: zero {self.zero} lies above pole {self.pole}, so older gradients enter with a negative "
                "weight (the filter emphasises high frequencies)."
            )
        return None

    def scalars(self, clock: Clock) -> Mapping[str, Any]:
        pole = running_pole(self.pole, clock.t) if self.normalise == "running" else self.pole
        gain = unit_gain(pole, self.zero) if self.gain is None else self.gain
        held, feed = carry(pole, self.zero), gain * (1 - self.zero)
        if self.normalise == "memory":
            gain = 1 - held * (1 - pole ** (clock.t - 1)) / (1 - pole**clock.t)
            held = held / (1 - pole**clock.t)
        scale = self._scale(clock.t)
        held, gain = held / scale, gain / scale
        if self.normalise == "autosgm" or self.start == "unscaled":
            gain = where(clock.t > 1, gain, gain * (1 - self.zero))
        if self.start == "first":
            gain, feed = where(clock.t > 1, gain, 1.0), where(clock.t > 1, feed, 1.0)
        return {"pole": pole, "carry": held, "gain": gain, "feed": feed}

    def _scale(self, t: Any) -> Scalar:
        if self.normalise == "exact":
            return step_response(self.pole, self.zero, t)
        if self.normalise == "autosgm":
            return 1 - self.pole**t
        return 1.0

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        del ctx
        direction = _scaled(c.gain, x.v) + c.carry * s.memory
        if all(map(is_number, c)) and c.gain == c.feed and c.carry == c.pole:  # a heavy ball's output is its memory
            return x._replace(v=direction), s._replace(memory=direction)
        return x._replace(v=direction), s._replace(memory=c.pole * s.memory + _scaled(c.feed, x.v))


def _scaled(factor: Scalar, x: Tensor) -> Tensor:
    """factor x; `x` itself for a factor of 1, as a heavy ball has."""
    return x if is_number(factor) and factor == 1 else factor * x


@dataclass(frozen=True)
class NesterovMoment(Stage):
    """NAdam's filter: Adam's first moment read one step ahead, with a momentum that grows from beta/2 to beta.

        mu_t = beta (1 - 0.96^(t momentum_decay)/2),        P_t = mu_1 mu_2 ... mu_t
        m_t  = beta m_{t-1} + (1 - beta) g_t
        v_t  = (1 - mu_t)/(1 - P_t) g_t + mu_{t+1}/(1 - P_{t+1}) m_t

    Source: Dozat, Incorporating Nesterov momentum into Adam (2016); torch.optim.NAdam.
    """

    beta: Scalar = field(0.9, ARGUMENTS["pole"])
    momentum_decay: Scalar = field(4e-3, ARGUMENTS["momentum_decay"])
    slots = (elementwise("memory", "exp_avg"), per_tensor("product", "mu_product", initial=1.0))
    position = 1

    def scalars(self, clock: Clock) -> Mapping[str, Any]:
        return {"beta": self.beta, "mu": self._momentum(clock.t), "ahead": self._momentum(clock.t + 1)}

    def _momentum(self, t: Any) -> Scalar:
        return self.beta * (1 - 0.5 * 0.96 ** (t * self.momentum_decay))

    def apply(self, x: Signal, s: Any, c: Any, ctx: Context) -> tuple[Signal, Any]:
        del ctx
        memory = c.beta * s.memory + (1 - c.beta) * x.v
        product = s.product * c.mu
        direction = (1 - c.mu) / (1 - product) * x.v + c.ahead / (1 - product * c.ahead) * memory
        return x._replace(v=direction), s._replace(memory=memory, product=product)
