"""Dynamics of the parameter change in a recorded run: rate, input and change of every element, and their bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dashpot.analysis.result import Analysis, Quantity, text_of
from dashpot.analysis.step_recording import QUANTITIES, STATISTICS, StepRecording, StepRow
from dashpot.constraints import shown, unknown
from dashpot.errors import ArgumentError
from dashpot.utils.format import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TOLERANCE = 1e-12
_VISIBLE = 1e-9  # errors that the summary mentions
_ROUNDINGS = 16  # of arithmetic and state, by which a step differs from its replay in float64


@dataclass(frozen=True)
class TensorDynamics:
    """Dynamics of one tensor. Arrays have one row per recorded step, and one column per kept element if elementwise.

    Attributes:
        steps: Step numbers, 1 for the first step.
        lr: Current rates: learning rate, schedule and numerator.
        pole, zero, gain, scale: Coefficients of the recursion at each step.
        constant: Whether pole, zero and gain are those of the unit-DC-gain filter, at each step.
        e, r, alpha, dw: Input, ratio of rates, rate and change; elementwise.
        bound: Bound on |dw|; elementwise.
        w: Weights before each step; elementwise.
        statistics: By quantity ("e", "r", "alpha", "dw") and name ("sup", "mean", "sd", "norm"), over all elements; sup
            is the largest absolute value.
        residual: Largest difference between recursion and measured change, relative to the largest |dw| of the run.
        published_residual: The same for the published form; nan at steps without constant form.
        resolution: Rounding of the measured changes, relative to the largest |dw| of the run.
        excess: Largest |dw| - bound, relative to the largest |dw| of the run.
        restarts: Number of elements at which the recursion restarts.
        tolerance: Largest `residual` and `excess`, in addition to `resolution`, with which the identity holds.
    """

    steps: np.ndarray
    lr: np.ndarray
    pole: np.ndarray
    zero: np.ndarray
    gain: np.ndarray
    scale: np.ndarray
    constant: np.ndarray
    e: np.ndarray
    r: np.ndarray
    alpha: np.ndarray
    dw: np.ndarray
    bound: np.ndarray
    w: np.ndarray
    statistics: Mapping[str, Mapping[str, np.ndarray]]
    residual: np.ndarray
    published_residual: np.ndarray
    resolution: np.ndarray
    excess: np.ndarray
    restarts: np.ndarray
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the recursion equals the measured change at every step."""
        return bool((self.residual <= self.tolerance + self.resolution).all())

    @property
    def bound_holds(self) -> bool:
        """Whether no change exceeds its bound."""
        return bool((self.excess <= self.tolerance + self.resolution).all())

    @property
    def largest_bound(self) -> float | None:
        """The bound sup alpha sup|e|/(1 - zero) of the run, or None without constant form."""
        if not self.constant.all():
            return None
        return float(self.statistics["alpha"]["sup"].max() * (self.statistics["e"]["sup"] / (1 - self.zero)).max())

    @cached_property
    def path(self) -> np.ndarray:
        """Sum of the changes since the first recorded step, before each recorded step and after the last one."""
        return np.concatenate([self.w, self.w[-1:] + self.dw[-1:]]) - self.w[0]


class Dynamics(Analysis):
    """Dynamics of the parameter changes of a run, returned by `dynamics`.

    Attributes:
        owner: Class name of the optimizer.
        tensors: Dynamics of each tensor by name.
        shapes: Shape of each tensor by name.
    """

    def __init__(
        self, owner: str, tensors: Mapping[str, TensorDynamics], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.owner, self.tensors, self.shapes = owner, dict(tensors), dict(shapes)

    def __getitem__(self, name: str) -> TensorDynamics:
        if name not in self.tensors:
            raise unknown("tensor", name, self.tensors)
        return self.tensors[name]

    @property
    def residual(self) -> float:
        """Largest difference between recursion and measured change, relative to the largest |dw| of its tensor."""
        return max(float(t.residual.max()) for t in self.tensors.values())

    @property
    def published_residual(self) -> float | None:
        """Largest residual of the published form, or None without constant form."""
        found = [t.published_residual[t.constant] for t in self.tensors.values() if t.constant.any()]
        return max((float(values.max()) for values in found), default=None)

    @property
    def holds(self) -> bool:
        """Whether the recursion equals the measured change at every step of every tensor."""
        return all(t.holds for t in self.tensors.values())

    @property
    def bound_holds(self) -> bool:
        """Whether no change exceeds its bound."""
        return all(t.bound_holds for t in self.tensors.values())

    def summary(self) -> str:
        steps = max(len(t.steps) for t in self.tensors.values())
        verdict = "holds" if self.holds else "does not hold; the largest difference is"
        amount = f"{'to ' if self.holds else ''}{self.residual:.1e} of the largest change"
        resolution = max(float(t.resolution.max()) for t in self.tensors.values())
        rounding = f" (rounding of the weights: {resolution:.1e})" if resolution > _VISIBLE else ""
        low, high = self._extremes("alpha")
        text = (
            f"{self.owner}, {counted(len(self.tensors), 'tensor')}, {counted(steps, 'step')}: {self._formula()} "
            f"{verdict} {amount}{rounding}. alpha is between {text_of(low)} and {text_of(high)}; "
            f"{'no' if self.bound_holds else 'a'} change exceeds its bound."
        )
        published = self.published_residual
        if published is not None and published > max(10 * self.residual, _VISIBLE):
            text += f" The published form, without the output scale, is off by up to {text_of(published)} of it."
        return text

    def _formula(self) -> str:
        every = list(self.tensors.values())
        pole, gain = (np.concatenate([getattr(t, name) for t in every]) for name in ("pole", "gain"))
        if np.ptp(pole) == 0 and np.ptp(gain) == 0:
            return f"Dw_{{t+1}} = {text_of(float(pole[0]))} r_t Dw_t + {text_of(float(gain[0]))} alpha_t e_t"
        low, high = text_of(float(pole.min())), text_of(float(pole.max()))
        return f"Dw_{{t+1}} = pole_t r_t Dw_t + gain_t alpha_t e_t, with pole_t between {low} and {high},"

    def _extremes(self, name: str) -> tuple[float, float]:
        """Return the smallest and largest value of a quantity over the kept elements."""
        values = [getattr(t, name) for t in self.tensors.values() if getattr(t, name).size]
        return min(float(v.min()) for v in values), max(float(v.max()) for v in values)

    def quantities(self) -> list[Quantity]:
        every = list(self.tensors.values())
        bounds = [t.largest_bound for t in every]
        bound = None if None in bounds else max(float(b) for b in bounds if b is not None)

        def sup(name: str) -> float:
            return max(float(t.statistics[name]["sup"].max()) for t in every)

        return [
            Quantity("residual", self.residual, "largest error of the recursion, relative to the largest change"),
            Quantity("holds", self.holds, "whether the recursion equals the measured changes"),
            Quantity("largest_change", sup("dw"), "sup |Dw|"),
            Quantity("largest_rate", sup("alpha"), "sup |alpha|"),
            Quantity("largest_ratio", sup("r"), "sup |r|"),
            Quantity("largest_input", sup("e"), "sup |e|"),
            Quantity("bound", bound, "sup |alpha| sup |e|/(1 - zero), the largest over all tensors"),
            Quantity("bound_holds", self.bound_holds, "whether no change exceeds its elementwise bound"),
            Quantity("restarts", int(sum(t.restarts.sum() for t in every)), "restarted elements, summed over steps"),
            Quantity("resolution", max(float(t.resolution.max()) for t in every), "rounding of the measured changes"),
            Quantity("published_residual", self.published_residual, "error of the published form"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return summary, quantities and, for each tensor, the statistics of every recorded step."""
        tensors = {
            name: {
                "steps": t.steps.tolist(),
                **{key: {k: v.tolist() for k, v in values.items()} for key, values in t.statistics.items()},
                "residual": t.residual.tolist(),
            }
            for name, t in self.tensors.items()
        }
        return {**super().to_dict(), "tensors": tensors}

    def plot(self, ax: Axes | Sequence[Axes] | None = None, tensor: str | None = None) -> Figure:
        """Draw rate, ratio, input and change of the elements of a tensor against the step, and return the figure.

        Bands contain the middle 50 % and 90 % of the kept elements.

        Args:
            ax: Four axes, in place of a new figure.
            tensor: Name of the tensor. Default: the tensor with the most elements.

        Raises:
            ArgumentError: If the tensor is unknown, `ax` is not four axes, or matplotlib is not installed.
        """
        from dashpot.analysis.change_figures import draw_dynamics

        name = self._largest_tensor() if tensor is None else tensor
        return draw_dynamics(self[name], name, ax)

    def plot_path(
        self, tensor: str | None = None, i: int | None = None, j: int | None = None, ax: Axes | None = None
    ) -> Figure:
        """Draw the path of the parameter changes in two coordinates, and return the figure.

        Args:
            tensor: Name of the tensor. Default: all tensors together.
            i, j: Indices of two kept elements. Default: the two leading principal directions of the path.
            ax: Axes, in place of a new figure.

        Raises:
            ArgumentError: If the tensor is unknown, an index is out of range, only one index is given, there are fewer
                than two steps or elements, or matplotlib is not installed.
        """
        from dashpot.analysis.change_figures import draw_path

        chosen = list(self.tensors.values()) if tensor is None else [self[tensor]]
        if len({len(t.steps) for t in chosen}) > 1:
            raise ArgumentError("Dynamics.plot_path: tensor must be given, since the tensors have different steps.")
        return draw_path(np.concatenate([t.path for t in chosen], axis=1), chosen[0].steps, i, j, ax)

    def _largest_tensor(self) -> str:
        return max(self.tensors, key=lambda name: self.tensors[name].alpha.shape[1] * len(self.tensors[name].steps))


def dynamics(recording: StepRecording) -> Dynamics:
    """Return the dynamics of the parameter changes of a recorded run.

    With the gradient u after clipping and coupled decay, the decay x_t = shrink_t w_t/alpha_t after the filter, and the
    rate alpha_t = lr_t c_t/d_t of each element:

        Dw_{t+1} = pole r_t Dw_t + gain alpha_t e_t,       r_t = alpha_t/alpha_{t-1},    Dw_1 = 0
        e_t = (zero u_{t-1} - u_t) + (pole x_{t-1} - x_t)/gain

    c_t is the ratio of the filter's output to that of the filter with unit DC gain. For filters whose pole changes
    (NAdam, QHAdam, scheduled momentum), c_t = 1, and pole, zero and gain depend on the step. Where alpha_{t-1} is zero,
    the recursion restarts from the direction of the step, with r_t = 1.

    The elementwise bound is |Dw_{t+1}| <= alpha_t sup|e| gain (1 + pole + ... + pole^(t-1)), whose last factors tend to
    1/(1 - zero).

    Args:
        recording: Recording with at least one step, from `record_steps`.

    Returns:
        A `Dynamics`.

    Raises:
        ArgumentError: If `recording` is not a recording, or contains no step.

    Source: Somefun, AutoSGM, learning dynamics. c_t, the general form and the bound are derived here.

    Example:
        >>> import torch, dashpot as dp
        >>> w = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
        >>> opt = dp.AutoSGM([w], lr=0.1)
        >>> with dp.analysis.record_steps(opt) as recording:
        ...     for _ in range(5):
        ...         opt.zero_grad(); (w**2).sum().backward(); opt.step()
        >>> found = dynamics(recording)
        >>> found.holds, found.bound_holds, found["0"].scale.round(2).tolist()
        (True, True, [10.0, 5.26, 3.69, 2.91, 2.44])
    """
    if not isinstance(recording, StepRecording):
        raise ArgumentError(f"dynamics: recording must be a recording of record_steps, got {shown(recording)}.")
    found = {
        name: _tensor_dynamics(rows, max(_TOLERANCE, _ROUNDINGS * recording.precisions[name]))
        for name, rows in recording.rows.items()
        if rows and rows[0].kept["w"].size
    }
    if not found:
        raise ArgumentError("dynamics: recording must contain at least one step, got none.")
    return Dynamics(recording.owner, found, {name: recording.shapes[name] for name in found})


def _tensor_dynamics(rows: Sequence[StepRow], tolerance: float) -> TensorDynamics:
    top = max(row.statistics["dw"][0] for row in rows) or 1.0

    def column(name: str) -> np.ndarray:
        return np.array([getattr(row, name) for row in rows])

    published = [np.nan if row.published_error is None else row.published_error for row in rows]
    return TensorDynamics(
        steps=column("step"),
        **{name: column(name) for name in ("lr", "pole", "zero", "gain", "scale", "constant", "restarts")},
        **{name: np.stack([row.kept[name] for row in rows]) for name in (*QUANTITIES, "bound", "w")},
        statistics={
            name: dict(zip(STATISTICS, np.array([row.statistics[name] for row in rows]).T, strict=True))
            for name in QUANTITIES
        },
        residual=column("error") / top,
        published_residual=np.array(published) / top,
        resolution=column("resolution") / top,
        excess=column("excess") / top,
        tolerance=tolerance,
    )
