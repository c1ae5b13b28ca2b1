"""Synthetic results of comparisons: normal studies, and studies with every irregularity that reports must handle."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dashpot.comparison.results import Curve, JudgedRun, RateRun, Results, ScoreRule, TuningTrial

METHODS = ("adamw", "adam", "sgd", "nag", "autosgm-0", "rmsprop", "qhadam", "adagrad", "heavy-ball")
FACTORS = (0.1, 0.5, 2.0, 10.0)
HTML = ("<script>alert(1)</script>", 'a & "b"', "x|y")
"""Names that HTML and Markdown must escape."""


@dataclass(frozen=True)
class Scale:
    """Typical values of a metric: of the untrained model, of the best method, and the difference between methods."""

    untrained: float
    best: float
    gap: float


SCALES = {"accuracy": Scale(0.1, 0.88, -0.004), "loss": Scale(2.303, 0.34, 0.012)}


@dataclass
class Made:
    """Parameters of synthetic results.

    Attributes:
        methods: Names of the methods, from the best to the worst expected score.
        seeds: Number of seeds.
        metric: "accuracy" (larger is better) or "loss" (smaller is better).
        gap: Difference of the expected scores of neighbouring methods, in units of the scale of the metric.
        noise: Standard deviation over seeds, in the same units.
        target: Target value, None, or "near": six gaps below the best expected score.
        margin: Irrelevant difference, in the same units as `gap`, or None.
        statuses: Status of the runs that are not done, by (method, seed).
        trials: Number of tuning trials per method.
        rate_seeds: Number of seeds of the runs with wrong learning rates.
        split: Data of the verdict.
        steps: Number of steps of a run.
        points: Number of evaluations after step 0.
        seed: Seed of the random numbers.
        changes: Other fields of the results.
    """

    methods: Sequence[str] = METHODS[:4]
    seeds: int = 5
    metric: str = "accuracy"
    gap: float = 1.0
    noise: float = 0.5
    target: float | str | None = "near"
    margin: float | None = 1.0
    statuses: Mapping[tuple[str, int], str] = field(default_factory=dict)
    trials: int = 0
    rate_seeds: int = 0
    split: str = "test"
    steps: int = 1200
    points: int = 12
    seed: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)

    def results(self) -> Results:
        """Return the results."""
        self.scale = SCALES[self.metric]
        self.rng = np.random.default_rng(self.seed)
        self.rule = self._rule()
        self.blocks = self.rng.normal(size=self.seeds)
        runs = [self._run(i, seed) for i in range(len(self.methods)) for seed in range(self.seeds)]
        trials = [self._trial(i, number) for i in range(len(self.methods)) for number in range(self.trials)]
        rates = [self._rate(i, f, s) for i in range(len(self.methods)) for f in FACTORS for s in range(self.rate_seeds)]
        made = Results(
            task="fashion-mnist",
            description="10 classes of clothing, 28 x 28 grey images; a convolutional network.",
            rule=self.rule,
            methods=tuple(self.methods),
            seeds=tuple(range(self.seeds)),
            runs=tuple(runs),
            trials=self._selected(trials),
            rate_runs=tuple(rates),
            recipes={
                name: (f"dashpot.{name}(model.parameters(), lr=0.01)", "Recipe(lr=0.01)") for name in self.methods
            },
            protocol=(("Data", "54 000 training, 6000 validation, 10 000 test images"), ("Pairing", "by seed")),
            facts=(("Versions", "dashpot 0.2.0, torch 2.8.0"), ("Machine", "x86_64, 2 of 2 cores used, Linux")),
            command="dashpot compare fashion-mnist --seeds 5",
            source="runs/compare-fashion-mnist",
        )
        return replace(made, **self.changes)

    def _rule(self) -> ScoreRule:
        direction = "max" if self.metric == "accuracy" else "min"
        target = round(self.scale.best + 6 * self.scale.gap, 3) if self.target == "near" else self.target
        margin = None if self.margin is None else self.margin * abs(self.scale.gap)
        return ScoreRule(self.metric, direction, self.split, target, margin)

    def _final(self, method: int, seed: int) -> float:
        """Return a score: method effect, seed effect shared by all methods, and noise."""
        noise = self.noise * (0.6 * self.blocks[seed] + 0.8 * self.rng.normal())
        return float(self.scale.best + self.scale.gap * (self.gap * method + noise))

    def _run(self, method: int, seed: int) -> JudgedRun:
        name = self.methods[method]
        status = self.statuses.get((name, seed), "done")
        final = self._final(method, seed)
        curves = self._curves(final, status, rate=float(self.rng.uniform(6, 12)))
        score = final if status == "done" else self.scale.untrained if status == "diverged" else None
        return JudgedRun(
            method=name,
            seed=seed,
            status=status,
            score=score,
            steps_to_target=self._steps_to_target(curves, status),
            steps=self.steps,
            curves=curves,
            lr=0.01,
            cpu_s=None if score is None else float(self.rng.uniform(20, 30)),
            wall_s=None if score is None else float(self.rng.uniform(11, 16)),
            memory_bytes=None if score is None else 512 * 2**20,
            state_bytes=None if score is None else 4 * 2**20,
            error="ValueError: bad batch" if status == "failed" else None,
        )

    def _curves(self, final: float, status: str, rate: float) -> dict[str, Curve]:
        """Return curves that approach their final value exponentially; runs that are not done end after a third."""
        last = self.steps if status == "done" else self.steps // 3
        grid = np.arange(self.points + 1) * (self.steps / self.points)
        grid = grid[grid <= last]
        shape = np.exp(-rate * grid / self.steps)
        steps = np.unique(np.linspace(1, last, 150).round())
        losses = 0.3 + 2.0 * np.exp(-rate * steps / self.steps) + 0.05 * self.rng.normal(size=len(steps))
        values = final + (self.scale.untrained - final) * shape
        if status == "diverged":
            losses[-1] = math.inf
        if status == "done":
            values[-1] = final
        curves = {"train loss": Curve(steps, losses), f"validation {self.metric}": Curve(grid, values)}
        if self.metric != "loss":
            curves["validation loss"] = Curve(grid, 0.34 + 1.96 * shape)
        return curves

    def _steps_to_target(self, curves: Mapping[str, Curve], status: str) -> float:
        target = self.rule.target
        if target is None or status in ("failed", "unfinished"):
            return math.nan
        curve = curves[f"validation {self.metric}"]
        met = self.rule.sign * (curve.values - target) >= 0
        return float(curve.steps[met][0]) if status == "done" and met.any() else math.inf

    def _trial(self, method: int, number: int) -> TuningTrial:
        distance = abs(float(self.rng.normal())) * (number > 0)
        status = "diverged" if distance > 1.6 else "done"
        score = self.scale.best + self.scale.gap * (self.gap * method + 4 * distance) if status == "done" else None
        values = {"lr": 0.01 * 10**distance, "warmup": 0.1}
        return TuningTrial(self.methods[method], number, values, status, score)

    def _selected(self, trials: Sequence[TuningTrial]) -> tuple[TuningTrial, ...]:
        """Mark the best trial of each method as selected."""
        best = {}
        for trial in trials:
            if trial.score is not None:
                best.setdefault(trial.method, trial)
                known = best[trial.method].score
                if self.rule.sign * (trial.score - known) > 0:
                    best[trial.method] = trial
        return tuple(replace(trial, selected=best.get(trial.method) is trial) for trial in trials)

    def _rate(self, method: int, factor: float, seed: int) -> RateRun:
        diverged = factor == 10 and method % 3 == 2
        loss = 8 * abs(math.log10(factor)) ** 2
        score = self.scale.untrained if diverged else self._final(method, seed) + self.scale.gap * loss
        return RateRun(self.methods[method], factor, seed, "diverged" if diverged else "done", float(score))


def results(**parameters: Any) -> Results:
    """Return synthetic results; for the parameters, see `Made`."""
    return Made(**parameters).results()


def _everything() -> Results:
    """Return results of nine methods and five seeds with tuning, sensitivity, and a run of each status."""
    statuses = {("adagrad", 2): "diverged", ("nag", 4): "failed", ("heavy-ball", 1): "unfinished"}
    return results(methods=METHODS, trials=8, rate_seeds=2, statuses=statuses)


def _all_ended_badly(status: str) -> Results:
    return results(
        methods=("adamw", "sgd"), seeds=3, statuses={(m, s): status for m in ("adamw", "sgd") for s in range(3)}
    )


def _identical() -> Results:
    """Return results of two methods with the same scores."""
    made = results(methods=("adam", "adam-copy"))
    return replace(made, runs=tuple(run for a in made.of("adam") for run in (a, replace(a, method="adam-copy"))))


def _without_runs() -> Results:
    return replace(results(), runs=())


def _missing_runs() -> Results:
    """Return results in which a method has no run and another lacks two seeds."""
    made = results()
    return replace(made, runs=tuple(r for r in made.runs if r.method != "sgd" and (r.method != "nag" or r.seed < 3)))


CASES: Mapping[str, Callable[[], Results]] = {
    "plain": results,
    "clear": lambda: results(gap=6.0),
    "tied": lambda: results(gap=0.02),
    "everything": _everything,
    "minimized": lambda: results(metric="loss", trials=4, rate_seeds=2),
    "no target": lambda: results(target=None),
    "target nobody reaches": lambda: results(target=0.99),
    "no margin": lambda: results(target=None, margin=None),
    "one seed": lambda: results(seeds=1, trials=4, rate_seeds=1),
    "two seeds": lambda: results(seeds=2),
    "twenty seeds": lambda: results(seeds=20),
    "one method": lambda: results(methods=("adamw",), trials=3),
    "one run": lambda: results(methods=("adamw",), seeds=1),
    "one diverged": lambda: results(statuses={("sgd", 1): "diverged"}),
    "method diverges": lambda: results(statuses={("sgd", s): "diverged" for s in range(5)}),
    "all diverged": lambda: _all_ended_badly("diverged"),
    "all failed": lambda: _all_ended_badly("failed"),
    "all unfinished": lambda: _all_ended_badly("unfinished"),
    "no runs": _without_runs,
    "missing runs": _missing_runs,
    "identical": _identical,
    "html": lambda: results(methods=HTML, trials=3, rate_seeds=1),
    "long names": lambda: results(methods=tuple(f"{name}-with-a-very-long-name-of-an-entry" for name in METHODS)),
    "validation": lambda: results(split="validation"),
    "train": lambda: results(split="train"),
    "looks": lambda: results(seeds=10, changes={"looks": (5, 10, 20)}),
    "many seeds": lambda: results(methods=tuple(f"method-{i}" for i in range(10)), seeds=100, gap=0.5),
    "many methods": lambda: results(methods=tuple(f"method-{i}" for i in range(100)), seeds=10, gap=0.1),
}
"""Results by name of the case, created on demand."""


def case(name: str) -> Results:
    """Return the results of a case of `CASES`."""
    return CASES[name]()


def random_results(seed: int) -> Results:
    """Return results of random size with random statuses, missing runs and constant scores."""
    rng = np.random.default_rng(seed)
    methods, seeds = METHODS[: rng.integers(1, 7)], int(rng.integers(1, 9))
    kinds = ["done", "done", "done", "diverged", "failed", "unfinished"]
    statuses = {(name, s): str(rng.choice(kinds)) for name in methods for s in range(seeds) if rng.random() < 0.3}
    made = results(
        methods=methods,
        seeds=seeds,
        metric=str(rng.choice(list(SCALES))),
        gap=float(rng.choice([0.0, 0.1, 1.0, 5.0])),
        noise=float(rng.choice([0.0, 0.1, 1.0])),
        target=[None, "near", 0.5][rng.integers(3)],
        margin=[None, 1.0][rng.integers(2)],
        statuses=statuses,
        trials=int(rng.integers(0, 4)),
        rate_seeds=int(rng.integers(0, 2)),
        seed=seed,
    )
    kept = tuple(run for run in made.runs if rng.random() < rng.choice([0.7, 1.0]))
    return replace(made, runs=kept)
