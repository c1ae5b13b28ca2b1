"""Metadata of a run, stored in the first line of the run's record."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dashpot.runs.entry import Entry
from dashpot.runs.environment import machine, versions
from dashpot.runs.records import FORMAT
from dashpot.runs.study import Study, describe
from dashpot.tasks import Problem


def run_metadata(
    study: Study,
    entry: Entry,
    seed: int,
    problem: Problem | None,
    optimizer: Optimizer | None,
    command: str | None,
    *,
    call: str,
    steps_per_epoch: int | None,
) -> dict[str, Any]:
    """Return the first line of the record of a run, as plain data.

    Args:
        study: Study that contains the run.
        entry: Entry of the run.
        seed: Seed of the run.
        problem: Problem that the task builds for this seed, before training; None if it cannot be built.
        optimizer: Optimizer of the run; None if it cannot be built.
        command: Command line that started the study, or None.
        call: Expression that creates the optimizer.
        steps_per_epoch: Number of steps per epoch, or None if it is unknown.
    """
    return {
        "kind": "header",
        "format": FORMAT,
        "entry": entry.name,
        "seed": seed,
        "lr": entry.lr,
        "call": call,
        **({"recipe": "", "settings": {}} if optimizer is None else describe(optimizer)),
        **({} if entry.file_sha256 is None else {"file_sha256": entry.file_sha256}),
        "task": {
            "name": study.task.name,
            "description": study.task.description,
            "config": dict(study.task.config),
            "parameters": None if problem is None else sum(p.numel() for p in problem.model.parameters()),
            "init": None if problem is None else fingerprint(problem.model),
        },
        "score": study.settings()["score"] if problem is None else study.score(problem),
        "epochs": study.epochs,
        "steps_per_epoch": steps_per_epoch,
        "versions": versions(),
        "machine": machine(),
        "command": command,
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def fingerprint(model: nn.Module) -> str:
    """Return a short hash of all parameters and buffers.

    >>> fingerprint(nn.Linear(1, 1)) == fingerprint(nn.Linear(1, 1))
    False
    """
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
