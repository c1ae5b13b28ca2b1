"""Sweeps over learning rates, with the rate chosen by runs with other seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from dashpot.experiments.progress import tracked
from dashpot.experiments.rate_sweep import Sweep, sweep
from dashpot.recipes.recipe import Recipe

TUNING = ("tune 0", "tune 1")
"""Seeds of the runs that choose the learning rate."""
_Case = TypeVar("_Case")


@dataclass(frozen=True)
class TunedSweep:
    """Sweep of one method.

    Args:
        judged: Results of the seeds that did not choose the rate.
        best: Index of the chosen rate.
    """

    judged: Sweep
    best: int

    def data(self) -> dict[str, Any]:
        """Return rates, losses over the rates, and the results at the chosen rate, as plain data."""
        return {
            "rates": list(self.judged.rates),
            "losses": geometric_means(self.judged.loss),
            "rate": self.judged.rates[self.best],
            "loss": self.judged.loss[self.best].clamp(1e-12, 1e3).tolist(),
            "accuracy": self.judged.accuracy[self.best].tolist(),
        }


def tuned_sweep(
    recipe: Recipe, rates: Sequence[float], seeds: Sequence[int], steps: int, *, quick: bool, **options: Any
) -> TunedSweep:
    """Train networks at each rate with `TUNING` and the given seeds, and choose the rate with the smallest loss.

    Args:
        recipe: Method without schedules.
        rates: Learning rates, increasing.
        seeds: Seeds of the judged runs.
        steps: Number of steps.
        quick: Whether to use three of the rates and six steps only.
        options: Arguments of `rate_sweep.sweep`.
    """
    keys: list[Any] = [*TUNING, *seeds]
    found = sweep(recipe, rates[2:7:2] if quick else rates, keys, 6 if quick else steps, **options)
    count = len(TUNING)
    return TunedSweep(_selected(found, slice(count, None)), _selected(found, slice(count)).best())


def tuned_sweeps(
    cases: Mapping[str, _Case], chosen: Sequence[str] | None, results: Callable[[_Case], dict[str, Any]]
) -> dict[str, Any]:
    """Return the results of the chosen cases, or of all if None, by name; report the progress."""
    cases = {name: case for name, case in cases.items() if chosen is None or name in chosen}
    return {name: results(case) for name, case in tracked(cases.items(), "learning rates on the digits")}


def grid(low: float, count: int) -> tuple[float, ...]:
    """Return learning rates with four per decade.

    >>> grid(0.01, 5)
    (0.01, 0.017783, 0.031623, 0.056234, 0.1)
    """
    return tuple(float(f"{low * 10 ** (k / 4):.5g}") for k in range(count))


def _selected(found: Sweep, chosen: slice) -> Sweep:
    """Return the results of some of the seeds."""
    return Sweep(found.rates, *(part[:, chosen] for part in (found.loss, found.accuracy, found.applied)))


def geometric_means(losses: Tensor) -> list[float]:
    """Return the geometric mean over seeds for each rate, with losses limited to 1000."""
    return losses.clamp(1e-12, 1e3).log().mean(1).exp().tolist()
