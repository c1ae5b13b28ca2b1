"""Studies: comparisons of methods on one task, over several seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from dashpot.constraints import Interval, check, unknown
from dashpot.data.length import length
from dashpot.errors import ArgumentError
from dashpot.runs.choices import COUNT, THREADS
from dashpot.runs.entries import Entry
from dashpot.tasks import Problem, Target, Task

SEED = Interval(0, 2**32, "left", integer=True)


@dataclass(frozen=True)
class StudyRun:
    """Run of a study, defined by an entry and a seed."""

    entry: Entry
    seed: int

    def __str__(self) -> str:
        return f"{self.entry.name} seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """Settings of a comparison.

    Runs with the same seed are paired: they have the same initial weights, batches and training noise.

    Args:
        task: Task to train, from `dashpot.tasks.get` or user-defined.
        entries: Methods to compare, at least one; names must be unique.
        seeds: Seeds of the runs, at least one; unique integers in [0, 2**32).
        epochs: Number of epochs in every run, at least 1.
        threads: Number of torch threads, at least 1; None leaves the number unchanged.

    Raises:
        ArgumentError: If a value is out of range, or if a name or seed is repeated.

    >>> from dashpot import tasks
    >>> from dashpot.comparison import entry
    >>> study = Study(tasks.get("digits"), (entry("adam", "digits"), entry("sgd", "digits")), seeds=(0, 1), epochs=2)
    >>> [str(run) for run in study.runs()]
    ['adam seed 0', 'sgd seed 0', 'adam seed 1', 'sgd seed 1']
    """

    task: Task
    entries: tuple[Entry, ...]
    seeds: tuple[int, ...]
    epochs: int
    threads: int | None = None

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        if not names or len(set(names)) != len(names):
            raise ArgumentError(f"Study: entries must contain at least one entry, with unique names, got {names}.")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ArgumentError(f"Study: seeds must contain at least one seed, without repetition, got {self.seeds}.")
        for seed in self.seeds:
            check("Study", "seeds", seed, SEED)
        check("Study", "epochs", self.epochs, COUNT)
        check("Study", "threads", self.threads, THREADS)

    def runs(self) -> list[StudyRun]:
        """Return all runs, ordered by seed, so that an interrupted study contains all methods for the first seeds."""
        return [StudyRun(entry, seed) for seed in self.seeds for entry in self.entries]

    def settings(self) -> dict[str, Any]:
        """Return the settings that identify the study as plain data, after creating every optimizer as a check."""
        problem = self.task.build(self.seeds[0])
        steps = length(problem.train)
        if steps is None:
            raise ArgumentError(
                f"Study: the training data of {self.task.name} must have a length, the number of steps per epoch."
            )
        total = steps * self.epochs
        built = {entry.name: entry.optimizer(problem.model.parameters(), total) for entry in self.entries}
        return {
            "task": self.task.name,
            "config": dict(self.task.config),
            "score": self.score(problem),
            "epochs": self.epochs,
            "steps_per_epoch": steps,
            "seeds": list(self.seeds),
            "threads": self.threads,
            "methods": {entry.name: entry.call(total) for entry in self.entries},
            "recipes": {name: describe(optimizer)["recipe"] for name, optimizer in built.items()},
        }

    def score(self, problem: Problem) -> dict[str, Any]:
        """Return the metric that ranks methods, with its direction, phase and target value.

        The metric is the metric of the task's target if it has one, else the accuracy if it is measured, else the loss.
        """
        target = self.task.target
        if target is None:
            accuracy = "accuracy" in problem.metrics
            target = Target("accuracy" if accuracy else "loss", 0.0, "max" if accuracy else "min")
        if target.metric not in ("loss", *problem.metrics):
            raise unknown(f"metric in the target of {self.task.name}:", target.metric, ["loss", *problem.metrics])
        return {
            "metric": target.metric,
            "direction": target.direction,
            "phase": "train" if problem.evaluation is None else "eval",
            "target": None if self.task.target is None else target.value,
        }


def describe(optimizer: Optimizer) -> dict[str, Any]:
    """Return the optimizer's recipe, or its class and defaults if there is no recipe, as an expression and plain data.

    >>> import torch
    >>> describe(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5))["recipe"].split(", ")[:2]
    ['SGD(lr=0.5', 'momentum=0']
    """
    recipe = getattr(optimizer, "recipe", None)
    if recipe is not None:
        return {"recipe": repr(recipe), "settings": recipe.to_dict()}
    values = ", ".join(f"{name}={value!r}" for name, value in optimizer.defaults.items())
    return {"recipe": f"{type(optimizer).__name__}({values})", "settings": dict(optimizer.defaults)}
