"""What a verification found, as data and as one screen of text."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from dashpot.utils.format import short_time, size
from dashpot.verification.track import First

__all__ = ["Checkpoint", "Cost", "Deviation", "Verification", "number"]

WIDTH = 80
ROWS = 5
"""The most lines of the table of tensors."""
NAME, CELL = 47, 11


@dataclass(frozen=True)
class Deviation:
    """How far a tensor is from the reference's.

    Args:
        name: as `named_parameters` calls it.
        shape: of the tensor.
        ulps: the worst element, in units of the spacing of numbers at the largest magnitude this weight has had.
        relative: the worst element's difference, over the largest weight of the tensor.
        moved: how far the reference has moved the tensor, in ulps; None where that is not of interest.
    """

    name: str
    shape: tuple[int, ...]
    ulps: float
    relative: float
    moved: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A run that went on from a checkpoint.

    Args:
        source: the class that saved its state.
        target: the class that loaded it.
        outcome: "agrees", "deviates", "not applicable" (the target does not take this state), or "fails" (it does not
            take its own).
        ulps: the largest deviation from the run that was saved, after the last step; None where there was no run.
        reason: why there was no run, else empty.
    """

    source: str
    target: str
    outcome: str
    ulps: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Cost:
    """What a step of one side costs.

    Args:
        name: the class.
        first_seconds: of the first step, with all it prepares, such as state and kernels.
        late: the step, counted from 1, that `late_seconds` is of.
        late_seconds: of that step: the median over ten steps around it.
        state_bytes: of the tensors in the state.
        step_bytes: the most that torch allocates at once in a step beyond weights, gradients and state; None where a
            step includes a backward pass.
    """

    name: str
    first_seconds: float
    late: int
    late_seconds: float
    state_bytes: int
    step_bytes: int | None


@dataclass(frozen=True, repr=False)
class Verification:
    """The result of `dashpot.verify`; prints as one screen of text and is true where both agree.

    Args:
        optimizer, reference: names of the two classes.
        agrees: whether weights and checkpoints are within the tolerance.
        verdict: the same in words.
        steps: how many were asked for.
        compared: after how many of them both had finite weights, so that they could be compared.
        dtype, device: of the weights.
        shared_gradients: whether both were given the gradients of the reference; otherwise each had its own.
        tolerance: in ulps, after all steps.
        tensors: the deviation of each tensor after the last step, the worst first.
        first: the first deviation that was not allowed, or None.
        drift: the worst tensor after a run of the optimizer on gradients of its own, or None.
        noise: the same of the reference beside itself, started an ulp away.
        losses: of the optimizer and of the reference at the last step, each on its own gradients; None after a
            divergence.
        saved: the step after which checkpoints were taken.
        checkpoints: the runs that went on from them.
        costs: of the optimizer and of the reference; empty with `timed_steps=0`.
        settings: settings of the parameter groups that differ, where the weights do not agree.
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
    first: First | None
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
        """All fields as plain data, ready for JSON; nan and infinities are strings."""
        return _plain(dataclasses.asdict(self))

    def text(self) -> str:
        """The report: one screen of 80 columns."""
        parts = [self._head(), self._tensors(), self._checkpoints(), self._costs()]
        return "\n\n".join("\n".join(lines) for lines in parts if lines)

    def _head(self) -> list[str]:
        weights = sum(math.prod(tensor.shape) for tensor in self.tensors)
        what = f"{self.compared} steps in {self.dtype} on {self.device}: {len(self.tensors)} tensors, {weights} weights"
        lines = [*_wrapped(self.verdict), f"{what}."]
        if self.settings:
            lines += _wrapped(f"Settings that differ: {'; '.join(self.settings)}.")
        return lines

    def _tensors(self) -> list[str]:
        title = "Deviation on identical gradients" if self.shared_gradients else "Deviation of independent runs"
        cut = self.tensors if len(self.tensors) <= ROWS else self.tensors[: ROWS - 1]
        lines = [_row(title, "ulps", "moved", "relative"), *(_of(f"  {d.name}", d) for d in cut)]
        if rest := self.tensors[len(cut) :]:
            most = Deviation("", (), max(d.ulps for d in rest), max(d.relative for d in rest))
            lines.append(_of(f"  {len(rest)} more tensors, at most", most))
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
            way = f"  {found.source} -> {found.target}"
            lines.append(f"{_cut(way, 52):<52}{found.outcome:>14}{ulps:>14}".rstrip())
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


def _of(text: str, found: Deviation) -> str:
    return _row(text, number(found.ulps), "" if found.moved is None else number(found.moved), number(found.relative))


def _row(text: str, *cells: str) -> str:
    return (f"{_cut(text, NAME):<{NAME}}" + "".join(f"{cell:>{CELL}}" for cell in cells)).rstrip()


def number(value: float) -> str:
    """Few digits; 0 is exact.

    >>> [number(value) for value in (0.0, 1.5, 160.0, 31234.5, 1.2e-7, float("inf"))]
    ['0', '1.5', '160', '3.1e+04', '1.2e-07', 'inf']
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.3g}" if 0.1 <= abs(value) < 10_000 else f"{value:.1e}"


def _cut(text: str, width: int) -> str:
    """At most `width` characters, without the middle."""
    if len(text) <= width:
        return text
    head = width // 2 - 2
    return f"{text[:head]}...{text[len(text) - width + head + 3 :]}"


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, WIDTH)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
