"""Deviations of a replica from the reference, recorded at each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dashpot.utils.format import reason
from dashpot.verification.deviation import Distance
from dashpot.verification.replica import Replica


@dataclass(frozen=True)
class FirstDeviation:
    """First step and tensor with a deviation above the tolerance `allowed`. `ulps` and `allowed` are in ulps."""

    step: int
    name: str
    ulps: float
    allowed: float


@dataclass
class ReplicaCheck:
    """A replica and its deviations from the reference so far.

    Args:
        replica: The replica under test; None after a failure.
        distances: Distance of each tensor after the last recorded step.
        first: First deviation above the tolerance, or None.
        failure: Type and message of the exception that stopped the replica, or None.
    """

    replica: Replica | None
    distances: Mapping[str, Distance] = field(default_factory=dict)
    first: FirstDeviation | None = None
    failure: str | None = None

    @property
    def ulps(self) -> float:
        """Largest deviation in ulps after the last recorded step."""
        return max((distance.ulps for distance in self.distances.values()), default=0.0)

    def attempt(self, action: Callable[[Replica], object]) -> None:
        """Call `action` with the replica, and record an exception, since a state from a different class may fail."""
        if self.replica is None:
            return
        try:
            action(self.replica)
        except Exception as error:  # optimizers of other libraries may raise any exception
            self.replica, self.failure = None, f"{type(error).__name__}: {reason(error)}"

    def record(self, step: int, allowed: float, distances: Mapping[str, Distance], *, finite: bool) -> None:
        """Record the deviations after a step. With non-finite weights, record only deviations above the tolerance."""
        name = max(distances, key=lambda name: distances[name].ulps)
        excess = distances[name].ulps > allowed
        if self.first is None and excess:
            self.first = FirstDeviation(step, name, distances[name].ulps, allowed)
        if excess or finite:
            self.distances = distances
