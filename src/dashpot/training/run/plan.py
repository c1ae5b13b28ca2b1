"""What follows from the settings of a run: the task, its problem, and what makes the optimizer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from dashpot import tasks
from dashpot.runs.entries import Entry, entry
from dashpot.runs.metadata import run_metadata
from dashpot.runs.study import Study
from dashpot.tasks import Problem, Task
from dashpot.training.run.settings import Settings

__all__ = ["RunPlan"]


@dataclass(frozen=True)
class RunPlan:
    """Settings with all that follows from them: the task, its problem, and what makes the optimizer."""

    settings: Settings
    task: Task
    entry: Entry
    problem: Problem

    @classmethod
    def of(cls, settings: Settings) -> RunPlan:
        """Look up task and method, and complete the settings with what they left to the task and the machine.

        Raises:
            ArgumentError: no such task or method, or a value is out of range.
            DataError: the task's data are not there.

        >>> plan = RunPlan.of(Settings(task="digits", optimizer="adamw", threads=1))
        >>> plan.settings.lr, plan.settings.epochs, plan.steps
        (0.03, 12, 360)
        """
        task = tasks.get(settings.task, data_dir=settings.data_dir)
        line = entry(
            settings.optimizer, task.name, lr=settings.lr, schedule=settings.schedule, options=_options(settings)
        )
        complete = dataclasses.replace(
            settings,
            lr=line.lr,
            epochs=task.epochs if settings.epochs is None else settings.epochs,
            threads=max(1, torch.get_num_threads() // settings.devices)
            if settings.threads is None
            else settings.threads,
        )
        plan = cls(complete, task, line, task.build(complete.seed))
        plan.optimizer(plan.problem.model.parameters())  # finds bad settings before anything is written
        return plan

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        assert self.settings.epochs is not None
        return self.settings.epochs * self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch."""
        return -(-len(self.problem.train) // self.settings.accumulate)

    def optimizer(self, params: Any) -> torch.optim.Optimizer:
        """A fresh optimizer for the run."""
        return self.entry.optimizer(params, self.steps)

    def metadata(self, command: str | None) -> dict[str, Any]:
        """The first line of the record."""
        assert self.settings.epochs is not None
        study = Study(self.task, (self.entry,), (self.settings.seed,), self.settings.epochs, self.settings.threads)
        [plan] = study.runs()
        known = run_metadata(study, plan, self.problem, self.optimizer(self.problem.model.parameters()), command)
        return {
            **known,
            "call": self.entry.call(self.steps),
            "steps_per_epoch": self.steps_per_epoch,
            "run": self.settings.to_dict(),
        }

    @property
    def score(self) -> tuple[str, str]:
        """The metric that the run is judged by, and whether more of it is better: "max", or "min"."""
        study = Study(self.task, (self.entry,), (self.settings.seed,), 1)
        score = study.score(self.problem)
        return score["metric"], score["direction"]


def _options(settings: Settings) -> dict[str, Any]:
    """The optimizer's keyword arguments: its own settings, and what the run says of clipping and skipping."""
    running = {"max_norm": settings.max_norm, "clip_value": settings.clip_value}
    skip = {"nonfinite": "skip"} if settings.nonfinite == "skip" else {}
    return {**settings.set, **{name: value for name, value in running.items() if value is not None}, **skip}
