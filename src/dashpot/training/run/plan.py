"""Plan of a run: the completed settings, the task and its problem, and the optimizer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from dashpot import tasks
from dashpot.data.length import length
from dashpot.errors import ArgumentError
from dashpot.runs.entries import entry
from dashpot.runs.entry import Entry, has_decay
from dashpot.runs.metadata import run_metadata
from dashpot.runs.settings import Settings
from dashpot.runs.study import Study
from dashpot.tasks import Problem, Task
from dashpot.training.callback import Callback
from dashpot.training.callbacks.freeze import matching_params
from dashpot.training.entry_callbacks import entry_callbacks
from dashpot.training.run.loggers import check_packages


@dataclass(frozen=True)
class RunPlan:
    """Completed settings with the task, its problem and the entry that creates the optimizer."""

    settings: Settings
    task: Task
    entry: Entry
    problem: Problem

    @classmethod
    def of(cls, settings: Settings) -> RunPlan:
        """Look up the task and the method, and fill in settings whose defaults depend on the task or the machine.

        Raises:
            ArgumentError: If the task or method does not exist, or a value is out of range.
            DataError: If the data of the task are not available.
            RunError: If the package of a log is not installed.

        >>> plan = RunPlan.of(Settings(task="digits", optimizer="adamw", threads=1))
        >>> plan.settings.lr, plan.settings.epochs, plan.steps
        (0.01, 12, 288)
        """
        check_packages(settings.log)
        task = load_task(settings)
        method = entry(
            settings.optimizer, task.name, lr=settings.lr, schedule=settings.schedule, options=_options(settings)
        )
        threads = max(1, torch.get_num_threads() // settings.devices)
        complete = dataclasses.replace(
            settings,
            lr=method.lr,
            epochs=task.epochs if settings.epochs is None and settings.steps is None else settings.epochs,
            threads=threads if settings.threads is None else settings.threads,
        )
        grouped = dataclasses.replace(method, no_decay=settings.no_decay)
        plan = cls(complete, task, grouped, task.build(complete.seed))
        if complete.steps is None and complete.evaluate_every is not None and plan._steps_per_pass is None:
            raise plan._unknown_steps("evaluate_every")
        plan.optimizer(plan.problem.model.parameters())  # rejects invalid settings before anything is written
        matching_params(plan.problem.model, [pattern for pattern, _ in settings.frozen()])
        return plan

    @property
    def steps(self) -> int | None:
        """Number of optimizer steps in the whole run; None if the data have no length and `epochs` is set."""
        if self.settings.steps is not None:
            return self.settings.steps
        assert self.settings.epochs is not None
        return None if self._steps_per_pass is None else self.settings.epochs * self._steps_per_pass

    @property
    def steps_per_epoch(self) -> int | None:
        """Number of optimizer steps per epoch, or between two evaluations; None if it is unknown."""
        if self.settings.evaluate_every is not None:
            return self.settings.evaluate_every
        return self.settings.steps if self._steps_per_pass is None else self._steps_per_pass

    @property
    def _steps_per_pass(self) -> int | None:
        batches = length(self.problem.train)
        return None if batches is None else -(-batches // self.settings.accumulate)

    @property
    def epochs(self) -> int:
        """Number of epochs, or of evaluations if the length of the run is given in steps."""
        if self.settings.steps is None and self.settings.evaluate_every is None:
            assert self.settings.epochs is not None
            return self.settings.epochs
        return -(-(self.steps or 1) // (self.steps_per_epoch or 1))

    @property
    def callbacks(self) -> list[Callback]:
        """Callbacks that schedule and clip if the optimizer does not."""
        return entry_callbacks(self.entry, self._schedule_steps)

    @property
    def call(self) -> str:
        """Expression that creates the optimizer."""
        return self.entry.call(self._schedule_steps)

    def optimizer(self, params: Any) -> torch.optim.Optimizer:
        """Create an optimizer over `params`, or with `no_decay` over groups of the parameters of the model."""
        if not self.entry.no_decay:
            return self.entry.optimizer(params, self._schedule_steps, self.problem.model)
        optimizer = self.entry.optimizer_of(self.problem.model, self._schedule_steps)
        if not has_decay(optimizer):
            raise ArgumentError(
                f"train: no_decay requires weight decay, which {self.entry.name} lacks by default; add --set "
                "weight_decay=VALUE."
            )
        return optimizer

    @property
    def _schedule_steps(self) -> int:
        """Number of steps of the schedule; any number if the number is unknown and there is no schedule.

        Raises:
            ArgumentError: If the number of steps is unknown and there is a schedule.
        """
        if self.steps is None and self.entry.schedule is not None:
            raise self._unknown_steps("schedule")
        return self.steps or 1

    def _unknown_steps(self, name: str) -> ArgumentError:
        """Return the error for the setting `name`, which requires a number of steps."""
        return ArgumentError(
            f"train: steps must be given with {name}={getattr(self.settings, name)}, because the training data of "
            f"{self.task.name} have no length."
        )

    def metadata(self, command: str | None) -> dict[str, Any]:
        """Return the header of the record, which is the first line of the file."""
        optimizer = self.optimizer(self.problem.model.parameters())
        return {
            **run_metadata(
                self._study(),
                self.entry,
                self.settings.seed,
                self.problem,
                optimizer,
                command,
                call=self.call,
                steps_per_epoch=self.steps_per_epoch,
            ),
            "run": self.settings.to_dict(),
        }

    @property
    def score(self) -> tuple[str, str]:
        """Name of the metric that ranks epochs, and its direction, "max" or "min"."""
        score = self._study().score(self.problem)
        return score["metric"], score["direction"]

    def _study(self) -> Study:
        return Study(self.task, (self.entry,), (self.settings.seed,), self.epochs, self.settings.threads)


def load_task(settings: Settings) -> Task:
    """Return the task of a run, with the options in its settings."""
    return tasks.get(settings.task, data_dir=settings.data_dir, **settings.options_of_task())


def _options(settings: Settings) -> dict[str, Any]:
    """Return the optimizer's keyword arguments: the values in `set`, and options for clipping and non-finite values."""
    clipping = {"max_norm": settings.max_norm, "clip_value": settings.clip_value}
    skip = {"nonfinite": "skip"} if settings.nonfinite == "skip" else {}
    return {**settings.set, **{name: value for name, value in clipping.items() if value is not None}, **skip}
