"""A task with test data, and execution of the items of a study one after another, without a work queue."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from study_support import build, toy

from dashpot.comparison import Entry, Study, StudyFolder, entry
from dashpot.comparison.execution import execute
from dashpot.comparison.study_items import asked, finished, items, plan, ready_keys
from dashpot.data import Batches
from dashpot.scheduling.work_items import Outcome
from dashpot.tasks import Problem, Task


def build_with_test(seed: int) -> Problem:
    """Build the toy problem with test data, on which the accuracy differs from that on the validation data."""
    x = torch.randn(10, 5, generator=torch.Generator().manual_seed(18))
    y = (x[:, 0] > 0).long()
    return dataclasses.replace(build(seed), test=Batches(x, y, 10))


def with_test(**changes: Any) -> Task:
    """Return the toy task with test data."""
    return toy(**{"build": build_with_test, "margin": 0.05, **changes})


def example_study(*entries: Entry, task: Task | None = None, **settings: Any) -> Study:
    """Return a study of two epochs, by default of Adam with one seed."""
    chosen = entries or (entry("adam", "toy", lr=0.05),)
    given = {"seeds": (0,), "epochs": 2, **settings}
    return Study(task or with_test(), chosen, **given)


def run_item(study: Study, out: Path, key: str = "run/adam/0", outcomes: Any = None, **options: Any) -> Any:
    """Execute one item in a prepared folder."""
    folder = StudyFolder(out)
    folder.prepare(study.settings(), None)
    return execute(study, plan(study, key, outcomes or {}), folder, **options)


def run_all(
    study: Study, out: Path, *, change: Callable[[Outcome], Outcome] = lambda outcome: outcome
) -> dict[str, Outcome]:
    """Execute all items of a study, as a single worker does, and return their outcomes."""
    outcomes: dict[str, Outcome] = {}
    while not finished(study, outcomes):
        ready = ready_keys(study, outcomes)
        key = next(item.key for item in items(study) if item.key in ready and item.key not in outcomes)
        values = asked(study, key)
        ended = run_item(study, out, key, outcomes)
        given: Mapping[str, float] = {} if values is None or values.given is None else values.given
        outcomes[key] = change(Outcome(key, ended.status, ended.score, given, ended.data))
    return outcomes
