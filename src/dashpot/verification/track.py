"""A side whose weights are held against those of the reference after every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dashpot.verification.deviation import Distance
from dashpot.verification.side import Side

__all__ = ["First", "Track"]


@dataclass(frozen=True)
class First:
    """The first step after which a tensor deviates by more ulps than are allowed by then."""

    step: int
    name: str
    ulps: float
    allowed: float


@dataclass
class Track:
    """A side with its deviations from the reference so far.

    Args:
        side: what is run; None once it has failed.
        distances: of every tensor after the last step that was judged.
        first: the first deviation that is not allowed.
        failed: why it could not go on.
    """

    side: Side | None
    distances: Mapping[str, Distance] = field(default_factory=dict)
    first: First | None = None
    failed: str | None = None

    @property
    def ulps(self) -> float:
        """The largest deviation after the last step that was judged."""
        return max((distance.ulps for distance in self.distances.values()), default=0.0)

    def attempt(self, action: Callable[[Side], object]) -> None:
        """Run an action that may not work, because state of another class was loaded."""
        if self.side is None:
            return
        try:
            action(self.side)
        except Exception as error:  # whatever a foreign class raises, it is the answer
            reason = str(error).partition("\n")[0].rstrip(".")
            self.side, self.failed = None, f"{type(error).__name__}: {reason}"

    def judge(self, step: int, allowed: float, distances: Mapping[str, Distance], *, final: bool) -> None:
        """Note the deviations after a step; `final` where the weights are no longer finite, so that only a
        disagreement is of interest."""
        name = max(distances, key=lambda name: distances[name].ulps)
        excess = distances[name].ulps > allowed
        if self.first is None and excess:
            self.first = First(step, name, distances[name].ulps, allowed)
        if excess or not final:
            self.distances = distances
