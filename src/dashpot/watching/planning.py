"""The choice of the probes that measure at a step, equal on all ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from dashpot.watching.budget import Budget
from dashpot.watching.probe import Probe
from dashpot.watching.ranks import Ranks

_RETRY = 10  # steps between the attempts of kinds that wait for credit
_REVIEW = 64  # steps between reviews of the probes that always run
_BURST = 4  # consecutive steps of thinned probes, since warnings compare consecutive gradients
_SHARE = 0.5  # of the budget, for the probes that always run


class Plan:
    """Choice of the probes of each step.

    Probes that always run are due at one of `stretch` steps, in bursts, with the smallest power of two for which they
    take at most half of the budget. Other probes need credit.

    Attributes:
        stretch: Factor on the period of the probes that always run.
        notes: Sentences about measurements that are made less often than intended.
    """

    def __init__(self, budget: Budget, ranks: Ranks) -> None:
        self.budget, self.ranks = budget, ranks
        self.stretch = 1
        self.notes: dict[str, str] = {}

    def due(self, probes: Sequence[Probe], step: int, device: torch.device) -> list[Probe]:
        """Return the probes that measure at a step, in order."""
        due = [probe for probe in probes if probe.is_due(step)]
        granted = [probe for probe in due if probe.pending or (probe.always and self._is_always_due(probe, step))]
        wanted = [probe for probe in probes if not probe.always and self._is_wanted(probe, step)]
        wanted = [probe for probe in wanted if probe not in granted]
        reviewed = [-self._needed_stretch(probes), float(not self.budget.is_overdrawn)] if _is_review(step) else []
        values = self.ranks.least([*self._affordable(wanted), *reviewed], device)
        allowed = [probe for probe, value in zip(wanted, values, strict=False) if value]
        for probe in wanted:
            if probe not in allowed:
                self.budget.wait(probe.kind)
        if reviewed:
            self._review(probes, stretch=-int(values[-2]))
            if not values[-1]:
                granted = self._interrupt(granted)
        return [probe for probe in probes if probe in allowed or probe in granted]

    def _is_wanted(self, probe: Probe, step: int) -> bool:
        return probe.is_due(step) or (step % _RETRY == 1 and probe.kind in self.budget.waiting)

    def _is_always_due(self, probe: Probe, step: int) -> bool:
        number = (step - 1) // probe.every
        return probe.is_due(step) and number % (_BURST * self.stretch) < _BURST

    def _affordable(self, wanted: Sequence[Probe]) -> list[float]:
        """Return 1 for each probe that the credit covers, else 0."""
        found = []
        for probe in wanted:
            found.append(float(self.budget.affords(probe.kind, probe.prior)))
            if found[-1]:
                self.budget.reserve(probe.kind, probe.prior)
        return found

    def _needed_stretch(self, probes: Sequence[Probe]) -> int:
        """Return the stretch for which the probes that always run take at most their share; reluctant to decrease."""
        if self.budget.share == 1:
            return 1
        load = sum(self.budget.load(probe.kind, probe.every) for probe in probes if probe.always)
        needed = load / (_SHARE * self.budget.share)
        power = 2 ** max(math.ceil(math.log2(needed)), 0) if needed > 0 else 1
        return power if power > self.stretch or needed < self.stretch / 4 else self.stretch

    def _review(self, probes: Sequence[Probe], stretch: int) -> None:
        self.stretch = stretch
        if stretch > 1 and "always" not in self.notes:
            load = sum(self.budget.load(probe.kind, probe.every) for probe in probes if probe.always)
            self.notes["always"] = (
                f"Gradient norms and warnings are computed at one of {stretch} steps: at every step, they would take "
                f"{load:.1%} of the time, more than half of the budget of {self.budget.share:.1%}."
            )
        for probe in probes:
            self._note(probe)

    def _interrupt(self, granted: list[Probe]) -> list[Probe]:
        """End the measurements of several steps; return the other probes."""
        for probe in granted:
            if probe.pending:
                probe.close()
                self.budget.abandon(probe.kind)
        return [probe for probe in granted if probe.always]

    def _note(self, probe: Probe) -> None:
        load = self.budget.load(probe.kind, probe.every)
        if not probe.always and load > self.budget.share < 1 and probe.kind not in self.notes:
            self.notes[probe.kind] = (
                f"{probe.kind} is measured less often than every {probe.every} steps: it would take {load:.1%} of the "
                f"time, more than the budget of {self.budget.share:.1%}."
            )


def _is_review(step: int) -> bool:
    return step % _REVIEW == 0 or (step < _REVIEW and step & (step - 1) == 0)
