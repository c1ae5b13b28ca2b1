"""Studies: comparisons of methods on one task, over several seeds, with or without tuning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch.optim import Optimizer

from dashpot.constraints import Interval, check, unknown
from dashpot.data.length import length
from dashpot.errors import ArgumentError
from dashpot.runs.choices import COUNT, THREADS
from dashpot.runs.combined_optimizer import CombinedOptimizer
from dashpot.runs.entry import Entry, has_decay
from dashpot.runs.search_space import search_space
from dashpot.runs.tuning_options import ALL_SETTINGS, BUDGET, SAMPLERS, SETTINGS
from dashpot.scheduling.dimension import Dimension
from dashpot.scheduling.suggestions import PRUNERS
from dashpot.tasks import Problem, Target, Task

SEED = Interval(0, 2**32, "left", integer=True)
TUNING_SEED = 1000
"""Seed of all tuning runs; the next free number if a comparison uses it."""
EVALUATIONS = 12
"""Number of evaluations during a run, if `evaluate_every` is not given."""
RATE_FACTORS = (0.1, 0.5, 2.0, 10.0)
"""Factors of the learning rate in the runs that measure the sensitivity to it."""
RATE_SEEDS = 2
LOOK = Interval(2, math.inf, "left", integer=True)
MARGIN = Interval(0, math.inf, "neither")


@dataclass(frozen=True)
class Study:
    """Settings of a comparison.

    Runs with the same seed are paired: they have the same initial weights, batches and training noise. With a `budget`,
    the settings of every method are first tuned on the validation data, with one seed that is not among `seeds`.

    Args:
        task: Task to train, from `dashpot.tasks.get` or user-defined.
        entries: Methods to compare, at least one; names must be unique.
        seeds: Seeds of the judged runs, unique integers in [0, 2**32); at least one, or none to only tune with a
            `budget`.
        epochs: Number of epochs in every run, at least 1.
        threads: Number of torch threads, at least 1; None leaves the number unchanged.
        budget: Number of tuning trials per method, at least 0; the first one uses the settings of the entry.
        tune: Settings to tune, of "lr", "weight_decay", "momentum", "warmup" and "beta2", and of the search spaces that
            entries define themselves; see `dashpot.runs.search_space`.
        spaces: Search spaces by name of the entry, instead of those of `tune`.
        sampler: Source of the further trials: "qmc" (scrambled Sobol sequence) or "tpe" (of Optuna). With "grid", all
            trials, the first one included, are evenly spaced values of one setting.
        pruner: "none", or "median": a trial ends early if it is worse than the median of the others at the same step.
        evaluate_every: Number of steps between evaluations, at least 1. Default: a twelfth of all steps, rounded up.
        looks: Numbers of seeds at which a group-sequential study is analysed, increasing up to the number of `seeds`.
            The study ends at the first look that decides every pair. Empty: all seeds are run.
        rate_seeds: Number of seeds at which each method is also run with a wrong learning rate, from 0 to the number
            of `seeds`. Default: at most 2 with a budget, else 0.
        margin: Largest irrelevant difference of the score, > 0. Default: that of the task.
        names: Names and numbers from which `dashpot.runs.study_names.study_of_names` makes this study; None for a study
            of Python objects, which runs in one process.

    Raises:
        ArgumentError: If a value is out of range, or if a name or seed is repeated.

    >>> from dashpot import tasks
    >>> from dashpot.comparison import entry
    >>> study = Study(tasks.get("digits"), (entry("adam", "digits"), entry("sgd", "digits")), seeds=(0, 1), epochs=2)
    >>> study.tuning_seed, study.search_spaces
    (1000, {'adam': {}, 'sgd': {}})
    """

    task: Task
    entries: tuple[Entry, ...]
    seeds: tuple[int, ...]
    epochs: int
    threads: int | None = None
    budget: int = 0
    tune: tuple[str, ...] = SETTINGS
    spaces: Mapping[str, Mapping[str, Dimension]] | None = None
    sampler: str = "qmc"
    pruner: str = "none"
    evaluate_every: int | None = None
    looks: tuple[int, ...] = ()
    rate_seeds: int | None = None
    margin: float | None = None
    names: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        if not names or len(set(names)) != len(names):
            raise ArgumentError(f"Study: entries must contain at least one entry, with unique names, got {names}.")
        if not (self.seeds or self.budget) or len(set(self.seeds)) != len(self.seeds):
            raise ArgumentError(f"Study: seeds must contain at least one seed, without repetition, got {self.seeds}.")
        for seed in self.seeds:
            check("Study", "seeds", seed, SEED)
        check("Study", "epochs", self.epochs, COUNT)
        check("Study", "threads", self.threads, THREADS)
        check("Study", "budget", self.budget, BUDGET)
        check("Study", "sampler", self.sampler, SAMPLERS)
        check("Study", "pruner", self.pruner, PRUNERS)
        for name, allowed in (("evaluate_every", COUNT), ("margin", MARGIN)):
            if getattr(self, name) is not None:
                check("Study", name, getattr(self, name), allowed)
        if self.rate_seeds is not None:
            check("Study", "rate_seeds", self.rate_seeds, Interval(0, len(self.seeds), "both", integer=True))
        self._check_tuning(names)
        _check_looks(self.looks, len(self.seeds))

    def _check_tuning(self, names: list[str]) -> None:
        known = {*ALL_SETTINGS, *(name for entry in self.entries for name in entry.space)}
        for name in self.tune:
            if name not in known:
                raise unknown("setting to tune", name, known)
        for name in self.spaces or {}:
            if name not in names:
                raise unknown("method in spaces", name, names)
        if self.budget and self.sampler == "grid":
            for name, space in self.search_spaces.items():
                if len(space) > 1:
                    tuned = ", ".join(space)
                    raise ArgumentError(f"Study: the sampler grid tunes one setting, got {tuned} of {name}.")

    def entry(self, name: str) -> Entry:
        """Return the entry with a name."""
        return next(entry for entry in self.entries if entry.name == name)

    @property
    def tuning_seed(self) -> int:
        """Seed of the tuning runs, which is not among `seeds`."""
        return next(seed for seed in range(TUNING_SEED, 2**32) if seed not in self.seeds)

    @cached_property
    def search_spaces(self) -> dict[str, dict[str, Dimension]]:
        """Search space of each entry by name; empty without a budget."""
        if not self.budget:
            return {entry.name: {} for entry in self.entries}
        given = self.spaces or {}
        return {e.name: dict(given[e.name]) if e.name in given else self._space(e) for e in self.entries}

    def _space(self, entry: Entry) -> dict[str, Dimension]:
        """Return the search space of an entry by `tune`, without the names of other entries' own spaces."""
        return search_space(entry, tuple(name for name in self.tune if name in ALL_SETTINGS or name in entry.space))

    def trials(self, name: str) -> int:
        """Return the number of tuning trials of an entry, which is 0 if it has no setting to tune."""
        return self.budget if self.search_spaces[name] else 0

    @property
    def rated_seeds(self) -> tuple[int, ...]:
        """Seeds of the runs with wrong learning rates."""
        default = min(RATE_SEEDS, len(self.seeds)) if self.budget else 0
        return self.seeds[: default if self.rate_seeds is None else self.rate_seeds]

    def settings(self) -> dict[str, Any]:
        """Return the settings that identify the study as plain data, after creating every optimizer as a check.

        The first call builds the task; further calls return the same object.
        """
        return self._settings

    @cached_property
    def _settings(self) -> dict[str, Any]:
        problem = self.task.build((*self.seeds, self.tuning_seed)[0])
        steps = length(problem.train)
        if steps is None:
            raise ArgumentError(
                f"Study: the training data of {self.task.name} must have a length, the number of steps per epoch."
            )
        total = steps * self.epochs
        every = -(-total // EVALUATIONS) if self.evaluate_every is None else self.evaluate_every
        built = {entry.name: entry.optimizer_of(problem.model, total) for entry in self.entries}
        self._check_decay(built)
        files = {entry.name: entry.file_sha256 for entry in self.entries if entry.file_sha256 is not None}
        return {
            "task": self.task.name,
            "config": dict(self.task.config),
            "score": self.score(problem),
            "epochs": self.epochs,
            "steps_per_epoch": steps,
            "steps": total,
            "evaluate_every": min(every, total),
            "seeds": list(self.seeds),
            "looks": list(self.looks),
            "threads": self.threads,
            "methods": {entry.name: entry.call(total) for entry in self.entries},
            "recipes": {name: describe(optimizer)["recipe"] for name, optimizer in built.items()},
            **({"files": files} if files else {}),  # studies without such entries have no item
            "tuning": self._tuning(),
            "rates": {"factors": list(RATE_FACTORS), "seeds": list(self.rated_seeds)},
        }

    def _check_decay(self, built: Mapping[str, Optimizer]) -> None:
        """Check that an entry with `no_decay` has a weight decay."""
        named = [entry.name for entry in self.entries if entry.no_decay]
        if named and not any(has_decay(built[name]) for name in named):
            raise ArgumentError(
                f"Study: no_decay requires weight decay, which {', '.join(named)} lack by default; add --set "
                "weight_decay=VALUE."
            )

    def _tuning(self) -> dict[str, Any]:
        spaces = {
            name: {key: {"low": item.low, "high": item.high, "log": item.log} for key, item in space.items()}
            for name, space in self.search_spaces.items()
        }
        return {
            "budget": self.budget,
            "seed": self.tuning_seed,
            "sampler": self.sampler,
            "pruner": self.pruner,
            "spaces": spaces,
        }

    def score(self, problem: Problem) -> dict[str, Any]:
        """Return the metric that ranks methods, with its direction, phase, target value, split and margin.

        The metric is the metric of the task's target if it has one, else the accuracy if it is measured, else the loss.
        The phase "eval" or "train" provides the values during a run, from which the target and the tuning are judged;
        the split "test", "validation" or "train" provides the final score.
        """
        target = self.task.target
        if target is None:
            accuracy = "accuracy" in problem.metrics
            target = Target("accuracy" if accuracy else "loss", 0.0, "max" if accuracy else "min")
        if target.metric not in ("loss", *problem.metrics):
            raise unknown(f"metric in the target of {self.task.name}:", target.metric, ["loss", *problem.metrics])
        phase = "train" if problem.evaluation is None else "eval"
        tested = problem.test is not None
        return {
            "metric": target.metric,
            "direction": target.direction,
            "phase": phase,
            "target": None if self.task.target is None else target.value,
            "split": "test" if tested else "validation" if phase == "eval" else "train",
            "margin": self.task.margin if self.margin is None else self.margin,
        }


def _check_looks(looks: tuple[int, ...], seeds: int) -> None:
    if not looks:
        return
    for look in looks:
        check("Study", "looks", look, LOOK)
    if list(looks) != sorted(set(looks)) or looks[-1] != seeds:
        raise ArgumentError(f"Study: looks must increase up to the number of seeds, {seeds}, got {looks}.")


def describe(optimizer: Optimizer) -> dict[str, Any]:
    """Return the optimizer's recipe, or its class and defaults if there is no recipe, as an expression and plain data.

    >>> import torch
    >>> describe(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5))["recipe"].split(", ")[:2]
    ['SGD(lr=0.5', 'momentum=0']
    """
    recipe = getattr(optimizer, "recipe", None)
    if recipe is not None:
        return {"recipe": repr(recipe), "settings": recipe.to_dict()}
    if isinstance(optimizer, CombinedOptimizer):
        return _describe_parts(optimizer)
    values = ", ".join(f"{name}={value!r}" for name, value in optimizer.defaults.items())
    return {"recipe": f"{type(optimizer).__name__}({values})", "settings": dict(optimizer.defaults)}


def _describe_parts(optimizer: CombinedOptimizer) -> dict[str, Any]:
    """Return the recipes of the parts with their roles, and their settings by number and class."""
    parts = [describe(part) for part in optimizer.parts]
    roles = [f" on {role}" for role in optimizer.roles] or [""] * len(parts)
    names = [f"{number}: {type(part).__name__}" for number, part in enumerate(optimizer.parts)]
    return {
        "recipe": "; ".join(part["recipe"] + role for part, role in zip(parts, roles, strict=True)),
        "settings": {name: part["settings"] for name, part in zip(names, parts, strict=True)},
    }
