"""The first line of a record: everything that is known of a run before its first step."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dashpot.runs.environment import machine, versions
from dashpot.runs.records import FORMAT
from dashpot.runs.study import Study, StudyRun, describe
from dashpot.tasks import Problem

__all__ = ["fingerprint", "run_metadata"]


def run_metadata(
    study: Study, plan: StudyRun, problem: Problem, optimizer: Optimizer, command: str | None
) -> dict[str, Any]:
    """The header of a run that is about to begin."""
    steps = len(problem.train)
    return {
        "kind": "header",
        "format": FORMAT,
        "entry": plan.entry.name,
        "seed": plan.seed,
        "lr": plan.entry.lr,
        "call": plan.entry.call(study.epochs * steps),
        **describe(optimizer),
        "task": {
            "name": study.task.name,
            "description": study.task.description,
            "config": dict(study.task.config),
            "parameters": sum(p.numel() for p in problem.model.parameters()),
            "init": fingerprint(problem.model),
        },
        "score": study.score(problem),
        "epochs": study.epochs,
        "steps_per_epoch": steps,
        "versions": versions(),
        "machine": machine(),
        "command": command,
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def fingerprint(model: nn.Module) -> str:
    """A short hash of every parameter and buffer: equal for equal starting points.

    >>> fingerprint(nn.Linear(1, 1)) == fingerprint(nn.Linear(1, 1))
    False
    """
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
