"""Response of the gradient filter of a method: gains, delay, memory, and equivalent settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dashpot.analysis.equivalents import Equivalent, equivalents
from dashpot.analysis.linear_form import LinearForm, linear_form
from dashpot.analysis.points import finite_array
from dashpot.analysis.rational_filter import RationalFilter
from dashpot.analysis.result import Analysis, Quantity, text_of
from dashpot.constraints import Interval, check, shown
from dashpot.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SETTLED = 0.01  # relative distance from the final value at which a step response counts as settled
_HORIZONS = (
    "step from which the response to a constant gradient is within 1 % of dc_gain",
    "step from which, without bias correction, the response to a constant gradient is within 1 % of dc_gain",
)
_COUNT = Interval(0, math.inf, "left", integer=True)


@dataclass(frozen=True, repr=False)
class Response(Analysis):
    """Result of `response`, for the filter H(z) = gain prod(1 - zero/z)/prod(1 - pole/z).

    Numbers are those of the linear time-invariant filter, which bias correction changes in the first steps only. They
    are None if the filter is undefined, with the reason in `reasons`.

    Attributes:
        form: Linear form of the recipe, whose attribute `filter` is a `RationalFilter`.
        poles, zeros, gain: The filter.
        dc_gain: Response to a constant gradient of 1; lr times dc_gain is the effective learning rate.
        noise_gain: Variance of the output for white noise of variance 1, the sum of h_k^2.
        mean_delay: Mean age in steps of the gradients in the output, sum k h_k / sum h_k.
        half_power: Frequency in radians per step at which |H|^2 is half of |H(0)|^2; None if there is none.
        time_constant: Steps in which the memory of a gradient decays to 1/e, -1/ln |largest pole|.
        averaged_samples: Number of samples whose mean has the same noise, dc_gain^2/noise_gain.
        debias_horizon: First step from which the step response without bias correction remains within 1 % of its
            final value. With "exact" bias correction, the output for a constant gradient is corrected by more than 1 %
            only before this step.
        reasons: Reasons why the filter is undefined, as sentences.
    """

    form: LinearForm
    dc_gain: float | None = None
    noise_gain: float | None = None
    mean_delay: float | None = None
    half_power: float | None = None
    time_constant: float | None = None
    averaged_samples: float | None = None
    debias_horizon: int | None = None
    reasons: tuple[str, ...] = ()

    @property
    def poles(self) -> tuple[complex, ...]:
        """Poles of the filter."""
        return () if self.form.filter is None else self.form.filter.poles

    @property
    def zeros(self) -> tuple[complex, ...]:
        """Zeros of the filter."""
        return () if self.form.filter is None else self.form.filter.zeros

    @property
    def gain(self) -> float | None:
        """Weight of the newest gradient."""
        return None if self.form.filter is None else self.form.filter.gain

    @property
    def limits(self) -> tuple[str, ...]:
        """Conditions under which the result holds, as sentences."""
        return self.form.filter_limits

    def impulse(self, n: int) -> NDArray[np.float64]:
        """Return the first `n` weights h_0, h_1, ... of a gradient in this and in later steps.

        Raises:
            ArgumentError: If `n` is not an integer >= 0, or the filter is undefined.
        """
        check("impulse", "n", n, _COUNT)
        return self._filter("impulse").impulse(n)

    def step(self, n: int) -> NDArray[np.float64]:
        """Return the first `n` outputs for a constant gradient of 1, without bias correction.

        Raises:
            ArgumentError: If `n` is not an integer >= 0, or the filter is undefined.
        """
        check("step", "n", n, _COUNT)
        return np.cumsum(self._filter("step").impulse(n))

    def at(self, omega: float | NDArray[np.float64]) -> NDArray[np.complex128]:
        """Return the complex frequency response H(exp(j omega)), with omega in radians per step.

        Raises:
            ArgumentError: If omega is not finite, or the filter is undefined.
        """
        return self._filter("at").at(finite_array("at", "omega", omega))

    def equivalents(self, batch: int | None = None) -> dict[str, Equivalent]:
        """Return the settings with the same filter and effective learning rate in other parametrizations.

        Args:
            batch: Number of examples per gradient, to convert the averaging length from steps to examples.

        Returns:
            "torch_sgd", "average", "qhm", "autosgm", "filter", "length" and, if `batch` is given, "examples". An entry
            has `settings`, or None with the reason in `note`. They describe the filter; denominators, decay and bias
            correction are unchanged. Without a learning rate, `lr` is the factor on it.

        Raises:
            ArgumentError: If `batch` is not an integer >= 1, or the filter is undefined.

        Example:
            >>> import dashpot as dp
            >>> same = response(dp.HeavyBall.recipe_for(lr=0.125, momentum=0.75)).equivalents(batch=32)
            >>> same["average"].settings, same["examples"].settings
            ({'lr': 0.5, 'beta': 0.75}, {'lr': 0.5, 'examples': 128.0})
        """
        return equivalents(self._filter("equivalents"), self.form.rate, batch)

    def _filter(self, owner: str) -> RationalFilter:
        if self.form.filter is None:
            raise ArgumentError(f"{owner}: the filter is undefined. {' '.join(self.reasons)}")
        return self.form.filter

    def summary(self) -> str:
        """Return the memory and smoothing of the filter in one or two sentences."""
        if self.form.filter is None:
            return " ".join(f"Undefined: {text}" for text in self.reasons)
        if self.gain == 0:
            return "The gain is 0: gradients have no effect."
        if self.time_constant == 0 and self.form.filter.order > 1:
            return f"The direction is a weighted sum of the latest {self.form.filter.order + 1} gradients."
        if self.form.filter.reduced().order == 0:
            factor = "" if self.gain == 1 else f", times {text_of(self.gain)}"
            return f"No memory: the direction is the latest gradient{factor}."
        memory = f"The memory of a gradient decays to 1/e in {text_of(self.time_constant)} steps"
        if self.averaged_samples is None or self.averaged_samples < 1:
            return f"{memory}; the filter amplifies noise relative to a constant gradient."
        return (
            f"{memory}; the direction is as noisy as the mean of {text_of(self.averaged_samples)} gradients, and its "
            f"gradients are {text_of(self.mean_delay)} steps old on average."
        )

    def quantities(self) -> list[Quantity]:
        """Return the numbers of the result, most important first."""
        rows = [
            ("time_constant", "steps in which the memory of a gradient decays to 1/e"),
            ("averaged_samples", "number of gradients whose mean is as noisy"),
            ("mean_delay", "mean age of the gradients in steps"),
            ("dc_gain", "response to a constant gradient of 1"),
            ("noise_gain", "variance of the output for noise of variance 1"),
            ("half_power", "frequency of half the power at frequency 0, in radians per step"),
            ("debias_horizon", _HORIZONS[self.form.correction != "none"]),
            ("gain", "weight of the newest gradient"),
        ]
        items = [Quantity(name, getattr(self, name), meaning) for name, meaning in rows]
        items += [Quantity(name, _plain(getattr(self, name)), f"{name} of the filter") for name in ("poles", "zeros")]
        notes = [("reasons", "why numbers are undefined"), ("limits", "conditions of the result")]
        return items + [Quantity(name, list(getattr(self, name)), text) for name, text in notes if getattr(self, name)]

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """Draw poles and zeros, the impulse and step responses, and the gain over frequency, on three axes."""
        from dashpot.analysis.response_figure import draw

        return draw(self, ax)


def _plain(roots: tuple[complex, ...]) -> list[float | str]:
    """Return roots as JSON-serializable values; complex roots as text."""
    return [f"{z.real:.4g}{z.imag:+.4g}j" if isinstance(z, complex) else float(z) for z in roots]


def response(recipe: Any, *, step: int | None = None) -> Response:
    """Compute the response of the gradient filter of a method.

    A first-order filter with pole p, zero q and gain k has the impulse response h_0 = k, h_i = k (p - q) p^(i-1), and

        DC gain     k (1-q)/(1-p)                           noise gain  k^2 (1 + (p-q)^2/(1-p^2))
        mean delay  p/(1-p) - q/(1-q)                       time constant  -1/ln p

    Filters of higher order, products of several stages, use their poles and zeros.

    Args:
        recipe: A recipe, an optimizer whose groups have the same settings, a `Filter` or `NesterovMoment` stage, or a
            `RationalFilter`.
        step: Number of completed steps at which schedules are evaluated. None: settings without their schedules.

    Returns:
        The filter, its gains, delay and memory, responses, and equivalent settings.

    Raises:
        ArgumentError: If `recipe` has another type, or a `RationalFilter` is unstable.

    Source: Oppenheim and Schafer, Discrete-Time Signal Processing; Somefun, AutoSGM.

    Example:
        >>> import dashpot as dp
        >>> result = response(dp.AdamW.recipe_for(betas=(0.9, 0.999)))
        >>> round(result.noise_gain, 5), round(result.mean_delay, 6), round(result.averaged_samples, 6)
        (0.05263, 9.0, 19.0)
        >>> result.impulse(3).round(3)
        array([0.1  , 0.09 , 0.081])
    """
    form = linear_form(recipe, "response", step)
    section = form.filter
    if section is None:
        return Response(form, reasons=form.reasons)
    if not section.is_stable:
        pole = max(section.poles, key=abs)
        raise ArgumentError(f"response: poles must be inside the unit circle, got {shown(pole)}.")
    slowest = max((abs(pole) for pole in section.reduced().poles), default=0.0)
    noise_gain = section.noise_gain
    return Response(
        form,
        dc_gain=section.dc_gain,
        noise_gain=noise_gain,
        mean_delay=section.mean_delay,
        half_power=half_power(section),
        time_constant=-1 / math.log(slowest) if slowest else 0.0,
        averaged_samples=section.dc_gain**2 / noise_gain if noise_gain else None,
        debias_horizon=debias_horizon(section),
    )


def half_power(section: RationalFilter) -> float | None:
    """Return the lowest frequency at which |H|^2 is half of its value at frequency 0; None if there is none."""
    form = section.first_order
    if section.dc_gain == 0:
        return None
    if form is None:
        return _search_half_power(section)
    pole, zero, _ = form
    # sin(w/2)^2 = (1-p)^2/(4 (p - 2 u q)), u = ((1-p)/(1-q))^2, without the cancellation of 1 - cos(w)
    room = pole - 2 * ((1 - pole) / (1 - zero)) ** 2 * zero
    sine = (1 - pole) / (2 * math.sqrt(room)) if room > 0 else math.inf
    return 2 * math.asin(sine) if sine <= 1 else None


def _search_half_power(section: RationalFilter) -> float | None:
    """Find the first crossing on a grid that resolves the slowest pole, and refine it by bisection."""

    def excess(omega: Any) -> Any:
        return np.abs(section.at(omega)) ** 2 - section.dc_gain**2 / 2

    finest = max(1e-9, 1 - max((abs(pole) for pole in section.poles), default=0.0))
    grid = np.unique(np.concatenate((np.geomspace(finest / 100, math.pi, 2000), np.linspace(0, math.pi, 2000))))
    below = np.flatnonzero(excess(grid) < 0)
    if len(below) == 0:
        return None
    low, high = grid[below[0] - 1], grid[below[0]]
    for _ in range(60):  # halves the interval to rounding
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) < 0 else (middle, high)
    return float(high)


def debias_horizon(section: RationalFilter) -> int | None:
    """Return the first step t >= 1 from which the step response remains within 1 % of its final value."""
    if section.dc_gain == 0:
        return None
    form = section.first_order
    if form is None:
        return _search_horizon(section)
    pole, zero, _ = form
    carried = abs((pole - zero) / (1 - zero))  # |1 - S_t| = carried |pole|^(t-1)
    if carried <= SETTLED:
        return 1
    return 2 if pole == 0 else 1 + math.ceil(math.log(SETTLED / carried) / math.log(abs(pole)) - 1e-9)


def _search_horizon(section: RationalFilter) -> int:
    slowest = max((abs(pole) for pole in section.poles), default=0.0)
    n = 64 + len(section.zeros)
    if slowest:
        n += math.ceil(2 * math.log(1e-9) / math.log(slowest))  # twice, for the polynomial factor of multiple poles
    error = np.abs(np.cumsum(section.impulse(n)) / section.dc_gain - 1)
    late = np.flatnonzero(error > SETTLED)
    return int(late[-1]) + 2 if len(late) else 1
