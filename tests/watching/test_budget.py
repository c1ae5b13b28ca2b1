"""Cost control with a fake clock: the share of all measurements stays below the budget."""

from itertools import pairwise

import pytest
import torch

from dashpot.watching.budget import GRACE, Budget
from dashpot.watching.planning import Plan
from dashpot.watching.probe import Probe
from dashpot.watching.ranks import Ranks

CPU = torch.device("cpu")
STEP = 1.0  # seconds of a step


class Run:
    """A run whose steps and measurements advance a fake clock by known times."""

    def __init__(self, share, probes, steps=None):
        self.now = 0.0
        self.budget = Budget(share, steps, clock=lambda: self.now)
        self.plan = Plan(self.budget, Ranks())
        self.probes = probes
        self.measured = {probe.kind: [] for probe in probes}
        self.used = []

    def train(self, steps, step_time=STEP):
        for _ in range(steps):
            self.now += step_time
            with self.budget.hook(new_step=True):
                step = self.budget.steps_done
                for probe in self.plan.due(self.probes, step, CPU):
                    with self.budget.charge(probe.kind):
                        self.now += probe.cost
                    self.budget.finish(probe.kind, probe.cost)
                    self.measured[probe.kind].append(step)
            self.used.append(self.budget.used)
        return self


def probe(name, every_steps, seconds, estimate=0.1, cheap=False):
    class Timed(Probe):
        kind = name
        always = cheap
        prior = estimate
        every = every_steps
        cost = seconds

    return Timed()


def test_early_expensive_measurements_leave_no_gap_in_cheap_ones():
    probes = [
        probe("pulse", 1, 0.1, 0.005, cheap=True),  # half of the budget, at every second step
        probe("norms", 10, 0.07, 0.05),
        probe("temperature", 50, 0.5, 0.3),
        probe("dynamics", 200, 2.0, 1.0),
        probe("noise", 20, 1.0, 1.0),
        probe("curvature", 100, 4.0, 40.0),
    ]
    run = Run(0.1, probes, steps=1200).train(1200)
    assert len(run.measured["norms"]) == 120
    assert run.used[-1] <= 0.1 * 1.1  # the tenth of the budget that norms have of their own


def test_share_stays_below_budget_with_cheap_and_expensive_measurements():
    probes = [
        probe("pulse", 1, 0.003, 0.005, cheap=True),
        probe("norms", 10, 0.05),
        probe("noise", 100, 1.0, 1.0),
        probe("curvature", 100, 60.0, 60.0),
    ]
    run = Run(0.03, probes).train(12_000)
    assert max(run.used[GRACE:]) <= 0.03
    assert run.used[-1] > 0.025  # the budget is used
    assert len(run.measured["pulse"]) == 12_000
    assert len(run.measured["norms"]) > 1000  # not displaced while curvature waits
    assert len(run.measured["noise"]) > 100
    assert 2 <= len(run.measured["curvature"]) <= 4
    assert run.measured["curvature"][0] > 2000  # waits for credit


def test_expensive_measurement_is_early_in_a_long_run_of_known_length():
    probes = [probe("norms", 10, 0.05), probe("curvature", 2000, 60.0, 60.0)]
    known, unknown = (Run(0.03, probes, steps).train(6000) for steps in (6000, None))
    assert known.measured["curvature"][0] == 1
    assert unknown.measured["curvature"][0] > 1000
    assert known.used[-1] <= 0.03


def test_expensive_measurement_is_never_made_in_a_short_run():
    run = Run(0.03, [probe("curvature", 100, 60.0, 60.0)], steps=500).train(500)
    assert run.measured["curvature"] == []
    assert run.budget.waiting == ("curvature",)


def test_first_measurement_that_costs_more_than_estimated_is_paid_back():
    run = Run(0.03, [probe("curvature", 100, 60.0, 0.1)]).train(4100)
    assert run.measured["curvature"] == [1, 4001]  # 60 s are 3 % of 2000 steps, and the next one needs as much again
    assert run.used[3999] <= 0.03


def test_measurement_without_result_does_not_make_the_next_one_free():
    budget = Budget(0.5, clock=lambda: 0.0)
    budget.finish("noise", 8.0)
    budget.finish("noise", 0.0)
    assert budget.expected["noise"] == 4.0


def test_cheap_measurements_that_exceed_half_of_the_budget_are_thinned_and_reported_once():
    run = Run(0.03, [probe("pulse", 1, 0.1, 0.005, cheap=True)]).train(3000)
    assert run.plan.stretch == 8  # 10 % of the time at every step, 1.25 % at every 8th
    assert run.used[-1] <= 0.03
    [note] = run.plan.notes.values()
    assert note.startswith("Gradient norms and warnings are computed at one of 8 steps: at every step, they would take")
    assert run.measured["pulse"][-8:] == [2945, 2946, 2947, 2948, 2977, 2978, 2979, 2980]  # consecutive, for warnings
    steps = run.measured["pulse"][-20:]
    assert {b - a for a, b in pairwise(steps)} == {1, 29}


def test_measurement_that_the_budget_cannot_cover_at_its_period_is_reported():
    run = Run(0.03, [probe("norms", 10, 1.0)]).train(1000)
    assert run.used[-1] <= 0.03
    assert run.plan.notes["norms"] == (
        "norms is measured less often than every 10 steps: it would take 10.0% of the time, more than the budget of "
        "3.0%."
    )


def test_pause_between_steps_earns_no_credit():
    run = Run(0.03, []).train(100)
    before = run.budget.elapsed
    run.train(1, step_time=3600.0)
    assert run.budget.elapsed - before == pytest.approx(10 * STEP)


def test_budget_of_one_has_no_limit():
    run = Run(1.0, [probe("pulse", 1, 9.0, cheap=True), probe("norms", 2, 50.0)]).train(100)
    assert len(run.measured["pulse"]) == 100
    assert len(run.measured["norms"]) == 50


def test_bookkeeping_is_charged():
    now = [0.0]
    budget = Budget(0.1, clock=lambda: now[0])
    for _ in range(3):
        now[0] += 1.0
        with budget.hook(new_step=True):
            now[0] += 0.25
    assert budget.spent == {"hooks": 0.75}
    assert budget.used == pytest.approx(0.75 / 2)  # the time before the first step does not count


def test_measurement_of_several_steps_that_costs_too_much_is_interrupted():
    class Long(Probe):
        kind = "spectrum"
        every = 10_000
        cost = 1.0
        left = closed = 0

        @property
        def pending(self):
            return self.left > 0

        def is_due(self, step):
            return self.pending or super().is_due(step)

        def close(self):
            self.left, self.closed = 0, self.closed + 1

    long = Long()
    run = Run(0.03, [long])
    for _ in range(512):  # each step of the measurement costs as much as a step of the run
        run.train(1)
        long.left = 512 if run.measured["spectrum"] == [1] else long.left
    assert long.closed == 1
    assert run.measured["spectrum"] == list(range(1, run.measured["spectrum"][-1] + 1))
    assert run.used[-1] < 0.1
