"""Gradient filter with one pole, one zero and a gain: all common forms of momentum.

    H(z) = gain (1 - zero z^-1) / (1 - pole z^-1)

The state is one tensor m, the output of the pole-only filter with the same DC gain:

    v_t = gain x_t + carry m_{t-1},        carry = (pole - zero)/(1 - zero)
    m_t = pole m_{t-1} + gain (1 - zero) x_t

In this form, m equals the buffer of torch's optimizers: `momentum_buffer` in SGD (heavy ball and Nesterov) and
`exp_avg` in Adam. Checkpoints of dashpot and torch are therefore interchangeable. The form also avoids cancellation of
nearly equal numbers.
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


def unit_gain(pole: Scalar, zero: Scalar) -> Scalar:
    """Return the gain for a DC gain of 1: (1 - pole)/(1 - zero).

    >>> unit_gain(0.9, 0.0), unit_gain(0.9, 0.9)
    (0.09999999999999998, 1.0)
    """
    return (1 - pole) / (1 - zero)


def carry(pole: Scalar, zero: Scalar) -> Scalar:
    """Return the weight of the memory in the output, (pole - zero)/(1 - zero). In QHM's notation, it is nu beta."""
    return (pole - zero) / (1 - zero)


def step_response(pole: Scalar, zero: Scalar, t: Any) -> Scalar:
    """Return the step response of the unit-DC-gain filter at step `t` = 1, 2, ...: 1 - carry pole^(t-1).

    >>> step_response(0.9, 0.0, 1), step_response(0.9, 0.9, 1)
    (0.09999999999999998, 1.0)
    """
    return 1 - carry(pole, zero) * pole ** (t - 1)


@dataclass(frozen=True)
class Filter(Stage):
    """First-order lowpass filter of the direction.

    Args:
        pole: In [0, 1): the memory covers about 1/(1 - pole) steps; 0 disables the memory.
        zero: Below 1, normally at most `pole`: 0 for heavy ball, pole/(1 + pole) for Nesterov, `pole` for the identity.
        gain: Weight of the newest gradient. None: unit DC gain, (1 - pole)/(1 - zero); 1: torch's heavy ball. Must be
            None unless `normalise="none"`.
        normalise: Bias correction. "exact": divide by the step response, so that the output equals a constant input
            from the first step (Adam, QHM); "none": plain linear filter; "autosgm": divide by 1 - pole^t regardless of
            the zero, with the first output equal to the first input (AutoSGM; at t = 2, the output is too large by a
            factor of up to 1/(1 - pole^2)); "memory": divide only the memory term by 1 - pole^t (QHAdam); "running":
            use the pole 1 - 1/min(t, N) with N = 1/(1 - pole), which gives an arithmetic mean until t = N (requires
            zero = 0).
        start: Initial state. "zero": the memory is 0; "first": the memory and the first output equal the first input
            (torch's dampening); "unscaled": the first output is multiplied by 1 - zero (AutoSGM without debias).
        slot: State key of the memory.

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
            raise ArgumentError(f"Filter: gain must be None with normalise={self.normalise!r}, got {shown(self.gain)}.")
        if self.normalise == "running" and is_number(self.zero) and self.zero != 0:
            raise ArgumentError(f"Filter: zero must be 0 with normalise='running', got {shown(self.zero)}.")

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (elementwise("memory", self.slot),)

    def warning(self) -> str | None:
        if is_number(self.pole) and is_number(self.zero) and self.zero > self.pole:
            return (
                f"Filter: zero {self.zero} is above pole {self.pole}: older gradients have a negative "
                "weight (the filter amplifies high frequencies)."
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
        if all(map(is_number, c)) and c.gain == c.feed and c.carry == c.pole:  # heavy ball: output = memory
            return x._replace(v=direction), s._replace(memory=direction)
        return x._replace(v=direction), s._replace(memory=c.pole * s.memory + _scaled(c.feed, x.v))


def _scaled(factor: Scalar, x: Tensor) -> Tensor:
    """Return `x` multiplied by `factor`; skip the multiplication if the factor is 1 (heavy ball)."""
    return x if is_number(factor) and factor == 1 else factor * x


@dataclass(frozen=True)
class NesterovMoment(Stage):
    """Filter of NAdam: Adam's first moment with Nesterov look-ahead and a momentum that rises from beta/2 to beta.

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
