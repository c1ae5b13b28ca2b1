"""Results of a verification, as data and as a report that fits on one screen."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from dataclasses import dataclass
from typing import Any

from dashpot.utils.format import short_time, size
from dashpot.verification.replica_check import FirstDeviation

WIDTH = 80
ROWS = 5
"""Maximum number of lines in the table of tensors."""
NAME, CELL = 47, 11


@dataclass(frozen=True)
class Deviation:
    """Deviation of a tensor from the reference.

    Args:
        name: Name of the tensor in `named_parameters`.
        shape: Shape of the tensor.
        ulps: Largest deviation of a weight in ulps, i.e. divided by the floating-point spacing at the largest magnitude
            that the weight has had.
        relative: Largest deviation of a weight, divided by the largest weight of the tensor.
        moved: Distance in ulps that the tensor of the reference has moved from its initial value; None if not reported.
    """

    name: str
    shape: tuple[int, ...]
    ulps: float
    relative: float
    moved: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """Result of a run resumed from a checkpoint.

    Args:
        source: Class of the optimizer that saved its state.
        target: Class of the optimizer that loaded the state.
        outcome: "agrees", "deviates", "not applicable" (the target does not support the state of the other class), or
            "fails" (an optimizer does not support the state of its own class).
        ulps: Largest deviation in ulps from the saved run after the last step; None if the run could not be resumed.
        reason: Error that prevented the run from being resumed, otherwise empty.
    """

    source: str
    target: str
    outcome: str
    ulps: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Cost:
    """Time and memory of one optimizer.

    Args:
        name: Class name of the optimizer.
        first_seconds: Time of the first step in seconds, including the creation of state and kernels.
        late: Number of the late step, counted from 1.
        late_seconds: Time of the late step in seconds, as the median over ten steps around it.
        state_bytes: Size of all tensors in the optimizer state, in bytes.
        step_bytes: Peak memory in bytes that torch allocates during a step, in addition to weights, gradients and
            state; None if a step includes a backward pass.
    """

    name: str
    first_seconds: float
    late: int
    late_seconds: float
    state_bytes: int
    step_bytes: int | None


@dataclass(frozen=True, repr=False)
class Verification:
    """Result of `dashpot.verify`. A result is true if the optimizers agree, and prints as a report on one screen.

    Args:
        optimizer: Class name of the optimizer.
        reference: Class name of the reference.
        agrees: Whether all deviations of weights, including those of resumed runs, are within the tolerance.
        verdict: The result in words.
        steps: Requested number of steps.
        compared: Number of steps after which both optimizers had finite weights and were compared.
        dtype: Dtype of the weights.
        device: Device type of the weights.
        shared_gradients: Whether both optimizers used the gradients of the reference; otherwise, each used its own.
        tolerance: Largest deviation in ulps allowed after all steps.
        tensors: Deviation of each tensor after the last step, in descending order.
        first: First deviation above the tolerance; None if no deviation exceeds it.
        drift: Deviation of the worst tensor in a run of the optimizer on its own gradients, or None.
        noise: Deviation of the worst tensor in a run of the reference on its own gradients, after its initial weights
            were perturbed by one ulp, or None.
        losses: Losses of the optimizer and the reference at the last step, each computed in a run on its own gradients;
            None after a divergence.
        saved: Step after which the checkpoints were saved.
        checkpoints: Results of the resumed runs.
        costs: Costs of the optimizer and the reference; empty with `timed_steps=0`.
        settings: Parameter-group settings whose values differ between the optimizer and the reference; empty if the
            weights agree.
    """

    optimizer: str
    reference: str
    agrees: bool
    verdict: str
    steps: int
    compared: int
    dtype: str
    device: str
    shared_gradients: bool
    tolerance: float
    tensors: tuple[Deviation, ...]
    first: FirstDeviation | None
    drift: Deviation | None
    noise: Deviation | None
    losses: tuple[float, float] | None
    saved: int
    checkpoints: tuple[Checkpoint, ...]
    costs: tuple[Cost, ...]
    settings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.agrees

    def __repr__(self) -> str:
        return self.text()

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON-serializable data; NaNs and infinities become strings."""
        return _plain(dataclasses.asdict(self))

    def text(self) -> str:
        """Return the report, which fits on one screen with 80 columns."""
        parts = [self._head(), self._tensors(), self._checkpoints(), self._costs()]
        return "\n\n".join("\n".join(lines) for lines in parts if lines)

    def _head(self) -> list[str]:
        weights = sum(math.prod(tensor.shape) for tensor in self.tensors)
        run = f"{self.compared} steps in {self.dtype} on {self.device}"
        lines = [*_wrapped(self.verdict), f"{run}: {len(self.tensors)} tensors, {weights} weights."]
        if self.settings:
            lines += _wrapped(f"Settings that differ: {'; '.join(self.settings)}.")
        return lines

    def _tensors(self) -> list[str]:
        title = "Deviation on identical gradients" if self.shared_gradients else "Deviation of independent runs"
        shown = self.tensors if len(self.tensors) <= ROWS else self.tensors[: ROWS - 1]
        lines = [_row(title, "ulps", "moved", "relative"), *(_deviation_row(f"  {d.name}", d) for d in shown)]
        if rest := self.tensors[len(shown) :]:
            worst = Deviation("", (), max(d.ulps for d in rest), max(d.relative for d in rest))
            lines.append(_deviation_row(f"  {len(rest)} more tensors, at most", worst))
        lines.append(_row("  tolerance", number(self.tolerance)))
        if self.drift is not None and self.noise is not None:
            lines.append(_row(f"Independent run: {self.drift.name}", "", "", number(self.drift.relative)))
            lines.append(_row(f"Reference perturbed by 1 ulp: {self.noise.name}", "", "", number(self.noise.relative)))
        if self.losses is not None:
            ours, theirs = self.losses
            lines.append(f"Loss of independent runs at step {self.compared}: {ours:.6g}, reference {theirs:.6g}")
        return lines

    def _checkpoints(self) -> list[str]:
        if not self.checkpoints:
            return []
        lines = [f"Resumed from a checkpoint of step {self.saved}, compared at step {self.compared}"]
        for found in self.checkpoints:
            ulps = "" if found.ulps is None else f"{number(found.ulps)} ulps"
            pair = f"  {found.source} -> {found.target}"
            lines.append(f"{_cut(pair, 52):<52}{found.outcome:>14}{ulps:>14}".rstrip())
            if found.reason:
                lines.append(f"    {_cut(found.reason, WIDTH - 4)}")
        return lines

    def _costs(self) -> list[str]:
        if not self.costs:
            return []
        late = f"step {self.costs[0].late}"
        lines = [f"{'Cost':<36}{'step 1':>11}{late:>11}{'state':>11}{'temporary':>11}"]
        for cost in self.costs:
            times = short_time(cost.first_seconds), short_time(cost.late_seconds)
            temporary = "-" if cost.step_bytes is None else size(cost.step_bytes)
            cells = "".join(f"{cell:>11}" for cell in (*times, size(cost.state_bytes), temporary))
            lines.append(f"{_cut(f'  {cost.name}', 36):<36}{cells}")
        return lines


def _deviation_row(text: str, deviation: Deviation) -> str:
    moved = "" if deviation.moved is None else number(deviation.moved)
    return _row(text, number(deviation.ulps), moved, number(deviation.relative))


def _row(text: str, *cells: str) -> str:
    return (f"{_cut(text, NAME):<{NAME}}" + "".join(f"{cell:>{CELL}}" for cell in cells)).rstrip()


def number(value: float) -> str:
    """Format a number with two or three significant digits.

    >>> [number(value) for value in (0.0, 1.5, 160.0, 31234.5, 1.2e-7, float("inf"))]
    ['0', '1.5', '160', '3.1e+04', '1.2e-07', 'inf']
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.3g}" if 0.1 <= abs(value) < 10_000 else f"{value:.1e}"


def _cut(text: str, width: int) -> str:
    """Shorten `text` to `width` characters by removing the middle."""
    if len(text) <= width:
        return text
    head = width // 2 - 2
    return f"{text[:head]}...{text[len(text) - width + head + 3 :]}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
